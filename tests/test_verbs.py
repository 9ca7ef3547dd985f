"""Verbs: what a server says to its connections, and is told of them."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver import (
    ConnectionClosed,
    HandshakeError,
    Router,
    State,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketRequestHandler,
)
from websocketserver.pooling import PoolingWebSocketServer

from .support import SOON, Running, opening_request, raw_client, run_in_thread, running_server, wait_until


class Handler(WebSocketRequestHandler):
    def on_open(self) -> None:
        self.server.told.append(("on_open", self.websocket))

    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)

    def on_close(self, code: int, reason: str) -> None:
        self.server.told.append(("on_close", code))


class Loop(Handler):
    def handle_websocket(self) -> None:
        for message in self.websocket:
            self.websocket.send(message)


class Telling:
    """Keeps what the server is told."""

    told: list[tuple[Any, ...]]

    def connection_opened(self, connection: Any) -> None:
        self.told.append(("opened", connection, threading.get_ident()))

    def connection_closed(self, connection: Any) -> None:
        self.told.append(("closed", connection, threading.get_ident()))

    def handshake_failed(self, handler: Any, error: HandshakeError) -> None:
        self.told.append(("failed", handler.path, error))


class Threaded(Telling, ThreadingWebSocketServer):
    pass


class Pooled(Telling, PoolingWebSocketServer):
    pass


@pytest.fixture(params=[Threaded, Pooled], ids=["threaded", "pooled"])
def server_class(request: pytest.FixtureRequest) -> type:
    return request.param  # type: ignore[no-any-return]


@contextlib.contextmanager
def telling(server_class: type, handler: Any = Handler, **options: Any) -> Iterator[tuple[Running, list[Any]]]:
    told: list[Any] = []
    options.setdefault("server_attributes", {})["told"] = told
    with running_server(handler, server_class=server_class, **options) as running:
        yield running, told


class TestConnections:
    @pytest.mark.parametrize("handler", [Handler, Loop])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_the_server_is_told_before_and_after_the_handler(self, server_class: type, handler: Any, tls: bool) -> None:
        with telling(server_class, handler, tls=tls) as (running, told):
            with WebSocketClient(running.url(), **running.client_options) as client:
                client.send("m")
                assert client.recv(SOON) == "m"
                [connection] = running.server.connections
                assert [call[:2] for call in told] == [("opened", connection), ("on_open", connection)]
                client.close(4000)
            wait_until(lambda: len(told) == 4)
            assert [call[:2] for call in told[2:]] == [("on_close", 4000), ("closed", connection)]
            wait_until(lambda: running.server.connections == [])

    def test_each_in_the_handlers_thread(self) -> None:
        with telling(Threaded) as (running, told):
            for _ in range(2):
                WebSocketClient(running.url()).close()
            wait_until(lambda: len(told) == 8)
            opened = {call[1]: call[2] for call in told if call[0] == "opened"}
            closed = {call[1]: call[2] for call in told if call[0] == "closed"}
            assert opened == closed

    def test_a_failing_connection_opened_closes(self, server_class: type) -> None:
        def fail(self: Any, connection: Any) -> None:
            raise LookupError("mine")

        kind = type("Failing", (server_class,), {"connection_opened": fail})
        with telling(kind, errors_expected=True) as (running, told):
            with raw_client(running) as peer:
                assert peer.read_close() == 1011
            wait_until(lambda: told and told[-1][0] == "closed")
            assert [call[0] for call in told] == ["on_close", "closed"]
            assert [str(error) for error in running.errors] == ["mine"]

    @pytest.mark.parametrize("hook", ["on_close", "connection_closed"])
    def test_a_failing_last_hook_is_reported(self, server_class: type, hook: str) -> None:
        def fail(self: Any, *args: Any) -> None:
            raise LookupError("mine")

        failing = {hook: fail}
        handler = type("Failing", (Handler,), failing if hook == "on_close" else {})
        kind = type("Failing", (server_class,), failing if hook != "on_close" else {})
        with telling(kind, handler, errors_expected=True) as (running, told):
            WebSocketClient(running.url()).close()
            wait_until(lambda: len(told) == 3 and running.errors)
            assert told[-1][0] == ("closed" if hook == "on_close" else "on_close")
            assert [str(error) for error in running.errors] == ["mine"]

    def test_the_connection_can_be_used_when_it_has_opened(self, server_class: type) -> None:
        def greet(self: Any, connection: Any) -> None:
            connection.send("welcome")

        kind = type("Greeting", (server_class,), {"connection_opened": greet})
        with telling(kind) as (running, _), WebSocketClient(running.url()) as client:
            assert client.recv(SOON) == "welcome"


class TestFailedHandshakes:
    def failure(self, told: list[Any]) -> Any:
        wait_until(lambda: told)
        [(name, path, error)] = told
        assert (name, path) == ("failed", "/where")
        assert isinstance(error, HandshakeError)
        return error

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Sec-WebSocket-Version": "7"}, 426),
            ({"Sec-WebSocket-Key": None}, 400),
            ({"Origin": "https://elsewhere.example"}, 403),
        ],
    )
    def test_what_is_refused(self, server_class: type, headers: Any, status: int) -> None:
        with telling(server_class) as (running, told), raw_client(running, "/where", headers=headers, status=status):
            assert self.failure(told).status == status

    @pytest.mark.parametrize("how", ["status", "send_error", "send_response"])
    def test_what_the_application_refuses(self, server_class: type, how: str) -> None:
        class Refusing(Handler):
            def authorize(self) -> HTTPStatus | None:
                if how == "status":
                    return HTTPStatus.PAYMENT_REQUIRED
                if how == "send_error":
                    self.send_error(402)
                else:
                    self.send_response(402)
                return None

        with telling(server_class, Refusing) as (running, told), raw_client(running, "/where", status=402):
            assert self.failure(told).status == 402

    def test_a_hook_that_fails(self, server_class: type) -> None:
        class Failing(Handler):
            def authorize(self) -> HTTPStatus | None:
                raise LookupError("mine")

        with telling(server_class, Failing, errors_expected=True) as (running, told):
            with raw_client(running, "/where", status=500):
                error = self.failure(told)
            assert error.status == 500
            assert isinstance(error.__cause__, LookupError)

    def test_what_no_route_serves(self, server_class: type) -> None:
        router = Router()
        router.mount("/elsewhere", Handler)
        with telling(server_class, router) as (running, told), raw_client(running, "/where", status=404):
            assert self.failure(told).status == 404

    def test_what_a_route_refuses_is_told_once(self, server_class: type) -> None:
        class Refusing(Handler):
            def authorize(self) -> HTTPStatus | None:
                return HTTPStatus.GONE

        router = Router()
        router.mount("/where", Refusing)
        with telling(server_class, router) as (running, told):
            with raw_client(running, "/where", status=410):
                assert self.failure(told).status == 410
            with raw_client(running, "/where", status=410):
                wait_until(lambda: len(told) == 2)

    def test_a_client_that_leaves_before_the_answer(self, server_class: type) -> None:
        asked = threading.Event()

        class Slow(Handler):
            def authorize(self) -> HTTPStatus | None:
                asked.set()
                poller = select.poll()
                poller.register(self.connection, 0)
                assert poller.poll(SOON * 1000)  # the peer's reset
                return None

        with telling(server_class, Slow) as (running, told):
            with socket.create_connection(running.address) as sock:
                sock.sendall(opening_request("/where"))
                assert asked.wait(SOON)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert self.failure(told).status is None

    def test_ordinary_http_is_no_handshake(self, server_class: type) -> None:
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        with telling(server_class) as (running, told):
            with raw_client(running, request=request, status=426):
                pass
            with raw_client(running, request=b"nonsense\r\n\r\n", status=400):
                pass
            assert told == []

    def test_a_failing_hook_is_reported(self, server_class: type) -> None:
        def fail(self: Any, handler: Any, error: Any) -> None:
            raise LookupError("mine")

        kind = type("Failing", (server_class,), {"handshake_failed": fail})
        with telling(kind, errors_expected=True) as (running, _):
            with raw_client(running, headers={"Sec-WebSocket-Key": None}, status=400):
                pass
            wait_until(lambda: running.errors)
            assert [str(error) for error in running.errors] == ["mine"]

    def test_an_upgrade_unanswered_at_the_shutdown_gets_503(self, server_class: type) -> None:
        asked, go_on = threading.Event(), threading.Event()

        class Slow(Handler):
            def authorize(self) -> HTTPStatus | None:
                asked.set()
                assert go_on.wait(SOON)
                return None

        with telling(server_class, Slow) as (running, told):
            requesting = run_in_thread(self.answered_503, running)
            assert asked.wait(SOON)
            stopping = run_in_thread(running.server.shutdown)
            wait_until(lambda: running.server.registry._closing is not None)
            go_on.set()
            requesting.result()
            stopping.result()
            assert self.failure(told).status == 503

    def answered_503(self, running: Running) -> None:
        with raw_client(running, "/where", status=503) as peer:
            assert b"Retry-After" in peer.head


class TestClosingAll:
    def test_all_are_closed_and_the_server_goes_on(self, server_class: type) -> None:
        with telling(server_class) as (running, _):
            clients = [WebSocketClient(running.url()) for _ in range(3)]
            wait_until(lambda: len(running.server.connections) == 3)
            assert running.server.close_connections(4001, "enough") == 3
            for client in clients:
                with pytest.raises(ConnectionClosed) as caught:
                    client.recv(SOON)
                assert (caught.value.code, caught.value.reason) == (4001, "enough")
                client.close()
            wait_until(lambda: running.server.connections == [])
            assert running.server.close_connections() == 0
            with WebSocketClient(running.url()) as client:
                client.send("m")
                assert client.recv(SOON) == "m"

    def test_by_default_the_server_is_going_away(self) -> None:
        with telling(Threaded) as (running, _), raw_client(running) as peer:
            wait_until(lambda: running.server.connections)
            running.server.close_connections()
            assert peer.read_close() == 1001

    def test_it_does_not_wait(self) -> None:
        with telling(Threaded) as (running, _), raw_client(running):
            wait_until(lambda: running.server.connections)
            [connection] = running.server.connections
            assert running.server.close_connections() == 1
            assert connection.state is State.CLOSING
            assert running.server.close_connections() == 0

    @pytest.mark.parametrize(("code", "reason", "error"), [(1006, "", ValueError), ("1000", "", TypeError)])
    def test_what_may_not_be_sent_is_refused(self, code: Any, reason: str, error: type[Exception]) -> None:
        with telling(Threaded) as (running, _), pytest.raises(error):
            running.server.close_connections(code, reason)

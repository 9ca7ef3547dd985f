"""WebSocketRequestHandler: the upgrade, the hooks, and the life of a connection, under every kind of server."""

from __future__ import annotations

import functools
import http.server
import socket
import struct
import sys
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from websocketserver.exceptions import ConnectionClosed
from websocketserver.handler import WebSocketRequestHandler
from websocketserver.protocol.events import Message
from websocketserver.server import ThreadingWebSocketServer, WebSocketServer

from .serving import (
    Quiet,
    default_server,
    events,
    leave,
    lines,
    pytest_generate_tests,
    server_class,
    serving,
)
from .support import (
    MASK,
    SOON,
    RawPeer,
    Running,
    frame,
    opening_request,
    raw_client,
    run_in_thread,
    running_server,
    wait_until,
)

__all__ = ["default_server", "pytest_generate_tests", "server_class"]  # under every server

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class TestHooks:
    def test_run_in_order_under_every_server(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, "grüß".encode())
            assert peer.read_frame()[:2] == (TEXT, "grüß".encode())
            peer.frame(BINARY, b"\x00\xff")
            assert peer.read_frame()[:2] == (BINARY, b"\x00\xff")
            leave(peer, 1000, "bye")
            assert peer.read_close() == 1000
            wait_until(lambda: len(events(running)) == 4)
        assert events(running) == ["open", "grüß", b"\x00\xff", (1000, "bye")]

    def test_pings_and_pongs_come_in_wire_order(self) -> None:
        class Handler(Quiet):
            def on_ping(self, payload: bytes) -> None:
                self.events.append(("ping", payload))

            def on_pong(self, payload: bytes) -> None:
                self.events.append(("pong", payload))

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(PING, b"1")
            peer.frame(TEXT, b"2")
            peer.frame(PONG, b"3")
            leave(peer)
            assert peer.read_frame()[:2] == (PONG, b"1")
            assert peer.read_close() == 1000
            wait_until(lambda: len(events(running)) == 5)
        assert events(running) == ["open", ("ping", b"1"), "2", ("pong", b"3"), (1000, "")]

    def test_fragments_replace_messages(self) -> None:
        class Handler(Quiet):
            def on_fragment(self, fragment: Any) -> None:
                self.events.append((fragment.data, fragment.fin))

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"one ", fin=False)
            wait_until(lambda: len(events(running)) == 2)
            peer.frame(0, b"two")
            wait_until(lambda: len(events(running)) == 3)
            leave(peer)
            peer.read_close()
            wait_until(lambda: len(events(running)) == 4)
        assert events(running) == ["open", ("one ", False), ("two", True), (1000, "")]

    def test_own_loop_has_on_open_and_on_close_only(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_ping(self, payload: bytes) -> None:
                self.events.append("ping")

            def handle_websocket(self) -> None:
                for message in self.websocket:
                    self.websocket.send(message.upper())

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(PING)
            peer.frame(TEXT, b"loud")
            assert peer.read_frame().opcode == PONG
            assert peer.read_frame().payload == b"LOUD"
            leave(peer, 1001)
            peer.read_close()
            wait_until(lambda: len(events(running)) == 2)
        assert events(running) == ["open", (1001, "")]

    def test_return_of_the_own_loop_closes_with_1000(self, server_class: Any) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                self.websocket.send("that was it")

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            assert peer.read_frame().payload == b"that was it"
            assert peer.read_close() == 1000
            leave(peer)
            assert peer.read_to_end() == b""
            wait_until(lambda: len(events(running)) == 2)
        assert events(running) == ["open", (1000, "")]

    def test_own_loop_may_go_on_with_the_default_one(self) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                self.events.append(self.websocket.recv(SOON))
                super().handle_websocket()

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"token")
            peer.frame(TEXT, b"echo")
            assert peer.read_frame().payload == b"echo"
            leave(peer)
            peer.read_close()
            wait_until(lambda: len(events(running)) == 4)
        assert events(running) == ["open", "token", "echo", (1000, "")]

    def test_text_is_str_also_after_it_was_read_undecoded(self) -> None:
        class Handler(Quiet):
            def handle_websocket(self) -> None:
                self.events.append(self.websocket.recv(SOON, decode=False))
                super().handle_websocket()

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"one")
            peer.frame(TEXT, b"two")
            assert peer.read_frame().payload == b"two"
            leave(peer)
            peer.read_close()
        assert events(running)[1:3] == [b"one", "two"]


class TestOnClose:
    """It is called exactly once for each connection that got its 101, on every path."""

    def end(self, running: Running) -> tuple[int, str]:
        wait_until(lambda: len(events(running)) > 1 and isinstance(events(running)[-1], tuple))
        closes = [event for event in events(running) if isinstance(event, tuple)]
        assert len(closes) == 1
        code, reason = closes[0]
        return code, reason

    def test_after_the_peers_close(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            leave(peer, 4000, "mine")
            peer.read_close()
            assert self.end(running) == (4000, "mine")

    def test_after_a_close_without_a_code(self) -> None:
        with serving() as running, raw_client(running) as peer:
            peer.frame(CLOSE)
            peer.sock.shutdown(socket.SHUT_WR)
            assert self.end(running) == (1005, "")

    def test_after_the_end_of_the_stream(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running:
            with raw_client(running):
                pass
            assert self.end(running)[0] == 1006

    def test_after_a_reset(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running:
            with raw_client(running) as peer:
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            assert self.end(running)[0] == 1006
        assert running.errors == []

    def test_after_a_violation(self) -> None:
        with serving() as running, raw_client(running) as peer:
            peer.send(frame(TEXT, b"unmasked"))
            assert peer.read_close() == 1002
            leave(peer, 1002)
            assert self.end(running)[0] in (1002, 1006)
            assert any("closed 10" in line and "frame is not masked" in line for line in lines(running))

    def test_after_a_close_of_ours(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.close(4001, "enough")

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 4001
            leave(peer, 4001, "enough")
            assert self.end(running) == (4001, "enough")

    def test_after_an_abort_of_ours(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.abort()

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert self.end(running)[0] == 1006

    def test_after_a_peer_that_never_answers(self) -> None:
        class Handler(Quiet):
            close_timeout = 0.2

            def handle_websocket(self) -> None:
                pass

        with serving(Handler) as running, raw_client(running) as peer:
            assert peer.read_close() == 1000
            assert self.end(running)[0] == 1006

    def test_after_an_exception(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                raise LookupError("mine")

        with serving(Handler, server_class=server_class, errors_expected=True) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1011
            leave(peer, 1011)
            assert self.end(running)[0] == 1011
        assert [str(error) for error in running.errors] == ["mine"]

    def test_after_the_shutdown(self) -> None:
        with serving() as running:
            with raw_client(running) as peer:
                handle = run_in_thread(running.server.shutdown, code=1012, reason="restart")
                got = peer.read_frame()
                assert (got.opcode, got.payload) == (CLOSE, struct.pack("!H", 1012) + b"restart")
                leave(peer, 1012)
                handle.result()
            assert self.end(running)[0] == 1012

    def test_not_without_a_101(self) -> None:
        with serving() as running:
            with raw_client(running, headers={"Sec-WebSocket-Version": "7"}, status=426):
                pass
        assert events(running) == []


def test_a_stand_in_for_the_connection_is_served_too() -> None:
    """As a test of somebody's handler may have it, with neither socket nor server."""

    class Handler(WebSocketRequestHandler):
        def on_message(self, message: str | bytes) -> None:
            self.websocket.send(message)

    sent: list[str | bytes] = []
    handler: Any = Handler.__new__(Handler)
    handler.websocket = SimpleNamespace(events=lambda: [Message("one", True), Message("two", True)], send=sent.append)
    handler.handle_websocket()
    assert sent == ["one", "two"]


class TestExceptions:
    @pytest.mark.parametrize("hook", ["on_open", "on_message", "handle_websocket"])
    def test_are_reported_once_and_close_with_1011(self, server_class: Any, hook: str) -> None:
        def fail(self: Any, *args: Any) -> None:
            raise LookupError(hook)

        handler = type("Failing", (Quiet,), {hook: fail})
        with serving(handler, server_class=server_class, errors_expected=True) as running:
            with raw_client(running) as peer:
                if hook == "on_message":
                    peer.frame(TEXT, b"x")
                assert peer.read_close() == 1011
                leave(peer, 1011)
                assert peer.read_to_end() == b""
            with raw_client(running) as peer:  # the server lives
                leave(peer)
                peer.read_close()
                peer.read_to_end()
        expected = 1 if hook == "on_message" else 2
        assert [error.args for error in running.errors] == [(hook,)] * expected

    def test_in_on_close_are_reported_once(self) -> None:
        class Handler(Quiet):
            def on_close(self, code: int, reason: str) -> None:
                raise LookupError("on_close")

        with serving(Handler, errors_expected=True) as running, raw_client(running) as peer:
            leave(peer)
            assert peer.read_close() == 1000
            wait_until(lambda: running.errors)
        assert [error.args for error in running.errors] == [("on_close",)]

    def test_a_timeout_of_the_application_is_not_swallowed(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                raise TimeoutError("the database")

        with serving(Handler, server_class=server_class, errors_expected=True) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1011
            leave(peer, 1011)
            peer.read_to_end()
        assert [str(error) for error in running.errors] == ["the database"]

    def test_a_peer_that_does_not_read_is_no_error(self, server_class: Any) -> None:
        class Handler(Quiet):
            send_timeout = 0.2
            compression = None

            def on_message(self, message: str | bytes) -> None:
                self.websocket.send(bytes(1 << 26))

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            wait_until(lambda: events(running) and isinstance(events(running)[-1], tuple))
            assert events(running)[-1][0] == 1006
        assert len(lines(running)) == 2
        assert "could not be sent in time" in lines(running)[1]

    def test_the_end_of_the_connection_may_escape_any_hook(self, server_class: Any) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.websocket.close()
                self.websocket.send("too late")

            def on_close(self, code: int, reason: str) -> None:
                super().on_close(code, reason)
                self.websocket.send("too late")

        with serving(Handler, server_class=server_class) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1000
            leave(peer)
            wait_until(lambda: (1000, "") in events(running))

    def test_the_end_of_another_connection_is_an_error(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                raise ConnectionClosed(None, None, "of an upstream connection")

        with serving(Handler, errors_expected=True) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1011
            leave(peer, 1011)
            peer.read_to_end()
        assert len(running.errors) == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_system_exit_ends_the_connection_quickly(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                raise SystemExit

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_close() == 1001
            leave(peer, 1001)
            wait_until(lambda: (1001, "") in events(running))

    def test_an_interrupt_passes_through_the_serving_thread(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                raise KeyboardInterrupt

        with WebSocketServer(("127.0.0.1", 0), type("Own", (Handler,), {"events": [], "lines": []})) as server:
            handle = run_in_thread(server.handle_request)
            sock = socket.create_connection(server.server_address, SOON)
            sock.sendall(opening_request() + frame(TEXT, b"x", key=MASK))
            with RawPeer(sock, masks=True) as peer:
                received = b""
                while b"\r\n\r\n" not in received:
                    received += sock.recv(1)
                assert peer.read_close() == 1001
                leave(peer, 1001)
                with pytest.raises(KeyboardInterrupt):
                    handle.result()
        assert server.RequestHandlerClass.events == ["open", (1001, "")]  # type: ignore[attr-defined]


class TestOrdinaryRequests:
    def fetch(self, running: Running, request: str) -> tuple[str, str]:
        """Send a request that ends the connection; return (head, body)."""
        with socket.create_connection(running.address[:2], SOON) as sock:
            sock.sendall(request.replace("\n", "\r\n").encode())
            with RawPeer(sock, masks=True) as peer:
                head, _, body = peer.read_to_end().decode().partition("\r\n\r\n")
                return head, body

    def test_reach_their_method(self, server_class: Any) -> None:
        class Handler(Quiet):
            def do_GET(self) -> None:
                self.send_response(HTTPStatus.OK)
                self.end_headers()
                self.wfile.write(b"page of " + self.path.encode())

        with serving(Handler, server_class=server_class) as running:
            head, body = self.fetch(running, "GET /here HTTP/1.1\nHost: x\n\n")
            assert head.startswith("HTTP/1.0 200")
            assert body == "page of /here"
            head, _ = self.fetch(running, "PUT / HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc")
            assert head.startswith("HTTP/1.1 501")
            with raw_client(running) as peer:
                leave(peer)
                assert peer.read_close() == 1000

    def test_are_asked_to_upgrade_where_there_is_no_page(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running:
            head, body = self.fetch(running, "GET / HTTP/1.1\nHost: x\n\n")
            assert head.startswith("HTTP/1.1 426 Upgrade Required")
            assert "Upgrade: websocket" in head
            assert "Connection: Upgrade, close" in head
            assert "Sec-WebSocket-Version: 13, 8" in head
            assert "WebSocket" in body
            head, body = self.fetch(running, "HEAD / HTTP/1.1\nHost: x\n\n")
            assert head.startswith("HTTP/1.1 426")
            assert body == ""
            head, body = self.fetch(running, "POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
            assert head.startswith("HTTP/1.1 405")
            assert "Allow: GET" in head

    def test_may_precede_the_upgrade(self, server_class: Any) -> None:
        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
        with serving(Handler, server_class=server_class) as running:
            with socket.create_connection(running.address[:2], SOON) as sock, RawPeer(sock, masks=True) as peer:
                for _ in range(3):
                    sock.sendall(post)
                    received = b""
                    while not received.endswith(b"body"):
                        received += sock.recv(4096)
                    assert received.startswith(b"HTTP/1.1 200")
                sock.sendall(post + opening_request() + frame(TEXT, b"glued", key=MASK))
                received = b""
                while b"101 Switching" not in received or not received.endswith(b"glued"):
                    received += sock.recv(4096)
                leave(peer)
                assert peer.read_close() == 1000

    def test_of_files_beside_a_websocket(self, server_class: Any, tmp_path: Path) -> None:
        class Site(Quiet, http.server.SimpleHTTPRequestHandler):
            events: list[Any] = []
            lines: list[str] = []

        (tmp_path / "page.html").write_text("<p>page")
        handler = functools.partial(Site, directory=str(tmp_path))
        with running_server(handler, server_class=server_class) as running:
            head, body = self.fetch(running, "GET /page.html HTTP/1.1\nHost: x\n\n")
            assert head.startswith("HTTP/1.0 200")
            assert body == "<p>page"
            head, _ = self.fetch(running, "GET /none.html HTTP/1.1\nHost: x\n\n")
            assert head.startswith("HTTP/1.0 404")
            with raw_client(running, "/page.html") as peer:
                peer.frame(TEXT, b"x")
                assert peer.read_frame().payload == b"x"
                leave(peer)
                assert peer.read_close() == 1000
            wait_until(lambda: len(Site.events) == 3)

    def test_of_files_never_redirect_to_another_host(self, tmp_path: Path) -> None:
        class Site(Quiet, http.server.SimpleHTTPRequestHandler):
            events: list[Any] = []
            lines: list[str] = []

        (tmp_path / "evil.example").mkdir()
        handler = functools.partial(Site, directory=str(tmp_path))
        with running_server(handler, server_class=ThreadingWebSocketServer) as running:
            head, _ = self.fetch(running, "GET //evil.example HTTP/1.1\nHost: x\n\n")
            assert "Location: /evil.example/" in head.split("\r\n")


class TestAfterTheUpgrade:
    def test_the_names_of_attributes_are_shared_by_all_instances(self) -> None:
        """They are as long as there are 29 at most, two of the application's included (from CPython 3.11 on)."""
        sizes: list[int] = []

        class Handler(Quiet):
            def on_open(self) -> None:
                self.name, self.room = "name", "room"

            def on_close(self, code: int, reason: str) -> None:
                sizes.append(sys.getsizeof(vars(self)))

        with serving(Handler) as running:
            for _ in range(3):
                with raw_client(running) as peer:
                    leave(peer)
                    assert peer.read_close() == 1000
            wait_until(lambda: len(sizes) == 3)
        assert sizes[-1] < (400 if sys.version_info >= (3, 11) else 1500)

    @pytest.mark.parametrize(
        ("act", "says"),
        [
            (lambda self: self.rfile.read(1), "recv"),
            (lambda self: self.rfile.readline(), "recv"),
            (lambda self: list(self.rfile), "recv"),
            (lambda self: self.wfile.write(b"x"), "send"),
            (lambda self: self.send_response(200), "send"),
        ],
    )
    def test_http_explains_what_to_use_instead(self, act: Any, says: str) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                try:
                    act(self)
                except RuntimeError as error:
                    self.websocket.send(str(error))

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            answer = peer.read_frame().payload.decode()
            assert "self.websocket" in answer and says in answer
            leave(peer)
            assert peer.read_close() == 1000

    def test_send_error_closes_with_1011_and_writes_no_page(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "out of order")

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            got = peer.read_frame()
            assert (got.opcode, got.payload) == (CLOSE, struct.pack("!H", 1011) + b"out of order")
            leave(peer, 1011)
            assert peer.read_to_end() == b""

    def test_send_error_cuts_its_reason_to_what_fits(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.send_error(500, "ü" * 100)

        with serving(Handler) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"x")
            assert peer.read_frame().payload[2:].decode() == "ü" * 61
            leave(peer, 1011)

    def test_a_finish_of_the_users_may_flush_and_close(self) -> None:
        class Handler(Quiet):
            def finish(self) -> None:
                if not self.wfile.closed:
                    self.wfile.flush()
                self.rfile.close()
                super().finish()
                self.events.append("finished")

        with serving(Handler) as running, raw_client(running) as peer:
            leave(peer)
            peer.read_close()
            wait_until(lambda: events(running)[-1] == "finished")
        assert events(running) == ["open", (1000, ""), "finished"]

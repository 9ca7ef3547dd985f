"""WebSocketClient: from a URL to an open connection, or to one clear error and nothing left behind."""

from __future__ import annotations

import contextlib
import inspect
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from websocketserver import (
    ConnectionClosed,
    ConnectionClosedOK,
    Fragment,
    HandshakeError,
    PerMessageDeflate,
    Settings,
    State,
    ThreadingUnixWebSocketServer,
    WebSocketClient,
    WebSocketRequestHandler,
)
from websocketserver import connection as connection_module

from .support import (
    MS,
    SOON,
    RawPeer,
    Running,
    certificates,
    closed_port,
    frame,
    run_in_thread,
    running_server,
    socket_pair,
    wait_until,
)
from .test_opening import read_head, switching


class Echo(WebSocketRequestHandler):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


class Mirror(WebSocketRequestHandler):
    """Tells what the request said."""

    subprotocols = ("chat", "other")

    def check_origin(self, origin: str | None) -> bool:
        return True

    def on_open(self) -> None:
        request = self.websocket.request
        assert request is not None
        told = {"target": request.target, "version": request.version, "origin": request.origin}
        told |= {"subprotocols": request.subprotocols, "cookies": request.cookies, "host": request.host}
        told |= {"headers": [f"{name}: {value}" for name, value in request.headers.items()]}
        self.websocket.send(json.dumps(told))


@pytest.fixture
def echo() -> Iterator[Running]:
    with running_server(Echo) as running:
        yield running


@pytest.fixture
def mirror() -> Iterator[Running]:
    with running_server(Mirror) as running:
        yield running


@pytest.fixture
def nobody_listens() -> int:
    return closed_port()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test that opens a socket or asks for an address."""

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("nothing may be connected")

    monkeypatch.setattr(socket, "socket", never)
    monkeypatch.setattr(socket, "getaddrinfo", never)


def told(url: str, **options: Any) -> dict[str, Any]:
    """What a Mirror saw of the request."""
    with WebSocketClient(url, **options) as websocket:
        result: dict[str, Any] = json.loads(websocket.recv(SOON))
        return result


@contextlib.contextmanager
def by_hand(script: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Yield the URL of a server for one client: the script gets its socket and its request."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(SOON)
            script(sock, read_head(sock))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        server = run_in_thread(serve)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        server.result()


class TestConnecting:
    def test_it_is_open_and_closes_at_the_end(self, echo: Running) -> None:
        with WebSocketClient(echo.url()) as websocket:
            assert websocket.state is State.OPEN
            assert websocket.url == echo.url()
            assert websocket.response is not None and websocket.response.status == 101
            assert websocket.request is None
            assert websocket.remote_address == echo.address
            websocket.send("hello")
            assert websocket.recv(SOON) == "hello"
        assert websocket.state is State.CLOSED
        assert (websocket.close_code, websocket.fileno()) == (1000, -1)
        with pytest.raises(ConnectionClosedOK):
            websocket.recv(0)

    def test_it_closes_without_a_block_too(self, echo: Running) -> None:
        websocket = WebSocketClient(echo.url())
        websocket.close(1001, "bye")
        assert (websocket.close_code, websocket.state) == (1001, State.CLOSED)

    def test_a_name(self, echo: Running) -> None:
        with WebSocketClient(f"ws://localhost:{echo.port}/") as websocket:
            assert websocket.remote_address == echo.address

    def test_ipv6(self) -> None:
        with running_server(Mirror, address=("::1", 0)) as running:
            assert running.url().startswith("ws://[::1]:")
            assert told(running.url())["host"] == f"[::1]:{running.port}"

    def test_every_address_is_tried(self, echo: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        ports = [closed_port(), echo.port]

        def getaddrinfo(host: str, port: int, *args: Any, flags: int = 0, **options: Any) -> list[Any]:
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with WebSocketClient("ws://somewhere.example/") as websocket:
            assert websocket.remote_address == echo.address

    def test_a_socket_that_is_connected(self, mirror: Running) -> None:
        sock = socket.create_connection(mirror.address)
        assert told("ws://somewhere.example:81/x", sock=sock)["host"] == "somewhere.example:81"
        assert sock.fileno() == -1

    def test_the_end_is_told_where_the_socket_is_held_elsewhere_too(self, mirror: Running) -> None:
        """By shutting it down: closing the descriptor tells nobody, as long as there is another."""
        sock = socket.create_connection(mirror.address)
        with sock.dup() as other, WebSocketClient("ws://somewhere.example/", sock=sock) as websocket:
            websocket.close()
            with pytest.raises(OSError):
                other.send(b"x")

    def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        with running_server(Mirror, server_class=ThreadingUnixWebSocketServer, address=path):
            assert told("ws://localhost/x", unix_path=path)["target"] == "/x"
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            assert told("ws://localhost/y", sock=sock)["target"] == "/y"

    def test_the_address_to_connect_from(self, echo: Running) -> None:
        port = closed_port()
        with WebSocketClient(echo.url(), source_address=("127.0.0.1", port)) as websocket:
            assert websocket.local_address == ("127.0.0.1", port)

    def test_without_a_time_limit(self, echo: Running) -> None:
        with WebSocketClient(echo.url(), connect_timeout=None) as websocket:
            websocket.send(b"\0")
            assert websocket.recv(SOON) == b"\0"

    def test_large_messages_both_ways(self) -> None:
        with running_server(Echo, max_message_size=None) as running:
            with WebSocketClient(running.url(), max_message_size=None) as websocket:
                websocket.send(b"\xff" * 3_000_000)
                assert websocket.recv(SOON) == b"\xff" * 3_000_000


class TestRequest:
    def test_path_and_query_are_kept(self, mirror: Running) -> None:
        assert told(mirror.url("/a/b%20c?d=e&f=%2F"))["target"] == "/a/b%20c?d=e&f=%2F"

    def test_everything_at_once(self, mirror: Running) -> None:
        got = told(
            f"ws://me:secret@127.0.0.1:{mirror.port}/",
            subprotocols=["first", "chat"],
            origin="https://example.com",
            headers=[("X-A", "1"), ("X-A", "2")],
            cookies={"a": "1", "b": "2"},
        )
        assert got["subprotocols"] == ["first", "chat"]
        assert got["origin"] == "https://example.com"
        assert got["cookies"] == {"a": "1", "b": "2"}
        assert got["host"] == f"127.0.0.1:{mirror.port}"
        assert {"X-A: 1", "X-A: 2", "Authorization: Basic bWU6c2VjcmV0"} <= set(got["headers"])

    def test_by_default_it_has_no_origin_and_offers_compression(self, mirror: Running) -> None:
        got = told(mirror.url())
        assert (got["origin"], got["version"], got["cookies"], got["subprotocols"]) == (None, 13, {}, [])
        assert any(line.startswith("Sec-WebSocket-Extensions: permessage-deflate") for line in got["headers"])

    def test_version_8(self, mirror: Running) -> None:
        got = told(mirror.url(), websocket_version=8, origin="https://example.com")
        assert (got["version"], got["origin"]) == (8, "https://example.com")
        assert "Sec-WebSocket-Origin: https://example.com" in got["headers"]

    def test_the_subprotocol_that_was_agreed_on(self, mirror: Running) -> None:
        for offered, agreed in ((["first", "other"], "other"), (["first"], None), ([], None)):
            with WebSocketClient(mirror.url(), subprotocols=offered) as websocket:
                assert websocket.subprotocol == agreed

    def test_the_extensions_that_were_agreed_on(self, echo: Running) -> None:
        for compression, names in ((PerMessageDeflate(threshold=0), ["permessage-deflate"]), (None, [])):
            with WebSocketClient(echo.url(), compression=compression) as websocket:
                assert [codec.name for codec in websocket.extensions] == names
                websocket.send("hello " * 100)
                assert websocket.recv(SOON) == "hello " * 100


class TestSettings:
    def test_all_settings_of_a_connection_are_arguments_with_the_same_defaults(self) -> None:
        parameters = inspect.signature(WebSocketClient).parameters
        for field in fields(Settings):
            assert parameters[field.name].default == field.default
            assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY

    def test_they_reach_the_connection(self, echo: Running) -> None:
        options: dict[str, Any] = {"max_message_size": 5, "max_frame_size": 6, "max_fragments": 7, "max_queue_size": 8}
        options |= {"fragment_size": 9, "compression": None, "extensions": (), "send_timeout": 13.0}
        options |= {"ping_interval": 11.0, "ping_timeout": 12.0, "close_timeout": 4.0}
        options |= {"tcp_keepalive": 14.0, "disable_nagle_algorithm": False}
        with WebSocketClient(echo.url(), **options) as websocket:
            assert vars(websocket.settings) == options


@pytest.mark.usefixtures("nobody")
class TestArguments:
    """What makes no sense is told before anything is connected."""

    @pytest.mark.parametrize("bad", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "\x7f"])
    @pytest.mark.parametrize(
        "where",
        [
            lambda bad: {"url": f"ws://localhost/{bad}"},
            lambda bad: {"url": f"ws://{bad}/"},
            lambda bad: {"headers": {"X-A": bad}},
            lambda bad: {"headers": {bad: "x"}},
            lambda bad: {"origin": bad},
            lambda bad: {"subprotocols": ["chat", bad]},
            lambda bad: {"cookies": {"a": bad}},
            lambda bad: {"cookies": {bad: "a"}},
        ],
    )
    def test_control_characters(self, where: Callable[[str], dict[str, Any]], bad: str) -> None:
        with pytest.raises(ValueError):
            WebSocketClient(**{"url": "ws://localhost/", **where(bad)})

    @pytest.mark.parametrize(
        "options",
        [
            {"url": "http://localhost/"},
            {"url": "localhost:8000"},
            {"url": "ws://localhost/#top"},
            {"subprotocols": ["a", "a"]},
            {"headers": {"Sec-WebSocket-Version": "13"}},
            {"websocket_version": 0},
            {"connect_timeout": 0},
            {"connect_timeout": -1},
            {"connect_timeout": float("nan")},
            {"connect_timeout": float("inf")},
            {"max_message_size": -1},
            {"close_timeout": 0},
            {"unix_path": "/none", "source_address": ("127.0.0.1", 0)},
            {"ssl_context": ssl.create_default_context()},
        ],
    )
    def test_values(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            WebSocketClient(**{"url": "ws://localhost/", **options})

    @pytest.mark.parametrize(
        "options",
        [
            {"url": None},
            {"subprotocols": "chat"},
            {"headers": {"X-A": 1}},
            {"connect_timeout": "5"},
            {"ping_interval": "5"},
            {"compression": True},
            {"close_timeout": None},
            {"url": "wss://localhost/", "ssl_context": True},
        ],
    )
    def test_types(self, options: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            WebSocketClient(**{"url": "ws://localhost/", **options})


def test_a_socket_is_a_socket_and_the_only_way() -> None:
    with pytest.raises(TypeError, match="sock"):
        WebSocketClient("ws://localhost/", sock=5)  # type: ignore[arg-type]
    ours, theirs = socket_pair()
    with ours, theirs:
        with pytest.raises(ValueError, match="at most one"):
            WebSocketClient("ws://localhost/", sock=ours, unix_path="/none")
        assert ours.fileno() != -1  # it is still the caller's


def test_the_url_is_the_only_argument_without_a_name() -> None:
    with pytest.raises(TypeError):
        WebSocketClient("ws://localhost/", ["chat"])  # type: ignore[misc]


class TestTLS:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_who_is_trusted(self, host: str) -> None:
        with running_server(Echo, tls=True) as running:
            url = f"wss://{host}:{running.port}/"
            with WebSocketClient(url, ssl_context=certificates().client) as websocket:
                websocket.send("hello")
                assert websocket.recv(SOON) == "hello"

    def test_by_default_a_certificate_of_ones_own_is_refused(self) -> None:
        with running_server(Echo, tls=True) as running, pytest.raises(ssl.SSLCertVerificationError):
            WebSocketClient(running.url())

    def test_another_host_is_refused(self) -> None:
        with running_server(Echo, tls=True) as running:
            sock = socket.create_connection(running.address)
            with pytest.raises(ssl.SSLCertVerificationError, match="example"):
                WebSocketClient("wss://other.example/", sock=sock, ssl_context=certificates().client)
            assert sock.fileno() == -1

    def test_the_default_context(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[ssl.SSLContext] = []
        real = ssl.create_default_context

        def create_default_context(*args: Any, **options: Any) -> ssl.SSLContext:
            made.append(real(*args, **options))
            certificates().authority.configure_trust(made[-1])
            return made[-1]

        monkeypatch.setattr(ssl, "create_default_context", create_default_context)
        with running_server(Echo, tls=True) as running:
            with WebSocketClient(f"wss://localhost:{running.port}/") as websocket:
                websocket.send("hello")
                assert websocket.recv(SOON) == "hello"
        [context] = made
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION

    def test_a_socket_that_speaks_tls_already(self) -> None:
        with running_server(Echo, tls=True) as running:
            for scheme in ("wss", "ws"):
                raw = socket.create_connection(running.address)
                sock = certificates().client.wrap_socket(raw, server_hostname="localhost")
                with WebSocketClient(f"{scheme}://localhost/", sock=sock) as websocket:
                    websocket.send("hello")
                    assert websocket.recv(SOON) == "hello"

    def test_tls_to_a_server_without(self, echo: Running) -> None:
        with pytest.raises(ssl.SSLError):
            WebSocketClient(f"wss://127.0.0.1:{echo.port}/")

    def test_no_tls_to_a_server_with(self) -> None:
        with running_server(Echo, tls=True, errors_expected=True) as running:
            with pytest.raises((HandshakeError, ConnectionError)):
                WebSocketClient(f"ws://127.0.0.1:{running.port}/")


class TestFailing:
    """One clear error, in time, and no descriptor left (which every test is checked for)."""

    def test_nobody_listens(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            WebSocketClient(f"ws://127.0.0.1:{closed_port()}/")

    def test_a_server_that_refuses(self, echo: Running) -> None:
        with pytest.raises(HandshakeError) as caught:
            WebSocketClient(echo.url(), origin="https://evil.example")
        error = caught.value
        assert error.status == 403
        assert error.headers["Content-Type"].startswith("text/plain")
        assert b"403" in error.body
        with running_server(Echo, websocket_versions=(13,)) as running:
            with pytest.raises(HandshakeError) as caught:
                WebSocketClient(running.url(), websocket_version=8)
        assert (caught.value.status, caught.value.headers["Sec-WebSocket-Version"]) == (426, "13")

    def test_a_wrong_answer_to_the_key(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(switching(request, Sec_WebSocket_Accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
            assert sock.recv(1) == b""  # nothing but the end

        with by_hand(script) as url, pytest.raises(HandshakeError, match="Accept"):
            WebSocketClient(url)

    @pytest.mark.parametrize("field", ["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: x-unasked"])
    def test_what_was_not_asked_for(self, field: str) -> None:
        with by_hand(lambda sock, request: sock.sendall(switching(request, field))) as url:
            with pytest.raises(HandshakeError, match="offered"):
                WebSocketClient(url)

    def test_a_server_that_accepts_and_never_answers(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            assert sock.recv(1) == b""

        with by_hand(script) as url:
            with pytest.raises(TimeoutError):
                WebSocketClient(url, connect_timeout=50 * MS)

    def test_a_server_that_answers_a_byte_now_and_then(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            pause = threading.Event()
            with contextlib.suppress(OSError):
                for byte in switching(request) + 5000 * b"x":
                    pause.wait(5 * MS)
                    sock.sendall(bytes([byte]))

        with by_hand(script) as url, pytest.raises(TimeoutError):
            WebSocketClient(url, connect_timeout=50 * MS)

    @pytest.mark.usefixtures("hanging_resolver")
    def test_a_resolver_that_hangs(self) -> None:
        with pytest.raises(TimeoutError, match=r"hangs\.example"):
            WebSocketClient("ws://hangs.example/", connect_timeout=30 * MS)

    def test_a_given_socket_is_closed(self) -> None:
        ours, theirs = socket_pair()
        with theirs:
            with pytest.raises(TimeoutError):
                WebSocketClient("ws://localhost/", sock=ours, connect_timeout=20 * MS)
            assert ours.fileno() == -1

    def test_a_connection_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The last step may fail too: the timer needs a thread."""

        def schedule(*args: Any) -> None:
            raise RuntimeError("can't start new thread")

        with by_hand(lambda sock, request: sock.sendall(switching(request))) as url:
            monkeypatch.setattr(connection_module.timer, "schedule", schedule)
            with pytest.raises(RuntimeError, match="thread"):
                WebSocketClient(url)


class TestGlued:
    """Frames that come together with the 101."""

    def test_messages_and_a_close(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            frames = b"".join(frame(1, b"message %d" % number) for number in range(200))
            sock.sendall(switching(request) + frames + frame(8, b"\x03\xe8bye"))
            assert sock.recv(1 << 16)[0] == 0x88  # its Close: then a server ends the stream (7.1.1)

        with by_hand(script) as url, WebSocketClient(url) as websocket:
            assert list(websocket) == [f"message {number}" for number in range(200)]
            assert (websocket.close_code, websocket.close_reason) == (1000, "bye")

    def test_half_a_frame(self) -> None:
        message = frame(2, bytes(range(256)) * 1000)

        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(switching(request) + message[:1000])
            assert sock.recv(1 << 16)[0] == 0x89  # a Ping: the client is there
            sock.sendall(message[1000:] + frame(8))
            assert sock.recv(1 << 16)[0] == 0x88

        with by_hand(script) as url, WebSocketClient(url) as websocket:
            websocket.ping()
            assert websocket.recv(SOON) == bytes(range(256)) * 1000


class Recorder(WebSocketClient):
    """Keeps what its hooks are called with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        super().__init__(*args, **options)

    def note(self, *call: Any) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def on_open(self) -> None:
        self.note("open")

    def on_message(self, message: str | bytes) -> None:
        self.note("message", message)

    def on_ping(self, payload: bytes) -> None:
        self.note("ping", payload)

    def on_pong(self, payload: bytes) -> None:
        self.note("pong", payload)

    def on_close(self, code: int, reason: str) -> None:
        self.note("close", code, reason)

    def on_error(self, error: Exception) -> None:
        self.note("error", error)


@contextlib.contextmanager
def opposite(kind: type[Recorder] = Recorder, **options: Any) -> Iterator[tuple[Any, RawPeer]]:
    """Yield a client that is not connected yet, and the server by hand that will be at the other end, once it is."""
    ours, theirs = socket_pair()
    with RawPeer(theirs, masks=False) as peer:
        client = kind("ws://localhost/", sock=ours, connect=False, **options)
        try:
            yield client, peer
        finally:
            client.abort()


def answer(peer: RawPeer, behind: bytes = b"") -> None:
    peer.send(switching(read_head(peer.sock)) + behind)


def finish(peer: RawPeer, code: int = 1000, reason: str = "") -> int:
    """End the conversation from the server's side; return the client's code."""
    peer.close_frame(code, reason)
    got = peer.read_close()
    peer.sock.close()
    return got


class TestBeingCalled:
    """run_forever"""

    def test_the_hooks_are_called_in_order_in_one_thread(self) -> None:
        with opposite() as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(9, b"ping") + frame(1, "é".encode()) + frame(10, b"pong") + frame(2, b"") + frame(1))
            assert peer.read_frame()[:2] == (10, b"ping")
            assert finish(peer, 4001, "enough") == 4001
            running.result()
            assert client.calls == [
                ("open",),
                ("ping", b"ping"),
                ("message", "é"),
                ("pong", b"pong"),
                ("message", b""),
                ("message", ""),
                ("close", 4001, "enough"),
            ]
            assert client.threads == {running.thread.ident}
            assert client.state is State.CLOSED

    def test_a_client_that_is_connected_runs_too(self, echo: Running) -> None:
        class Greeter(Recorder):
            def on_open(self) -> None:
                self.websocket.send("hello")

            def on_message(self, message: str | bytes) -> None:
                super().on_message(message)
                self.close(4000)

        client = Greeter(echo.url())
        client.run_forever()
        assert client.calls == [("message", "hello"), ("close", 4000, "")]

    def test_over_tls(self) -> None:
        class Greeter(Recorder):
            def on_open(self) -> None:
                self.send("hello")

            def on_message(self, message: str | bytes) -> None:
                super().on_message(message)
                self.start_close()

        with running_server(Echo, tls=True) as running:
            client = Greeter(running.url(), connect=False, **running.client_options)
            client.run_forever()
        assert client.calls == [("message", "hello"), ("close", 1000, "")]

    def test_messages_come_in_fragments_where_that_hook_is_overridden(self) -> None:
        class Pieces(Recorder):
            def on_fragment(self, fragment: Fragment) -> None:
                self.note(fragment)

        with opposite(Pieces) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"a", fin=False) + frame(0, b"b"))
            finish(peer)
            running.result()
            assert client.calls[1:3] == [(Fragment("a", True, False),), (Fragment("b", True, True),)]

    @pytest.mark.parametrize("hook", ["on_open", "on_message", "on_ping", "on_pong"])
    def test_an_exception_of_a_hook_is_told_and_raised_and_closes(self, hook: str) -> None:
        error = LookupError("mine")

        def fail(*args: Any) -> None:
            raise error

        kind = type("Failing", (Recorder,), {hook: fail})
        with opposite(kind) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"m") + frame(9) + frame(10))
            assert peer.read_close() == 1011
            assert client.calls[-1] == ("error", error)
            peer.close_frame(1011)
            peer.sock.close()
            with pytest.raises(LookupError, match="mine"):
                running.result()
            assert client.calls[-2:] == [("error", error), ("close", 1011, "")]

    def test_on_error_may_choose_the_code(self) -> None:
        class Failing(Recorder):
            def on_message(self, message: str | bytes) -> None:
                raise LookupError

            def on_error(self, error: Exception) -> None:
                self.start_close(4999)

        with opposite(Failing) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"m"))
            assert peer.read_close() == 4999
            peer.sock.close()
            with pytest.raises(LookupError):
                running.result()

    @pytest.mark.parametrize("hook", ["on_error", "on_close"])
    def test_exceptions_of_the_last_hooks_are_raised_too(self, hook: str) -> None:
        def fail(*args: Any) -> None:
            raise ZeroDivisionError

        def on_message(self: Recorder, message: str | bytes) -> None:
            raise LookupError

        kind = type("Failing", (Recorder,), {hook: fail, "on_message": on_message})
        with opposite(kind) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"m"))
            assert peer.read_close() == 1011
            peer.sock.close()
            with pytest.raises(ZeroDivisionError) as caught:
                running.result()
            assert isinstance(caught.value.__context__, LookupError)
            assert client.state is State.CLOSED

    def test_an_interrupt_passes_on_error_by(self) -> None:
        class Interrupted(Recorder):
            def on_message(self, message: str | bytes) -> None:
                raise KeyboardInterrupt

        with opposite(Interrupted) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"m"))
            assert peer.read_close() == 1001
            peer.sock.close()
            with pytest.raises(KeyboardInterrupt):
                running.result()
            assert [call[0] for call in client.calls] == ["open", "close"]

    def test_a_send_to_a_peer_that_has_left_is_no_error(self) -> None:
        class Late(Recorder):
            def on_message(self, message: str | bytes) -> None:
                super().on_message(message)
                wait_until(lambda: self.attend() and self.state is not State.OPEN)
                self.send("too late")

        with opposite(Late) as (client, peer):
            running = run_in_thread(client.run_forever)
            answer(peer, frame(1, b"m"))
            finish(peer)
            running.result()
            assert client.calls == [("open",), ("message", "m"), ("close", 1000, "")]

    def test_it_runs_once(self, echo: Running) -> None:
        client = Recorder(echo.url())
        client.close()
        client.run_forever()
        assert client.calls == [("open",), ("close", 1000, "")]
        with pytest.raises(RuntimeError, match="before"):
            client.run_forever()

    @pytest.mark.parametrize("ending", ["close", "abort", "start_close"])
    def test_any_thread_ends_it(self, ending: str, echo: Running) -> None:
        client = Recorder(echo.url(), connect=False)
        running = run_in_thread(client.run_forever)
        wait_until(lambda: client.calls == [("open",)])
        getattr(client, ending)()
        running.result()
        assert client.calls[1:] == [("close", 1006, "aborted here") if ending == "abort" else ("close", 1000, "")]

    def test_a_failure_to_connect_is_told_and_raised(self) -> None:
        client = Recorder(f"ws://127.0.0.1:{closed_port()}/", connect=False)
        with pytest.raises(ConnectionRefusedError) as caught:
            client.run_forever()
        assert client.calls == [("error", caught.value)]
        assert client.state is State.CLOSED
        with pytest.raises(RuntimeError, match="once"):
            client.connect()

    def test_a_refusal_is_told_and_raised(self, echo: Running) -> None:
        client = Recorder(echo.url(), connect=False, origin="https://elsewhere.example")
        with pytest.raises(HandshakeError) as caught:
            client.run_forever()
        assert caught.value.status == 403
        assert client.calls == [("error", caught.value)]


class TestNotYetConnected:
    """connect=False"""

    def test_connect_connects(self, echo: Running) -> None:
        with WebSocketClient(echo.url(), connect=False) as client:
            assert client.state is State.CONNECTING
            client.connect()
            assert client.state is State.OPEN
            client.send("hello")
            assert client.recv(SOON) == "hello"
            with pytest.raises(RuntimeError, match="once"):
                client.connect()

    def test_nothing_happens_before(self, nobody: None) -> None:
        with pytest.raises(AssertionError):
            WebSocketClient("ws://nowhere.example/")
        with pytest.raises(ValueError, match="looks like"):
            WebSocketClient("http://nowhere.example/", connect=False)

    def test_until_then_it_is_like_a_connection_that_has_ended(self) -> None:
        client = WebSocketClient("ws://localhost/", connect=False)
        calls: list[Callable[[], Any]] = [
            client.recv,
            client.next_event,
            client.ping,
            client.pong,
            lambda: client.send("m"),
            lambda: client.send_fragments(["m"]),
            lambda: list(client.recv_fragments()),
            lambda: list(client),
            lambda: list(client.events()),
        ]
        for call in calls:
            with pytest.raises(ConnectionClosed, match="not connected yet"):
                call()
        wait_until(lambda: client.fileno() == -1)
        assert client.stats[:4] == (0, 0, 0, 0)
        assert client.state is State.CONNECTING
        assert "connecting" in repr(client)
        client.close()

    @pytest.mark.parametrize("ending", ["close", "abort", "start_close"])
    def test_what_has_been_ended_does_not_connect(self, ending: str, nobody_listens: int) -> None:
        client = Recorder(f"ws://127.0.0.1:{nobody_listens}/", connect=False)
        getattr(client, ending)()
        assert client.state is State.CLOSED
        with pytest.raises(ConnectionAbortedError):
            client.connect()
        client.run_forever()
        assert client.calls == []

    @pytest.mark.parametrize("ending", ["close", "abort", "start_close"])
    def test_any_thread_ends_the_opening_handshake(self, ending: str) -> None:
        with opposite() as (client, peer):
            running = run_in_thread(client.run_forever)
            read_head(peer.sock)
            getattr(client, ending)()
            running.result()
            assert client.calls == []
            assert client.state is State.CLOSED
            assert peer.read_to_end() == b""

    def test_connect_says_that_it_was_ended(self) -> None:
        with opposite() as (client, peer):
            connecting = run_in_thread(client.connect)
            read_head(peer.sock)
            client.abort()
            with pytest.raises(ConnectionAbortedError, match="aborted here"):
                connecting.result()

    def test_aborted_at_the_last_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with opposite() as (client, peer):
            finish_attempt = client._attempt.finish

            def late() -> None:
                client.abort()
                finish_attempt()

            monkeypatch.setattr(client._attempt, "finish", late)
            connecting = run_in_thread(client.connect)
            answer(peer)
            with pytest.raises(ConnectionAbortedError):
                connecting.result()
            assert peer.read_to_end() == b""
            wait_until(lambda: client.fileno() == -1)

    @pytest.mark.parametrize("call", ["close", "start_close"])
    def test_a_code_that_may_not_be_sent_is_refused(self, call: str) -> None:
        client = WebSocketClient("ws://localhost/", connect=False)
        with pytest.raises(ValueError, match="1006"):
            getattr(client, call)(1006)
        assert client.state is State.CONNECTING

"""What WebSocket-Node does, and what we do about it: docs/reference/websocket-node.rst, held to its word.

Here are the tests of rows for which there is none elsewhere, and the test of the page itself.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import random
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from http import HTTPStatus
from typing import Any

import pytest

import websocketserver
from websocketserver import (
    ConnectionClosed,
    Fragment,
    PerMessageDeflate,
    Settings,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketRequestHandler,
    format_cookie,
    parse_cookies,
)

from .pages import DOCS, missing_tests, table_rows
from .support import SOON, Running, half, opening_request, raw_client, run_in_thread, running_server, wait_until

PAGE = DOCS / "reference" / "websocket-node.rst"


class Quiet(WebSocketRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Echo(Quiet):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


# The page


def rows() -> list[list[str]]:
    """Return the cells of each row of the page's tables."""
    return [cells for cells in table_rows(PAGE) if cells[0] != "WebSocket-Node"]


def exists(name: str) -> bool:
    """Return whether a dotted name below the package exists; attributes that only objects have count."""
    found: Any = websocketserver
    for part in name.split("."):
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        kinds = inspect.getmro(found) if inspect.isclass(found) else ()
        sources = [inspect.getsource(kind) for kind in kinds if kind.__module__.startswith("websocketserver")]
        return any(re.search(rf"self\.{part}\b|^    {part}:", source, re.MULTILINE) for source in sources)
    return True


class TestPage:
    def test_every_row_has_theirs_ours_and_a_test(self) -> None:
        assert len(rows()) > 150
        for cells in rows():
            assert len(cells) == 3, cells
            assert all(cells), cells
            assert re.search(r"``[\w/]+\.py``", cells[2]), cells

    def test_every_name_of_ours_exists(self) -> None:
        names = [name for cells in rows() for name in re.findall(r"``([A-Za-z_.]+)", cells[1])]
        ours = [name for name in names if name.split(".")[0] in websocketserver.__all__]
        assert len(ours) > 100
        assert [name for name in ours if not exists(name)] == []

    def test_every_test_exists(self) -> None:
        assert [missing for cells in rows() for missing in missing_tests(cells[2])] == []

    def test_all_traps_are_there(self) -> None:
        first = [cells[0].split(":")[0] for cells in rows() if re.match(r"T\d+:", cells[0])]
        assert first == [f"T{number}" for number in range(1, 19)]


# Tunables: per class, per server, per connection

TUNABLES: dict[str, Any] = {
    "max_message_size": 5000,
    "max_frame_size": 4000,
    "max_fragments": 7,
    "max_queue_size": 9000,
    "fragment_size": 16384,
    "compression": None,
    "extensions": (PerMessageDeflate(threshold=1),),
    "ping_interval": None,
    "ping_timeout": None,
    "send_timeout": 11.0,
    "close_timeout": 2.0,
    "tcp_keepalive": 30.0,
    "disable_nagle_algorithm": False,
}


def test_every_setting_is_among_them() -> None:
    assert set(TUNABLES) == {field.name for field in fields(Settings)}


@contextlib.contextmanager
def settings_on_both_sides(
    handler: type[WebSocketRequestHandler], **options: Any
) -> Iterator[tuple[Settings, Settings]]:
    """Yield the settings of the server's and of the client's connection."""
    with running_server(handler) as running, WebSocketClient(running.url(), **options) as client:
        wait_until(lambda: running.server.connections)
        yield running.server.connections[0].settings, client.settings


@pytest.mark.parametrize("name", TUNABLES)
class TestTunables:
    def test_per_class(self, name: str) -> None:
        handler = type("Tuned", (Echo,), {name: TUNABLES[name]})
        with settings_on_both_sides(handler) as (settings, _):
            assert settings == Settings(**{name: TUNABLES[name]})

    def test_per_server(self, name: str) -> None:
        tuned = type("Tuned", (Echo,), {name: TUNABLES[name]})  # a subclass for one of the servers
        with settings_on_both_sides(tuned) as (here, _), settings_on_both_sides(Echo) as (there, _):
            assert (here, there) == (Settings(**{name: TUNABLES[name]}), Settings())

    def test_per_connection(self, name: str) -> None:
        class Tuned(Echo):
            def authorize(self) -> HTTPStatus | None:
                if self.path == "/tuned":
                    setattr(self, name, TUNABLES[name])
                return None

        with running_server(Tuned) as running:
            with WebSocketClient(running.url("/tuned")), WebSocketClient(running.url("/")):
                wait_until(lambda: len(running.server.connections) == 2)
                by_path = {ws.request.path: ws.settings for ws in running.server.connections}
                assert by_path == {"/tuned": Settings(**{name: TUNABLES[name]}), "/": Settings()}

    def test_of_a_client(self, name: str) -> None:
        with settings_on_both_sides(Echo, **{name: TUNABLES[name]}) as (theirs, ours):
            assert (theirs, ours) == (Settings(), Settings(**{name: TUNABLES[name]}))


COMBINED: dict[str, tuple[Any, Any]] = {
    "max_message_size": (None, 1000),
    "max_frame_size": (None, 1000),
    "fragment_size": (None, 300),
    "compression": (None, PerMessageDeflate()),
    "ping_interval": (None, 0.005),
    "ping_timeout": (None, 20),
    "tcp_keepalive": (None, 20),
    "disable_nagle_algorithm": (True, False),
    "assemble": (True, False),
}


class InPieces(Echo):
    """An echo with the settings of each connection in its query, one digit each."""

    def authorize(self) -> HTTPStatus | None:
        self.pieces: list[Any] = []
        for digit, (name, values) in zip(self._request.query, COMBINED.items(), strict=True):
            setattr(self, name, values[int(digit)])
        if not vars(self)["assemble"]:
            self.on_fragment = self.gather  # type: ignore[method-assign]
        return None

    def gather(self, fragment: Fragment) -> None:
        self.pieces.append(fragment.data)
        if fragment.fin:
            self.websocket.send(("" if fragment.text else b"").join(self.pieces))
            self.pieces.clear()


@pytest.mark.parametrize("most", [50, pytest.param(1 << len(COMBINED), marks=pytest.mark.slow)])
def test_every_combination_of_tunables_works(most: int) -> None:
    """Of so few as are run by default each two values of two tunables meet."""
    combinations = list(itertools.product((0, 1), repeat=len(COMBINED)))
    noise = random.Random(1).randbytes(2000)
    with running_server(InPieces) as running:
        for digits in random.Random(1).sample(combinations, most):
            options = {name: values[digit] for digit, (name, values) in zip(digits, COMBINED.items(), strict=True)}
            del options["assemble"]
            with WebSocketClient(running.url("/?" + "".join(map(str, digits))), **options) as client:
                client.send("é" * 450)
                assert client.recv(SOON) == "é" * 450, digits
                client.send(noise)
                whole = options["fragment_size"] is None
                if options["max_message_size"] or (options["max_frame_size"] and whole):
                    with pytest.raises(ConnectionClosed) as closed:
                        client.recv(SOON)
                    assert closed.value.code == 1009, digits
                else:
                    assert client.recv(SOON) == noise, digits


def socket_options(connection: Any) -> tuple[bool, bool, int | None]:
    """Return whether Nagle's algorithm is on, whether TCP keepalive is, and its seconds."""
    with socket.socket(fileno=socket.dup(connection.fileno())) as sock:
        idle = getattr(socket, "TCP_KEEPIDLE", None)
        return (
            not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
            sock.getsockopt(socket.IPPROTO_TCP, idle) if idle is not None else None,
        )


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("nagle", [False, True])
@pytest.mark.parametrize("keepalive", [None, 0.1, 42])
def test_nagle_and_native_keepalive_reach_the_socket(tls: bool, nagle: bool, keepalive: float | None) -> None:
    options: dict[str, Any] = {"disable_nagle_algorithm": not nagle, "tcp_keepalive": keepalive}
    with running_server(Echo, tls=tls, **options) as running:
        with WebSocketClient(running.url(), **options, **running.client_options) as client:
            client.send("here")
            client.recv(timeout=SOON)
            for connection in (client, running.server.connections[0]):
                on, kept, seconds = socket_options(connection)
                assert (on, kept) == (nagle, keepalive is not None)
                assert keepalive is None or seconds in (None, max(1, keepalive))


def test_native_keepalive_and_pings_are_independent() -> None:
    with half(settings=Settings(tcp_keepalive=1, ping_interval=0.02)) as (_, peer):
        assert peer.read_frame().opcode == 9


def test_without_dropping_pings_go_on_for_ever() -> None:
    with half(settings=Settings(ping_interval=0.01, ping_timeout=None)) as (connection, peer):
        assert [peer.read_frame().opcode for _ in range(5)] == [9] * 5  # none of them is answered
        assert connection.state.value == "open"


# The request


class TestRequest:
    def test_refused_with_any_status_reason_and_headers_exactly_once(self) -> None:
        class Refusing(Quiet):
            def authorize(self) -> HTTPStatus | None:
                self.send_response(418, "Short and stout")
                self.send_header("X-Pot", "tea")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return HTTPStatus.FORBIDDEN  # too late: it is answered

        with running_server(Refusing) as running, raw_client(running, status=418) as peer:
            assert peer.head.startswith(b"HTTP/1.1 418 Short and stout\r\n")
            assert b"\r\nX-Pot: tea" in peer.head
            assert peer.read_to_end() == b""

    def test_a_second_upgrade_is_impossible(self) -> None:
        class Twice(Quiet):
            def on_open(self) -> None:
                with pytest.raises(RuntimeError):
                    self.send_response(101)

        with running_server(Twice) as running, WebSocketClient(running.url()):
            pass

    def test_cookies_set_come_back(self) -> None:
        class Visits(Quiet):
            def response_headers(self) -> list[tuple[str, str]]:
                visits = int(self._request.cookies.get("visits", "0"))
                return [
                    ("Set-Cookie", format_cookie("visits", str(visits + 1), path="/", httponly=True)),
                    ("Set-Cookie", format_cookie("gone", "", max_age=0)),
                ]

        with running_server(Visits) as running:
            with WebSocketClient(running.url(), cookies={"visits": "7"}) as websocket:
                assert websocket.response is not None
                assert websocket.response.headers.get_all("Set-Cookie") == [
                    "visits=8; Path=/; HttpOnly",
                    "gone=; Max-Age=0",
                ]

    def test_duplicate_cookies_are_there_in_order(self) -> None:
        assert parse_cookies("a=1; b=2; a=3") == [("a", "1"), ("b", "2"), ("a", "3")]

    def test_a_client_that_leaves_before_the_answer_ends_quietly(self) -> None:
        asked, gone, seen = threading.Event(), threading.Event(), []

        class Slow(Quiet):
            def authorize(self) -> HTTPStatus | None:
                asked.set()
                gone.wait(SOON)
                return None

            def on_close(self, code: int, reason: str) -> None:
                seen.append(code)

        with running_server(Slow) as running:
            with socket.create_connection(running.address[:2], SOON) as sock:
                sock.sendall(opening_request())
                asked.wait(SOON)
            gone.set()
            wait_until(lambda: seen)
        assert seen == [1006]
        assert running.errors == []


# Frames


class TestFragments:
    def test_ten_bytes_at_a_threshold_of_four(self) -> None:
        with half(settings=Settings(fragment_size=4)) as (connection, peer):
            connection.send("0123456789")
            assert peer.sock.recv(100) == b"\x01\x040123\x00\x044567\x80\x0289"

    @pytest.mark.parametrize("message", ["", "0123"])
    def test_up_to_the_threshold_it_is_one_frame(self, message: str) -> None:
        with half(settings=Settings(fragment_size=4)) as (connection, peer):
            connection.send(message)
            frame = peer.read_frame()
            assert (frame.opcode, frame.fin, frame.payload) == (1, True, message.encode())

    def test_the_limit_of_a_frame_itself_passes(self) -> None:
        with half(settings=Settings(max_frame_size=65536)) as (connection, peer):
            run_in_thread(peer.frame, 2, bytes(65536)).result()
            assert len(connection.recv(timeout=SOON)) == 65536
            sending = run_in_thread(peer.frame, 2, bytes(65537))
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=SOON)
            sending.result()
            assert peer.read_close() == 1009

    def test_the_limit_of_a_message_holds_for_single_frames(self) -> None:
        with half(settings=Settings(max_message_size=10)) as (connection, peer):
            peer.frame(2, bytes(20))
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=SOON)
            assert peer.read_close() == 1009


# The end


class TestEnd:
    @pytest.mark.parametrize("server_class", [ThreadingWebSocketServer])
    def test_two_hundred_frames_and_a_close_are_all_delivered(self, server_class: Any) -> None:
        seen: list[Any] = []

        class Counting(Quiet):
            def on_message(self, message: str | bytes) -> None:
                seen.append(message)

            def on_close(self, code: int, reason: str) -> None:
                seen.append(code)

        with running_server(Counting, server_class=server_class) as running:
            with raw_client(running) as peer:
                for number in range(200):
                    peer.frame(1, str(number).encode())
                peer.close_frame(1000)
                peer.sock.shutdown(socket.SHUT_WR)
                wait_until(lambda: len(seen) == 201)
        assert seen == [*map(str, range(200)), 1000]

    def test_the_peers_code_is_echoed_and_told(self) -> None:
        with half() as (connection, peer):
            peer.close_frame(4000, "x")  # of one byte: kept
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=SOON)
            assert peer.read_close() == 4000
        assert (closed.value.code, closed.value.reason) == (4000, "x")

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
    def test_codes_that_nobody_may_send_are_a_violation(self, code: int) -> None:
        with half() as (connection, peer):
            peer.close_frame(code)
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=SOON)
            assert peer.read_close() == 1002

    def test_a_close_of_one_byte_is_a_violation(self) -> None:
        with half() as (connection, peer):
            peer.frame(8, b"\x03")
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=SOON)
            assert peer.read_close() == 1002

    def test_the_close_says_what_was_wrong(self) -> None:
        with half() as (connection, peer):
            peer.frame(3)
            with pytest.raises(ConnectionClosed):
                connection.recv(timeout=SOON)
            payload = peer.read_frame().payload
            assert (payload[:2], 10 < len(payload) <= 125, payload[2:].isascii()) == (b"\x03\xea", True, True)

    def test_closing_with_a_code_sends_no_text_of_ours(self) -> None:
        with half() as (connection, peer):
            connection.start_close(1001)
            assert peer.read_frame().payload == b"\x03\xe9"

    def test_messages_in_flight_at_our_close_stay_readable(self) -> None:
        with half() as (connection, peer):
            peer.frame(1, b"before")
            wait_until(lambda: connection.recv(timeout=SOON) == "before")
            connection.start_close()
            peer.close_frame()
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=SOON)
        assert closed.value.code == 1000


def test_numbers_are_no_messages() -> None:
    with half() as (connection, _):
        for message in (5, None, {"a": 1}, ["a"]):
            with pytest.raises(TypeError, match="a message must be"):
                connection.send(message)  # type: ignore[arg-type]


def test_all_connections_are_closed_and_told() -> None:
    with running_server(Echo) as running:
        with WebSocketClient(running.url()) as first, WebSocketClient(running.url()) as second:
            wait_until(lambda: len(running.server.connections) == 2)
            for connection in running.server.connections:
                connection.start_close(1001, "closed for today")
            for websocket in (first, second):
                assert list(websocket) == []
                assert (websocket.close_code, websocket.close_reason) == (1001, "closed for today")
        with WebSocketClient(running.url()) as third:  # the server goes on
            third.send("still there")
            assert third.recv(timeout=SOON) == "still there"


def test_several_servers_may_share_a_handler_class() -> None:
    def greet(running: Running) -> str | bytes:
        with WebSocketClient(running.url(), **running.client_options) as websocket:
            websocket.send("hello")
            return websocket.recv(timeout=SOON)

    with running_server(Echo) as plain, running_server(Echo, tls=True) as tls:
        assert greet(plain) == greet(tls) == "hello"


def test_extensions_may_be_offered_and_declined() -> None:
    with running_server(Echo, compression=None) as running:
        with WebSocketClient(running.url(), compression=PerMessageDeflate()) as websocket:
            assert websocket.extensions == ()
            wait_until(lambda: running.server.connections)
            request = running.server.connections[0].request
            assert {name for name, _ in request.extensions} == {"permessage-deflate"}


def test_nothing_outside_the_standard_library_is_imported() -> None:
    sources = [path.read_text() for path in (DOCS.parent / "websocketserver").rglob("*.py")]
    imported = {name for source in sources for name in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)}
    assert imported - set(sys.stdlib_module_names) <= {"websocketserver"}

"""The HTTP part of a handler: strict heads, limits that hold, answers that arrive."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver.httphandler import StrictHTTPRequestHandler
from websocketserver.server import ThreadingWebSocketServer
from websocketserver.unixserver import ThreadingUnixWebSocketServer

from .serving import (
    PAGE,
    Page,
    connected,
    default_server,
    exchange,
    lines,
    pytest_generate_tests,
    read_to_end,
    read_until,
    serving,
)
from .support import SOON, Running, certificates, opening_request, raw_client, running_server, wait_until

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there


class TestHeads:
    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"GET /\r\n", 400),
            (b"GET / HTTP/1.1\nHost: x\n\n", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX: a\rUpgrade: websocket\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nName : value\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
            (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 101 + b"\r\n", 431),
            (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
            (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        ],
    )
    def test_bad_ones_get_a_short_answer_and_a_line_in_the_log(self, request_bytes: bytes, status: int) -> None:
        with serving(Page) as running:
            answer = exchange(running, request_bytes).decode()
            head, _, body = answer.partition("\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert "Connection: close" in head.split("\r\n")
            assert f"Content-Length: {len(body)}" in head.split("\r\n")
            assert body.startswith(f"{status} ")
        assert len(lines(running)) == 1
        assert f'" {status} ' in lines(running)[0]
        assert lines(running)[0].isprintable()
        assert len(lines(running)[0]) < 250

    def test_cut_short_end_quietly(self) -> None:
        with serving(Page) as running:
            assert exchange(running, b"") == b""
            assert lines(running) == []
            assert exchange(running, b"GET / HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 400")
            assert len(lines(running)) == 1

    def test_broken_off_by_a_reset_end_with_one_line(self) -> None:
        with serving(Page) as running:
            with connected(running) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHo")
                wait_until(lambda: len(running.server.registry))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wait_until(lambda: not len(running.server.registry))
        assert len(lines(running)) <= 1
        assert running.errors == []

    def test_the_path_is_what_was_sent_but_for_leading_slashes(self) -> None:
        with serving(Page) as running:
            for target, path in (("/a/../b%20c?d", "/a/../b%20c?d"), ("//evil.example/x", "/evil.example/x")):
                answer = exchange(running, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert answer.endswith(b"\r\n\r\n" + path.encode())

    def test_parse_request_may_be_extended(self) -> None:
        class Handler(Page):
            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                if self.headers.get("Authorization") != "yes":
                    self.send_error(HTTPStatus.UNAUTHORIZED)
                    return False
                return True

        with serving(Handler) as running:
            assert exchange(running, PAGE).startswith(b"HTTP/1.1 401")
            authorized = PAGE.replace(b"Host: x", b"Host: x\r\nAuthorization: yes")
            assert exchange(running, authorized).startswith(b"HTTP/1.1 200")


class TestDeadlines:
    """Of the whole, not of one read: a byte now and then does not renew them."""

    def drip(self, running: Running, start: bytes, limit: float) -> float:
        """Send a byte every tenth of the limit; return how many seconds it took the server to hang up."""
        with connected(running) as sock:
            began = time.monotonic()
            sock.sendall(start)
            sock.settimeout(limit / 10)
            while time.monotonic() - began < SOON:
                try:
                    if not sock.recv(4096):
                        break
                except TimeoutError:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"x")
                except ConnectionResetError:
                    break
            return time.monotonic() - began

    def test_of_a_head(self) -> None:
        with serving(Page, handshake_timeout=0.2) as running:
            for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: "):
                assert 0.1 < self.drip(running, start, 0.2) < SOON
            assert len(lines(running)) == 2

    def test_of_a_body(self) -> None:
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with serving(Page, timeout=0.2) as running:
            assert 0.1 < self.drip(running, post, 0.2) < SOON
            wait_until(lambda: lines(running))
        assert "timed out" in lines(running)[0]
        assert running.errors == []

    def test_of_the_wait_for_another_request(self) -> None:
        with serving(Page, timeout=0.2) as running, connected(running) as sock:
            sock.sendall(PAGE)
            assert read_to_end(sock).endswith(b"\r\n\r\n/")
        assert len(lines(running)) == 1  # of the request itself

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("before", [b"", PAGE], ids=["first", "further"])
    def test_of_a_head_that_comes_too_slowly(self, tls: bool, before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.streams.GRACE", 0.2)
        with serving(Page, handshake_timeout=60, timeout=60, tls=tls) as running, connected(running) as raw:
            context = certificates().client
            sock = context.wrap_socket(raw, server_hostname="localhost") if tls else raw
            with sock:
                sock.sendall(before)
                if before:
                    read_until(sock, b"\r\n\r\n/")
                for byte in b"GET /":
                    sock.sendall(bytes([byte]))
                assert read_to_end(sock) == b""
            wait_until(lambda: any("timed out" in line for line in lines(running)))
        assert len(lines(running)) == len(before[:1]) + 1

    def test_delay_nobody_while_slow_clients_use_theirs_up(self) -> None:
        """R45: 200 of them, silent or in the middle of their heads."""
        with serving(Page) as running, contextlib.ExitStack() as stack:
            for number in range(200):
                sock = stack.enter_context(connected(running))
                sock.sendall(PAGE[: number % 2 * 20])
            with connected(running) as sock:
                sock.sendall(PAGE)
                assert read_until(sock, b"\r\n\r\n/").startswith(b"HTTP/1.1 200")
            assert len(running.server.registry) >= 200

    def test_of_a_head_is_as_long_as_it_comes_fast_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.streams.GRACE", 0.05)
        with serving(Page, handshake_timeout=60, minimum_rate=10) as running, connected(running) as sock:
            sock.sendall(PAGE[:-2] + b"X: " + bytes(b"x" * 1000))
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(SOON)
            sock.sendall(b"\r\n\r\n")
            assert read_until(sock, b"\r\n\r\n/").startswith(b"HTTP/1.1 200")

    def test_of_a_second_head(self) -> None:
        class Handler(Page):
            def do_GET(self) -> None:
                super().do_GET()
                self.handshake_timeout = 0.2  # type: ignore[misc]  # for the next

        with serving(Handler) as running, connected(running) as sock:
            sock.sendall(PAGE + b"GET")
            assert read_to_end(sock).endswith(b"\r\n\r\n/")
            wait_until(lambda: len(lines(running)) == 2)
        assert "timed out" in lines(running)[1]

    def test_of_an_answer_that_nobody_reads(self) -> None:
        class Handler(Page):
            def do_GET(self) -> None:
                self.answer(bytes(1 << 24))

        with serving(Handler, timeout=0.2) as running, connected(running) as sock:
            sock.sendall(PAGE)
            wait_until(lambda: len(lines(running)) == 2)
        assert "timed out" in lines(running)[1]
        assert running.errors == []

    def test_none_means_no_limit(self) -> None:
        with serving(Page, timeout=None, handshake_timeout=None) as running:
            assert exchange(running, PAGE).startswith(b"HTTP/1.1 200")

    def test_the_applications_own_time_outs_are_its_own(self) -> None:
        class Handler(Page):
            def do_GET(self) -> None:
                raise TimeoutError("of the database")

            def do_POST(self) -> None:
                raise ConnectionResetError("of the database")

        with serving(Handler, errors_expected=True) as running:
            exchange(running, PAGE)
            exchange(running, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: len(running.errors) == 2)
        assert {str(error) for error in running.errors} == {"of the database"}


class TestKeepAlive:
    def test_serves_request_after_request(self) -> None:
        with serving(Page) as running, connected(running) as sock:
            for path in (b"/1", b"/2", b"/3"):
                sock.sendall(PAGE.replace(b"/ ", path + b" "))
                assert read_until(sock, path).startswith(b"HTTP/1.1 200")

    def test_serves_what_came_together_in_order(self) -> None:
        with serving(Page) as running:
            paths = [b"/%d" % number for number in range(20)]
            answer = exchange(running, b"".join(PAGE.replace(b"/ ", path + b" ") for path in paths))
            assert [part.partition(b"HTTP")[0] for part in answer.split(b"\r\n\r\n")[1:]] == paths

    @pytest.mark.parametrize("option", ["close", "Close", "keep-alive, close"])
    def test_ends_when_asked_to(self, option: str) -> None:
        with serving(Page) as running, connected(running) as sock:
            sock.sendall(PAGE.replace(b"Host: x", f"Host: x\r\nConnection: {option}".encode()))
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")

    @pytest.mark.parametrize(
        ("line", "option", "kept"),
        [("HTTP/1.0", "", False), ("HTTP/1.0", "keep-alive", True), ("HTTP/1.1", "", True), ("HTTP/1.1", "@@", True)],
    )
    def test_depends_on_the_version(self, line: str, option: str, kept: bool) -> None:
        header = f"Connection: {option}\r\n" if option else ""
        request = f"GET / {line}\r\nHost: x\r\n{header}\r\n".encode()
        with serving(Page) as running:
            assert exchange(running, request * 2).count(b"200 OK") == 1 + kept

    def test_is_off_by_default(self) -> None:
        with serving(Page, protocol_version="HTTP/1.0") as running, connected(running) as sock:
            sock.sendall(PAGE)
            assert read_to_end(sock).startswith(b"HTTP/1.0 200")

    def test_ends_behind_a_body_that_was_not_read(self) -> None:
        """Or the body would be taken for the next request."""

        class Handler(Page):
            def do_POST(self) -> None:
                self.answer(self.rfile.read(1))

        smuggled = PAGE
        for framing in (f"Content-Length: {len(smuggled)}", "Transfer-Encoding: chunked"):
            request = f"POST / HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + smuggled
            with serving(Handler) as running:
                assert exchange(running, request).count(b"HTTP/1.1 ") == 1

    def test_goes_on_behind_one_that_was(self) -> None:
        request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"
        with serving(Page) as running:
            assert exchange(running, request * 3).count(b"HTTP/1.1 200") == 3


class TestExpectation:
    @pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
    def test_is_met_before_the_body(self, version: str) -> None:
        with serving(Page, protocol_version=version) as running, connected(running) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n")
            assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"body")
            assert read_until(sock, b"body").startswith(version.encode() + b" 200")

    def test_is_met_before_an_upgrade(self) -> None:
        with serving(Page) as running, raw_client(running, headers={"Expect": "100-continue"}, status=100) as peer:
            peer.sock.shutdown(socket.SHUT_WR)
            assert peer.read_to_end().startswith(b"HTTP/1.1 101")

    def test_may_be_refused(self) -> None:
        class Handler(Page):
            def handle_expect_100(self) -> bool:
                self.send_error(HTTPStatus.EXPECTATION_FAILED)
                return False

        with serving(Handler) as running:
            request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            assert exchange(running, request).startswith(b"HTTP/1.1 417")

    def test_of_an_old_client_is_ignored(self) -> None:
        with serving(Page) as running:
            request = b"POST / HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"
            assert exchange(running, request).startswith(b"HTTP/1.1 200")


class TestAnswersArrive:
    def test_of_refusals_behind_unread_input(self) -> None:
        """A socket closed with input unread sends a reset, which would overtake the answer."""
        with serving(Page) as running:
            for _ in range(20):
                with connected(running) as sock:
                    sock.sendall(b"BAD\r\n" + bytes(100_000))
                    assert read_to_end(sock).startswith(b"HTTP/1.1 400")

    def test_of_the_application_behind_an_unread_body(self) -> None:
        class Handler(Page):
            def do_POST(self) -> None:
                self.answer(b"no, thank you")

        with serving(Handler) as running, connected(running) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
            assert read_to_end(sock).endswith(b"no, thank you")

    def test_but_nobody_reads_for_ever(self) -> None:
        with serving(Page) as running, connected(running) as sock:
            sock.sendall(b"BAD\r\n")
            began = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() - began < SOON:
                    sock.sendall(bytes(100_000))
            assert time.monotonic() - began < SOON

    def test_of_heads_have_none_for_head(self) -> None:
        with serving() as running:
            assert exchange(running, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"\r\n\r\n")


class TestWhoIsThere:
    class Asks(Page):
        def do_GET(self) -> None:
            self.answer(" ".join(self.remote_addresses).encode() + b" = " + self.address_string().encode())

    def ask(self, running: Running, forwarded: str) -> str:
        request = f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {forwarded}\r\n\r\n"
        return exchange(running, request.encode()).decode().partition("\r\n\r\n")[2]

    def test_nobody_else_is_believed_by_default(self) -> None:
        with serving(self.Asks) as running:
            assert self.ask(running, "1.2.3.4") == "127.0.0.1 = 127.0.0.1"

    @pytest.mark.parametrize(
        "trusted, error", [("127.0.0.1", TypeError), (None, TypeError), (("127.0.0.1/33",), ValueError)]
    )
    def test_mistakes_in_trusted_proxies_are_told_where_the_handler_is_defined(self, trusted: Any, error: Any) -> None:
        with pytest.raises(error, match=r"trusted_proxies|NoneType"):
            type("Handler", (self.Asks,), {"trusted_proxies": trusted})

    def test_trusted_proxies_are(self) -> None:
        with serving(self.Asks, trusted_proxies=("127.0.0.0/8",)) as running:
            assert self.ask(running, "6.6.6.6, 1.2.3.4") == "1.2.3.4 127.0.0.1 = 1.2.3.4"

    def test_peers_on_a_unix_socket_have_a_name(self, tmp_path: Any) -> None:
        path = str(tmp_path / "s")
        for trusted, expected in (((), b"unix = unix"), (("unix",), b"1.2.3.4 unix = 1.2.3.4")):
            with (
                serving(self.Asks, server_class=ThreadingUnixWebSocketServer, address=path, trusted_proxies=trusted),
                socket.socket(socket.AF_UNIX) as sock,
            ):
                sock.settimeout(SOON)
                sock.connect(path)
                sock.sendall(PAGE.replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: close"))
                assert read_to_end(sock).endswith(b"\r\n\r\n" + expected)


def test_it_serves_without_websockets_too() -> None:
    class Handler(StrictHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with running_server(Handler, server_class=ThreadingWebSocketServer) as running:
        assert exchange(running, PAGE).startswith(b"HTTP/1.0 204")
        assert exchange(running, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 501")
        assert exchange(running, opening_request()).startswith(b"HTTP/1.0 204")


def test_nagles_algorithm_is_off_unless_wanted() -> None:
    class Handler(Page):
        def do_GET(self) -> None:
            self.answer(b"%d" % bool(self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))

    for wanted in (True, False):
        with serving(Handler, disable_nagle_algorithm=wanted) as running:
            assert exchange(running, PAGE).endswith(b"\r\n\r\n%d" % wanted)

"""Log lines: one for each request and one for each connection, escaped, bounded, and without secrets."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import urllib.request
from typing import Any

import pytest

from websocketserver import Router, WebSocketClient, WebSocketRequestHandler
from websocketserver.logs import printable, redacted

from .serving import Quiet, default_server, exchange, leave, lines, pytest_generate_tests, serving
from .support import MASK, SOON, Running, certificates, frame, opening_request, raw_client, running_server, wait_until
from .test_requirements import FRAMES, HANDSHAKES

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there

TEXT, CLOSE = 1, 8
CLOSED = re.compile(
    r'"(?P<request>[^"]*)" closed (?P<code>\d+) after (?P<seconds>\d+\.\d{3}) s, '
    r"received (\d+) messages \((\d+) bytes\), sent (\d+) messages \((\d+) bytes\)(: (?P<why>.+))?"
)


def closed(running: Running) -> re.Match[str]:
    """Return the one line about the end of a connection, when it is there."""
    wait_until(lambda: any(" closed " in line for line in lines(running)))
    [found] = [line for line in lines(running) if " closed " in line]
    match = CLOSED.fullmatch(found)
    assert match, found
    return match


class TestOfConnections:
    def test_one_line_says_how_it_went(self) -> None:
        with serving() as running:
            with WebSocketClient(running.url("/chat?room=1"), compression=None) as client:
                for message in ("one", "three"):
                    client.send(message)
                    assert client.recv(SOON) == message
            line = closed(running)
            assert line.group("request", "code", "why") == ("GET /chat?room=1 HTTP/1.1", "1000", None)
            assert float(line["seconds"]) < SOON
            # On the wire: messages and Close with their headers and, from the client, their keys.
            assert line.groups()[3:7] == ("2", str(6 + 3 + 6 + 5 + 6 + 2), "2", str(2 + 3 + 2 + 5 + 2 + 2))
        assert len(lines(running)) == 2
        assert lines(running)[0] == '"GET /chat?room=1 HTTP/1.1" 101 -'

    def test_a_fault_is_an_error_and_says_why(self) -> None:
        errors: list[str] = []

        def log_error(self: Any, format: str, *args: Any) -> None:
            errors.append(format % args)
            Quiet.log_error(self, format, *args)

        with serving(log_error=log_error) as running:
            with raw_client(running) as peer:
                peer.frame(3)
                assert peer.read_close() == 1002
            line = closed(running)
            assert line["code"] in ("1002", "1006")
            assert "unknown opcode 0x3" in line["why"]
        assert errors == [line[0]]

    @pytest.mark.parametrize("code", [1000, 1002, 4000])
    def test_what_the_peer_says_cannot_forge_a_line(self, code: int) -> None:
        with serving() as running:
            with raw_client(running) as peer:
                leave(peer, code, "ü\x1b[2J\n127.0.0.1 - \u202e")
                peer.read_close()
            assert closed(running)["code"] == str(code)
        assert all(line.isprintable() and line.isascii() for line in lines(running))

    def test_an_override_writes_another_or_none(self) -> None:
        def log_connection(self: Any) -> None:
            self.log_message("over: %s", self.websocket.close_code)

        with serving(log_connection=log_connection) as running:
            WebSocketClient(running.url()).close(4001)
            wait_until(lambda: len(lines(running)) == 2)
        assert lines(running)[1] == "over: 4001"

    def test_a_failing_override_is_reported_and_on_close_is_called(self) -> None:
        def log_connection(self: Any) -> None:
            raise LookupError("mine")

        with serving(log_connection=log_connection, errors_expected=True) as running:
            WebSocketClient(running.url()).close()
            wait_until(lambda: (1000, "") in running.server.RequestHandlerClass.events)
        assert [str(error) for error in running.errors] == ["mine"]

    def test_the_lines_go_where_the_standard_library_writes(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Handler(WebSocketRequestHandler):
            pass

        with serving(Handler) as running:
            WebSocketClient(running.url()).close()
            written: list[str] = []
            wait_until(lambda: written.append(capsys.readouterr().err) or " closed " in "".join(written))
        opened, ended = "".join(written).splitlines()
        for line in (opened, ended):
            assert re.match(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "GET / HTTP/1\.1" ', line)


class TestSecrets:
    """The value of a token in the query stands in no line, whatever becomes of the request."""

    def test_of_an_upgrade(self) -> None:
        with serving() as running:
            with WebSocketClient(running.url("/?token=s3cret&room=1")) as client:
                assert client.request is None
            closed(running)
        assert "s3cret" not in "".join(lines(running))
        assert all("/?token=***&room=1 HTTP" in line for line in lines(running))

    @pytest.mark.parametrize(
        "request_bytes",
        [
            opening_request("/?token=s3cret", headers={"Origin": "http://evil.example"}),
            opening_request("/?token=s3cret", headers={"Sec-WebSocket-Version": "7"}),
            b"GET /?token=s3cret HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
            b"GET /?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /?token=s3cret HTTP/3.0\r\nHost: x\r\n\r\n",
            b"GET /?token=s3cret\r\n\r\n",
            b"GET /?a&access_token=s3cret&%74oken=s3cret HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
    )
    def test_of_what_is_refused(self, request_bytes: bytes) -> None:
        with serving() as running:
            exchange(running, request_bytes)
            wait_until(lambda: lines(running))
        assert len(lines(running)) == 1
        assert "oken=***" in lines(running)[0]
        assert "s3cret" not in lines(running)[0]

    def test_of_a_page(self) -> None:
        class Page(Quiet):
            def do_GET(self) -> None:
                assert self.path == "/?token=s3cret"
                self.send_response(204)
                self.end_headers()

        with serving(Page) as running:
            urllib.request.urlopen(running.http_url("/?token=s3cret"), timeout=SOON).close()
        assert lines(running) == ['"GET /?token=*** HTTP/1.1" 204 -']

    def test_of_a_route_with_names_of_its_own(self) -> None:
        class Chat(Quiet):
            secret_parameters = ("key",)
            lines: list[str] = []
            events: list[Any] = []

        router = Router(type("Outer", (Quiet,), {"lines": Chat.lines}))
        router.mount("/", Chat)
        with running_server(router, server_class=Quiet.default_server) as running:
            WebSocketClient(running.url("/?key=s3cret&token=open")).close()
            wait_until(lambda: len(Chat.lines) == 2)
        assert all('"GET /?key=***&token=open HTTP/1.1"' in line for line in Chat.lines)

    def test_names_must_not_be_one_str(self) -> None:
        with pytest.raises(TypeError, match="sequence of names"):
            type("Handler", (Quiet,), {"secret_parameters": "token"})
        with serving(errors_expected=True) as running:
            running.server.RequestHandlerClass.secret_parameters = "token"
            exchange(running, opening_request("/?token=s3cret"))
            wait_until(lambda: running.errors)
        assert "sequence of names" in str(running.errors[0])


EVIL = "\x1b[2J\x9b1m\u202e\x85\x7f"
HOSTILE = [
    *(row[1] for row in HANDSHAKES),
    *(opening_request() + row[1] for row in FRAMES),
    opening_request() + frame(CLOSE, b"\x03\xea" + EVIL.encode(), key=MASK),
    opening_request() + frame(CLOSE, b"\x0f\xa0" + b"x" * 123, key=MASK),
    opening_request("/?token=s3cret&" + "x" * 8000) + frame(TEXT, b"s3cret \xff", key=MASK),
    opening_request().replace(b"GET / ", b"GET /\x1b[2J\x07 "),
    opening_request().replace(b"GET / ", b"\x1b]0;title\x07 / "),
    opening_request("/?access_token=s3cret" + "\x9b"),
    opening_request(headers={"Host": "\x9bevil"}),
    opening_request(headers={"Origin": "http://evil\x9b2J"}),
    opening_request(headers={"X-Forwarded-For": "1.2.3.4, \x9b2J"}),
    opening_request(headers={"Sec-WebSocket-Protocol": "bearer.s3cret \x9b"}),
    opening_request(headers={"Sec-WebSocket-Version": "\x9b"}),
    b"GET / HTTP/1.1\r\nHost: x\r\nX: \x1b\r\nAuthorization: Bearer s3cret\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret\x00\r\n\r\n",
    b"\x1b[2J\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
    b"GET",
]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_hostile_peers_leave_few_short_lines_without_controls_and_secrets(tls: bool) -> None:
    """And never a traceback: for that, running_server sees to it that no handler raises."""
    secrets = b"Authorization: Bearer s3cret\r\nCookie: session=s3cret\r\nHost: "
    with serving(tls=tls, trusted_proxies=("127.0.0.1",), close_timeout=0.2) as running:
        for number, attack in enumerate(HOSTILE):
            sock = socket.create_connection(running.address[:2], SOON)
            if tls and number % 8:  # else what is sent is no TLS
                sock = certificates().client.wrap_socket(sock, server_hostname="localhost")
            with sock, contextlib.suppress(OSError):
                sock.sendall(attack.replace(b"Host: ", secrets, 1))
                if number % 4 == 3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                    while sock.recv(1 << 16):
                        pass
        wait_until(lambda: running.server.stats.sockets_open == 0)
    assert len(HOSTILE) < len(lines(running)) < 2 * len(HOSTILE)
    for line in lines(running):
        assert line.isascii(), line
        assert line.isprintable(), line
        assert len(line) < 1000
        assert "s3cret" not in line


class TestRequests:
    def test_a_long_one_is_cut(self) -> None:
        class Page(Quiet):
            def do_GET(self) -> None:
                self.send_response(204)
                self.end_headers()

        with serving(Page) as running:
            exchange(running, b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(lines(running)[0]) < 600
        assert lines(running)[0].endswith('xxx..." 204 -')


def test_printable_escapes_and_cuts() -> None:
    assert printable("plain") == "plain"
    assert printable("\x1b[2J\r\n\x9b") == r"\x1b[2J\r\n\x9b"
    assert printable("grün \u202e") == r"gr\xfcn \u202e"
    assert printable("x" * 101) == "x" * 100 + "..."
    assert printable("x" * 101, 200) == "x" * 101


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("GET / HTTP/1.1", "GET / HTTP/1.1"),
        ("GET /?token=a HTTP/1.1", "GET /?token=*** HTTP/1.1"),
        ("GET /token=a HTTP/1.1", "GET /token=a HTTP/1.1"),
        ("/?x=token&y=token=a", "/?x=token&y=token=a"),
        ("/?token=a=b&token=&token", "/?token=***&token=***&token"),
        ("/?%74oken=a&TOKEN=b", "/?%74oken=***&TOKEN=b"),
        ("/?a?token=b", "/?a?token=***"),
    ],
)
def test_redacted(text: str, logged: str) -> None:
    assert redacted(text, ("token",)) == logged

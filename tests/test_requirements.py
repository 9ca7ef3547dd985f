"""What hostile peers see of a running server: each row is an attack, named by the requirement in SECURITY.md.

The rules themselves are tested where they are kept (tests/protocol/...); this is that both servers keep them on the
wire, at once, and with one line in the log.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from .serving import (
    PAGE,
    Page,
    default_server,
    events,
    exchange,
    leave,
    lines,
    pytest_generate_tests,
    read_to_end,
    serving,
)
from .support import MASK, SOON, RawPeer, certificates, frame, opening_request, raw_client, running_server, wait_until
from .victim import Victim

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}


def with_lines(*more: bytes) -> bytes:
    """Return an opening request with these lines before its end."""
    return opening_request()[:-2] + b"".join(line + b"\r\n" for line in more) + b"\r\n"


def without(name: str) -> bytes:
    return opening_request(headers={name: None})


def with_header(name: str, value: str) -> bytes:
    return opening_request(headers={name: value})


HANDSHAKES = [
    ("R1-method", opening_request().replace(b"GET", b"POST"), 405),
    ("R1-1.0", opening_request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
    ("R1-2.0", opening_request().replace(b"HTTP/1.1", b"HTTP/2.0"), 505),
    ("R1-junk", b"\x00\xff\x80junk\r\n\r\n", 400),
    ("R1-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("R2-no-host", without("Host"), 400),
    ("R2-two-hosts", with_lines(b"Host: other"), 400),
    ("R2-bad-host", with_header("Host", "a b"), 400),
    ("R3-connection", with_header("Connection", "keep-alive"), 426),
    ("R4-none", without("Sec-WebSocket-Version"), 426),
    ("R4-7", with_header("Sec-WebSocket-Version", "7"), 426),
    ("R4-two", with_lines(b"Sec-WebSocket-Version: 13"), 400),
    ("R5-none", without("Sec-WebSocket-Key"), 400),
    ("R5-short", with_header("Sec-WebSocket-Key", "YWJj"), 400),
    ("R5-two", with_lines(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
    ("R6-length", with_lines(b"Content-Length: 5"), 400),
    ("R6-chunked", with_lines(b"Transfer-Encoding: chunked"), 400),
    ("R6-both", with_lines(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    ("R6-signed", with_lines(b"Content-Length: +0"), 400),
    ("R6-two", with_lines(b"Content-Length: 0", b"Content-Length: 5"), 400),
    ("R6-huge", with_lines(b"Content-Length: " + b"9" * 400), 400),
    ("R7-bare-cr", with_lines(b"X: a\rOrigin: http://localhost"), 400),
    ("R7-bare-lf", with_lines(b"X: a\nOrigin: http://localhost"), 400),
    ("R7-blank-before-colon", with_lines(b"X : a"), 400),
    ("R7-fold", with_lines(b"X: a", b" b"), 400),
    ("R7-no-colon", with_lines(b"X"), 400),
    ("R7-nul", with_lines(b"X: \x00"), 400),
    ("R7-empty-name", with_lines(b": a"), 400),
    ("R10-line", with_lines(b"X: " + b"x" * 8192), 431),
    ("R10-target", opening_request("/" + "x" * 9000), 414),
    ("R10-count", with_lines(*[b"X: y"] * 101), 431),
    ("R10-head", with_lines(*[b"X: " + b"y" * 8000] * 5), 431),
    ("R14-foreign", with_header("Origin", "http://evil.example"), 403),
    ("R14-null", with_header("Origin", "null"), 403),
    ("R14-two", with_lines(b"Origin: http://localhost", b"Origin: http://evil.example"), 400),
    ("R16-extension", with_header("Sec-WebSocket-Extensions", "permessage-deflate; ="), 400),
    ("R16-subprotocol", with_header("Sec-WebSocket-Protocol", "a, b c"), 400),
    ("R11-subprotocol", with_header("Sec-WebSocket-Protocol", "b" + " " * 8000 + "x"), 400),
    ("R11-quoted", with_header("Sec-WebSocket-Extensions", 'a; b="' + "\\" * 8000), 400),
    ("R11-repeated", with_lines(*[b"Connection: " + b"a," * 130] * 90), 101),
    ("R16-unknown", with_header("Sec-WebSocket-Extensions", "x-unknown, __proto__, permessage-bzip2"), 101),
    ("R32-bits-99", with_header("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=99"), 101),
    ("R32-twice", with_header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits" * 2), 101),
]


@pytest.mark.parametrize(("data", "status"), [row[1:] for row in HANDSHAKES], ids=[row[0] for row in HANDSHAKES])
def test_handshakes(data: bytes, status: int) -> None:
    """What follows a refused request is not looked at, be it frames or another request."""
    behind = frame(TEXT, b"smuggled", key=MASK) + PAGE
    with serving() as running:
        with raw_client(running, request=data, status=status, glued=behind if status != 101 else b"") as peer:
            assert b"permessage-deflate" not in peer.head.lower()
            if status == 101:
                assert_echo(peer)
                leave(peer)
            else:
                body = peer.read_to_end()
                assert body.startswith(f"{status} ".encode())
                assert body.count(b"\n") == 1
                assert events(running) == []
                assert len(lines(running)) == 1


def assert_echo(peer: RawPeer, text: bytes = b"x") -> None:
    peer.frame(TEXT, text)
    assert peer.read_frame()[:2] == (TEXT, text)


def masked(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    return frame(opcode, payload, **{"key": MASK, **options})


def header(first: int, length: int) -> bytes:
    """Return the header of a masked frame whose length has eight bytes, and nothing of its payload."""
    return struct.pack("!BBQ", first, 0xFF, length) + MASK


BEGUN = masked(TEXT, b"a", fin=False)
BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB_DATA = BOMB.compress(bytes(4 << 20)) + BOMB.flush(zlib.Z_SYNC_FLUSH)

FRAMES = [
    ("R17-rsv1", masked(TEXT, b"a", rsv=4), 1002),
    ("R17-rsv2", masked(TEXT, b"a", rsv=2), 1002),
    ("R17-rsv3", masked(TEXT, b"a", rsv=1), 1002),
    ("R17-ping", masked(PING, b"a", rsv=4), 1002),
    ("R18-data", b"\x83\xff" + b"\x7f" + bytes(7) + MASK, 1002),
    ("R18-control", b"\x8b\x80" + MASK, 1002),
    ("R19-text", masked(TEXT, b"a", key=None), 1002),
    ("R19-empty", masked(TEXT, b"", key=None), 1002),
    ("R19-close", masked(CLOSE, b"\x03\xe8", key=None), 1002),
    ("R20-msb", header(0x82, 1 << 63), 1002),
    ("R20-all-ones", header(0x82, (1 << 64) - 1), 1002),
    ("R20-largest", header(0x82, (1 << 63) - 1), 1009),
    ("R20-largest-in-fragment", BEGUN + header(0x80, (1 << 63) - 1), 1009),
    ("R20-not-minimal", b"\x82\xfe\x00\x7d" + MASK, 1002),
    ("R20-not-minimal-64", header(0x82, 65535), 1002),
    ("R21-ping-126", b"\x89\xfe\x00\x7e" + MASK, 1002),
    ("R21-fragmented-ping", masked(PING, b"a", fin=False), 1002),
    ("R22-nothing-to-continue", masked(CONTINUATION, b"a"), 1002),
    ("R22-new-before-end", BEGUN + masked(TEXT, b"b"), 1002),
    ("R22-behind-the-end", masked(TEXT, b"a") + masked(CONTINUATION, b"b"), 1002),
    ("R23-text", masked(TEXT, b"\xff"), 1007),
    ("R23-overlong", masked(TEXT, b"\xc0\xaf"), 1007),
    ("R23-surrogate", masked(TEXT, b"\xed\xa0\x80"), 1007),
    ("R23-cut", masked(TEXT, b"\xe2\x82"), 1007),
    ("R23-across-fragments", masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"a", fin=False), 1007),
    ("R23-in-a-begun-frame", masked(TEXT, b"\xff", length=1000), 1007),
    ("R24-one-more", header(0x82, (1 << 20) + 1), 1009),
    ("R25-in-fragments", masked(BINARY, bytes(1 << 20), fin=False) + header(0x80, 1 << 16), 1009),
    ("R26-empty", masked(BINARY, b"", fin=False) + masked(CONTINUATION, b"", fin=False) * 4096, 1008),
    ("R34-one-byte", masked(CLOSE, b"\x03"), 1002),
    ("R34-999", masked(CLOSE, b"\x03\xe7"), 1002),
    ("R34-1005", masked(CLOSE, b"\x03\xed"), 1002),
    ("R34-1006", masked(CLOSE, b"\x03\xee"), 1002),
    ("R34-1016", masked(CLOSE, b"\x03\xf8"), 1002),
    ("R34-5000", masked(CLOSE, b"\x13\x88"), 1002),
    ("R34-reason", masked(CLOSE, b"\x03\xe8\xff"), 1007),
    ("R36-nothing-after", masked(CLOSE, b"\x0f\xa0") + masked(TEXT, b"a") + masked(CLOSE, b"\x03\xe8"), 4000),
    ("R36-empty", masked(CLOSE), 1005),
]
COMPRESSED = [
    ("R17-continuation", masked(TEXT, b"", fin=False) + masked(CONTINUATION, b"a", rsv=4), 1002),
    ("R17-compressed-close", masked(CLOSE, b"\x03\xe8", rsv=4), 1002),
    ("R23-compressed", masked(TEXT, b"\x01\x01\x00\xfe\xff\xff\x00", rsv=4), 1007),
    ("R31-bomb", masked(BINARY, BOMB_DATA, rsv=4), 1009),
    ("R33-corrupt", masked(BINARY, b"\x07\xff\xff", rsv=4), 1007),
    ("R33-truncated", masked(BINARY, BOMB_DATA[:20], rsv=4), 1007),
]
ROWS = [(name, data, code, {}) for name, data, code in FRAMES]
ROWS += [(name, data, code, DEFLATE) for name, data, code in COMPRESSED]


@pytest.mark.parametrize(("data", "code", "headers"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_frames(data: bytes, code: int, headers: dict[str, str | None]) -> None:
    """The Close comes though the payload does not, and behind it the stream ends."""
    with serving() as running:
        with raw_client(running, headers=headers) as peer:
            peer.send(data)
            assert peer.read_close() == code
            peer.sock.shutdown(socket.SHUT_WR)
            assert peer.read_to_end() == b""
        wait_until(lambda: isinstance(events(running)[-1], tuple))  # on_close
        wait_until(lambda: any("closed" in line for line in lines(running)))
        assert len(lines(running)) == 2  # the request, and the end


def test_pings_within_a_message_are_answered_before_it_ends() -> None:
    """R21, R22: and Pongs that nobody asked for are passed over."""
    with serving() as running, raw_client(running) as peer:
        peer.send(BEGUN + masked(PONG, b"?") + masked(PING, b"now"))
        assert peer.read_frame()[:2] == (PONG, b"now")
        peer.send(masked(CONTINUATION, b"b"))
        assert peer.read_frame()[:2] == (TEXT, b"ab")
        leave(peer)


def test_the_limit_itself_passes() -> None:
    """R24."""
    with serving() as running, raw_client(running) as peer:
        peer.frame(BINARY, bytes(1 << 20))
        assert len(peer.read_frame().payload) == 1 << 20
        leave(peer)


def test_final_blocks_and_empty_messages_lose_nothing() -> None:
    """R33: RFC 7692, 7.2.3.5; CVE-2026-87022."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    final = compressor.compress(b"one") + compressor.flush(zlib.Z_FINISH) + b"\x00"
    with serving() as running, raw_client(running, headers=DEFLATE) as peer:
        for payload, text in ((final, b"one"), (final, b"one"), (b"\x00", b""), (b"\x02\x00", b"")):
            peer.frame(TEXT, payload, rsv=4)
            assert peer.read_frame().payload == text
        leave(peer)


class Leaving(Page):
    """Closes with the first message, or at once."""

    close_timeout = 0.3

    def on_open(self) -> None:
        if self.path == "/at-once":
            self.websocket.start_close(4001, "no room")

    def on_message(self, message: str | bytes) -> None:
        self.websocket.start_close(4000)


@pytest.mark.parametrize("floods", [False, True], ids=["stalls", "floods"])
def test_after_our_close_the_stream_ends_whatever_the_peer_does(floods: bool) -> None:
    """R37: CVE-2024-23672."""
    with serving(Leaving) as running, raw_client(running) as peer:
        peer.frame(TEXT, b"x")
        assert peer.read_close() == 4000
        with contextlib.suppress(ConnectionError):
            while floods:
                peer.send(masked(BINARY, bytes(60_000)))
        peer.read_to_end()  # TimeoutError if it never ends
        wait_until(lambda: not len(running.server.registry))


def assert_ends_without_reset(running: Any, peer: RawPeer) -> None:
    """A reset makes what has arrived and was not read yet be lost, on some systems."""
    peer.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: not len(running.server.registry))
    assert peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_the_last_bytes_arrive_behind_unread_input() -> None:
    """R38: RFC 9112, 9.6."""
    with serving(Leaving, close_timeout=5) as running:
        for _ in range(5):
            with raw_client(running, "/at-once", glued=masked(BINARY, bytes(100_000)) * 3) as peer:
                got = peer.read_frame()
                assert got[:2] == (CLOSE, b"\x0f\xa1no room")
                peer.close_frame(4001)
                assert_ends_without_reset(running, peer)
            for head in (without("Host"), b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"):
                with raw_client(running, request=head, glued=bytes(300_000), status=400) as peer:
                    assert peer.read_to_end().startswith(b"400 ")
                    assert_ends_without_reset(running, peer)


@pytest.mark.parametrize("begun", [b"", b"\x82", masked(BINARY, b"a", length=1000)], ids=["silent", "header", "frame"])
def test_a_peer_that_answers_no_ping_is_given_up(begun: bytes) -> None:
    """R40: also in the middle of a frame."""
    with serving(ping_interval=0.2, ping_timeout=0.3) as running, raw_client(running) as peer:
        peer.send(begun)
        assert peer.read_close() == 1011
        peer.read_to_end()
        wait_until(lambda: len(lines(running)) == 2)
        assert "no answer to a Ping" in lines(running)[1]


@pytest.mark.parametrize("error", [LookupError, MemoryError, RecursionError, ImportError])
@pytest.mark.parametrize("hook", ["on_open", "on_message"])
def test_an_exception_costs_its_own_connection(hook: str, error: type[Exception]) -> None:
    """R59, R62."""

    class Handler(Page):
        def fail(self, *arguments: Any) -> None:
            if self.path == "/bad":
                raise error("bad")
            if arguments:
                super().on_message(*arguments)

    setattr(Handler, hook, Handler.fail)
    with serving(Handler, errors_expected=True) as running:
        with raw_client(running) as other:
            with raw_client(running, "/bad") as peer:
                peer.frame(TEXT, b"x")
                assert peer.read_close() == 1011
                leave(peer)
            assert_echo(other)
            leave(other)
        with raw_client(running) as other:
            assert_echo(other)
            leave(other)
    assert [type(found) for found in running.errors] == [error]


@pytest.mark.parametrize("error", [MemoryError, ImportError])
def test_a_handler_that_cannot_be_made_costs_its_own_connection(error: type[Exception]) -> None:
    """R62."""
    failed = []

    def make(request: Any, client_address: Any, server: Any) -> Any:
        if not failed:
            failed.append(True)
            raise error("made")
        return Page_(request, client_address, server)

    Page_ = type("Own", (Page,), {"events": [], "lines": []})
    with running_server(make, server_class=Page.default_server, errors_expected=True) as running:
        with contextlib.suppress(OSError):  # it is closed with the request unread
            assert exchange(running, PAGE) == b""
        with raw_client(running) as peer:
            assert_echo(peer)
            leave(peer)
    assert [type(found) for found in running.errors] == [error]


@contextlib.contextmanager
def victim(**options: Any) -> Iterator[Victim]:
    with Victim(pool="Pooling" in Page.default_server.__name__, **options) as running:
        yield running


@pytest.mark.slow
def test_three_hundred_that_come_at_once_are_served() -> None:
    """R44: the accepting thread waits for nobody."""
    with victim() as running, contextlib.ExitStack() as stack:
        socks = []
        for _ in range(300):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(running.address)
            socks.append(sock)
        for sock in socks:
            assert select.select([], [sock], [], 15)[1]
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            sock.settimeout(15)
            sock.sendall(PAGE.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        for sock in socks:
            assert read_to_end(sock).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_streams_that_end_anywhere_leave_nothing_to_do(tls: bool) -> None:
    """R39: CVE-2017-2670, CVE-2026-42577: no thread, no descriptor, and no turn of a busy loop."""
    parts = [
        b"",
        b"GET / HT",
        opening_request()[:-1],
        opening_request(),
        opening_request() + masked(BINARY, b"", length=1000),
        opening_request() + masked(BINARY, bytes(10), fin=False),
        opening_request() + masked(CLOSE, b"\x03\xe8"),
    ]
    with victim(tls=tls) as running:
        with raw_client(running) as peer:
            assert_echo(peer)
            peer.close_frame()
            peer.read_close()
        descriptors, threads = running.open_descriptors(), running.threads()
        with contextlib.ExitStack() as stack:
            for number in range(42):
                sock = stack.enter_context(_connection(running))
                sock.sendall(parts[number % 7])
                if number % 3 == 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
                elif number % 3 == 1:
                    socket.socket.shutdown(sock, socket.SHUT_WR)
                else:
                    sock.close()
            wait_until(lambda: running.open_descriptors() <= descriptors)
            wait_until(lambda: running.threads() <= threads + 8)  # a pool keeps its workers
            before = running.seconds()
            time.sleep(1)
            assert running.seconds() - before < 0.2


def _connection(running: Any) -> socket.socket:
    sock = socket.create_connection(running.address, SOON)
    return certificates().client.wrap_socket(sock, server_hostname="localhost") if running.tls else sock

"""Bounded memory: what hostile peers can make a server hold, by the resident size of a real server process.

The bounds are those of docs/reference/limits.rst. Each attack has a process of its own, which has served ordinary
clients before: what comes on top of that counts, at its peak.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocketserver import PoolingWebSocketServer, ThreadingWebSocketServer

from .support import MASK, SOON, RawPeer, frame, opening_request, raw_client, wait_until
from .victim import MIB, Victim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}
PROBE = 15.0  # seconds that an honest client may wait while an attack goes on, on a machine that is busy with others


@pytest.fixture(params=[ThreadingWebSocketServer, PoolingWebSocketServer], ids=["Threading", "Pooling"])
def attacked(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return what starts a server of either kind that has been warmed up."""

    @contextlib.contextmanager
    def start(**options: Any) -> Iterator[Victim]:
        with Victim(pool=request.param is PoolingWebSocketServer, **options) as victim:
            for headers in ({}, DEFLATE):
                with raw_client(victim, headers=headers) as peer:
                    for size in (1, 1000, 100_000):
                        echo(peer, bytes(size))
                    peer.frame(BINARY, deflated(bytes(100_000)), rsv=4 if headers else 0)
                    peer.read_frame()
                    leave(peer)
            yield victim

    return start


def echo(peer: RawPeer, payload: bytes = b"x") -> None:
    peer.frame(BINARY, payload)
    assert peer.read_frame().opcode == BINARY


def leave(peer: RawPeer) -> None:
    peer.close_frame()
    peer.read_close()


def probe(victim: Victim) -> None:
    """Be an honest client."""
    began = time.monotonic()
    with raw_client(victim) as peer:
        echo(peer)
        assert time.monotonic() - began < PROBE
        leave(peer)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def masked(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    return frame(opcode, payload, key=MASK, **options)


def push(sock: socket.socket, data: bytes, size: int, seconds: float = 1.0) -> int:
    """Send the data again and again, so many bytes at most, until the other end takes none for so long or has ended
    the stream; return how many it took."""
    sock.settimeout(seconds)
    view, sent = memoryview(data), 0
    with contextlib.suppress(OSError):
        while sent < size:
            sent += sock.send(view[sent % len(data) :])
    sock.settimeout(SOON)
    return sent


@contextlib.contextmanager
def clients(victim: Victim, count: int, path: str = "/", **options: Any) -> Iterator[list[RawPeer]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(raw_client(victim, path, **options)) for _ in range(count)]


@contextlib.contextmanager
def connected(victim: Victim) -> Iterator[socket.socket]:
    with socket.create_connection(victim.address, SOON) as sock:
        yield sock


class TestHeads:
    @pytest.mark.parametrize(
        ("begin", "more"),
        [
            (b"GET /", b"x"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X" * 8000 + b": y\r\n"),
            (b"\r\n", b"\r\n"),
            (b"\x00", b"\xff"),
        ],
        ids=["line", "value", "headers", "large-headers", "empty-lines", "junk"],
    )
    def test_endless(self, attacked: Any, begin: bytes, more: bytes) -> None:
        with attacked() as victim, victim.growing_at_most(2 * MIB):
            for _ in range(5):
                with connected(victim) as sock:
                    sock.sendall(begin)
                    assert push(sock, more * 1000, 16 * MIB) < 16 * MIB
            probe(victim)

    def test_many_that_are_almost_whole(self, attacked: Any) -> None:
        """100 clients with 32 KiB each: what they sent, four times at most."""
        lines = b"".join(b"X: %s\r\n" % (b"y" * 8000) for _ in range(3))
        part = opening_request()[:-2] + lines + b"X: " + b"z" * 8000
        with attacked() as victim, contextlib.ExitStack() as stack:
            for _ in range(100):  # the threads are not what is measured
                stack.enter_context(connected(victim)).sendall(b"G")
            wait_until(lambda: victim.open_descriptors() > 100)
            socks = [stack.enter_context(connected(victim)) for _ in range(100)]
            with victim.growing_at_most(100 * 4 * len(part) + 8 * MIB):
                for sock in socks:
                    sock.sendall(part)
                probe(victim)

    def test_pipelined_requests_whose_answers_nobody_reads(self, attacked: Any) -> None:
        """CVE-2026-100658: 4 MiB of them."""
        with attacked() as victim, connected(victim) as sock, victim.growing_at_most(2 * MIB):
            push(sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, 4 * MIB)
            probe(victim)

    def test_what_follows_a_refusal(self, attacked: Any) -> None:
        with attacked() as victim, victim.growing_at_most(2 * MIB):
            for request in (opening_request(headers={"Sec-WebSocket-Key": "x"}), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"):
                with connected(victim) as sock:
                    sock.sendall(request)
                    assert push(sock, bytes(1 << 16), 16 * MIB) < 16 * MIB
            probe(victim)


class TestFragments:
    @pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "1-byte"])
    def test_more_than_allowed(self, attacked: Any, payload: bytes) -> None:
        """CVE-2026-48779, CVE-2026-62389: 60,000 in one message."""
        with attacked() as victim, raw_client(victim) as peer, victim.growing_at_most(2 * MIB):
            data = masked(BINARY, payload, fin=False) + masked(CONTINUATION, payload, fin=False) * 60_000
            with contextlib.suppress(ConnectionError):
                peer.send(data)
            assert peer.read_close() == 1008

    def test_as_many_as_allowed_from_many(self, attacked: Any) -> None:
        """What the fragments of a message cost is what they hold, not how many they are."""
        with attacked() as victim, clients(victim, 50) as peers, victim.growing_at_most(3 * MIB):
            data = masked(BINARY, b"x", fin=False) + masked(CONTINUATION, b"x", fin=False) * 4000
            for peer in peers:
                peer.send(data + masked(PING))
            for peer in peers:
                assert peer.read_frame().opcode == PONG
            probe(victim)

    @pytest.mark.parametrize("headers", [{}, DEFLATE], ids=["plain", "deflate"])
    def test_that_are_too_much_together(self, attacked: Any, headers: dict[str, str | None]) -> None:
        piece, rsv = (deflated(bytes(1 << 16)) + b"\x00\x00\xff\xff", 4) if headers else (bytes(1 << 16), 0)
        with attacked() as victim, raw_client(victim, headers=headers) as peer, victim.growing_at_most(5 * MIB):
            with contextlib.suppress(ConnectionError):
                peer.frame(BINARY, piece, fin=False, rsv=rsv)
                for _ in range(1000):
                    peer.frame(CONTINUATION, piece, fin=False)
            assert peer.read_close() == 1009


class TestMessages:
    def test_declared_and_never_delivered(self, attacked: Any) -> None:
        """CVE-2022-35922, CVE-2026-54274: 100 of 1 MiB each, of which a few bytes come."""
        with attacked() as victim, clients(victim, 100) as peers, victim.growing_at_most(5 * MIB):
            for peer in peers:
                peer.send(masked(BINARY, bytes(10), length=MIB))
            probe(victim)

    def test_larger_than_allowed(self, attacked: Any) -> None:
        with attacked() as victim, clients(victim, 20) as peers, victim.growing_at_most(2 * MIB):
            for size, peer in zip((MIB + 1, 1 << 31, (1 << 63) - 1, 1 << 40) * 5, peers, strict=True):
                peer.send(masked(BINARY, b"", length=size))
                assert peer.read_close() == 1009

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_byte_by_byte(self, attacked: Any, tls: bool) -> None:
        """CVE-2026-123817: 20,000 writes of one byte each."""
        with attacked(tls=tls) as victim, raw_client(victim) as peer, victim.growing_at_most(2 * MIB):
            data = masked(BINARY, bytes(20_000))
            for number in range(len(data)):
                peer.sock.send(data[number : number + 1])
            assert peer.read_frame().payload == bytes(20_000)

    @pytest.mark.parametrize("pieces", [1, 50], ids=["one-frame", "fragments"])
    def test_bombs(self, attacked: Any, pieces: int) -> None:
        """CVE-2018-1000518 and others: 128 MiB of zeros in 130 KB."""
        bomb = deflated(bytes(128 * MIB))
        step = -(-len(bomb) // pieces)
        parts = [bomb[begin : begin + step] for begin in range(0, len(bomb), step)]
        with attacked() as victim, victim.growing_at_most(5 * MIB):
            for _ in range(3):
                with raw_client(victim, headers=DEFLATE) as peer:
                    with contextlib.suppress(ConnectionError):
                        for number, part in enumerate(parts):
                            last = number == len(parts) - 1
                            peer.frame(CONTINUATION if number else BINARY, part, rsv=0 if number else 4, fin=last)
                    assert peer.read_close() == 1009
            probe(victim)


class TestUnread:
    """The peer sends, or asks for answers, and what comes of it is not read."""

    @pytest.mark.parametrize("size", [0, 1, 1000, 60_000])
    def test_inbox(self, attacked: Any, size: int) -> None:
        """max_queue_size (1 MiB), whatever the size of the messages, twice for what objects cost, and a read ahead."""
        with attacked() as victim, raw_client(victim, "/deaf") as peer, victim.growing_at_most(4 * MIB):
            messages = masked(BINARY, bytes(size)) * (1 + 64_000 // (size + 6))
            assert push(peer.sock, messages, 64 * MIB) < 32 * MIB
            probe(victim)

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_answers(self, attacked: Any, tls: bool) -> None:
        """The handler is blocked in send while its connection reads until the inbox is full: about 1 MiB for each."""
        with attacked(tls=tls) as victim, clients(victim, 5) as peers, victim.growing_at_most(5 * 3 * MIB):
            for peer in peers:
                push(peer.sock, masked(BINARY, bytes(60_000)), 32 * MIB, 0.2)
            probe(victim)

    def test_pongs(self, attacked: Any) -> None:
        """Only the newest is kept: 16 MiB of Pings, and no Pong is read."""
        with attacked() as victim, raw_client(victim) as peer, victim.growing_at_most(2 * MIB):
            assert push(peer.sock, masked(PING, bytes(125)) * 500, 16 * MIB, 15) >= 16 * MIB
            probe(victim)

    def test_pings_and_pongs_of_a_handler_that_does_not_read(self, attacked: Any) -> None:
        with attacked() as victim, raw_client(victim, "/deaf") as peer, victim.growing_at_most(2 * MIB):
            push(peer.sock, (masked(PING, bytes(125)) + masked(PONG, bytes(125))) * 250, 25 * MIB)
            probe(victim)

    def test_broadcasts(self, attacked: Any) -> None:
        """Nothing is kept for who does not read: who broadcasts waits for it, up to its send_timeout."""
        with attacked(handler={"send_timeout": 0.5}) as victim, clients(victim, 5), raw_client(victim) as teller:
            with victim.growing_at_most(2 * MIB):
                taken = []
                for _ in range(200):  # 12.5 MiB for each
                    teller.frame(TEXT, b"tell all")
                    while (answer := teller.read_frame()).opcode != TEXT:
                        pass
                    taken.append(int(answer.payload))
                assert taken[0] == 6
                assert taken[-1] == 1  # the teller itself
                probe(victim)


class TestLeaks:
    """1,000 that leave without a word, 500 that are refused, 200 that reset: all is given back."""

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_clients_that_come_and_go(self, attacked: Any, tls: bool) -> None:
        def come_and_go(times: int) -> None:
            for number in range(10 * times):
                with connected(victim) as sock:
                    sock.sendall(parts[number % len(parts)])
            for number in range(5 * times):
                with raw_client(victim, request=refused[number % 2], status=(400, 405)[number % 2]):
                    pass
            for _ in range(2 * times):
                with raw_client(victim) as peer:
                    peer.send(masked(BINARY, bytes(1000), fin=False) + b"\x82")
                    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        parts = [b"", b"\x16\x03" if tls else b"GET / HT", opening_request(), b"\x16\x03\x01\x02\x00\x01" + bytes(30)]
        refused = [opening_request(headers={"Host": None}), opening_request().replace(b"GET", b"POST")]
        with attacked(tls=tls) as victim:
            descriptors, threads = victim.open_descriptors(), victim.threads()
            come_and_go(5)
            with victim.growing_at_most(10 * MIB):
                come_and_go(20 if tls else 100)
                wait_until(lambda: victim.open_descriptors() <= descriptors)
            probe(victim)
            wait_until(lambda: victim.threads() <= threads + 2 * PoolingWebSocketServer.max_workers)

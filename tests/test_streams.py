"""Streams: a socket as rfile and wfile, under limits that hold."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocketserver.deadline import Deadline
from websocketserver.streams import (
    GRACE,
    LINGER_SIZE,
    SLICE,
    AfterUpgrade,
    Link,
    Pace,
    Rate,
    SocketReader,
    SocketWriter,
)

from .support import SOON, run_in_thread, socket_pair


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    ours, theirs = socket_pair(tcp=True)
    theirs.settimeout(SOON)
    with ours, theirs:
        yield Link(ours, Deadline(SOON)), theirs


class TestPace:
    def test_counts_waiting(self) -> None:
        pace = Pace(10)
        pace.count(waited=4, moved=100)
        assert pace.left() == 6
        pace.count(waited=7, moved=100)
        assert pace.left() == 0

    def test_begins_anew_with_every_slice(self) -> None:
        pace = Pace(10)
        pace.count(waited=9, moved=SLICE - 1)
        assert pace.left() == 1
        pace.count(waited=1, moved=1)
        assert pace.left() == 10

    def test_none_is_no_limit(self) -> None:
        pace = Pace(None)
        pace.count(waited=1000, moved=0)
        assert pace.left() is None


class TestRate:
    @pytest.fixture
    def clock(self) -> Callable[[], float]:
        self.now = 100.0
        return lambda: self.now

    def test_leaves_the_deadline_alone_until_something_comes(self, clock: Callable[[], float]) -> None:
        rate = Rate(Deadline(10, clock), 500, clock)
        rate.count(waited=4, moved=0)
        assert rate.left() == 10
        self.now += 10
        assert rate.left() == 0

    def test_counts_from_the_first_byte(self, clock: Callable[[], float]) -> None:
        rate = Rate(Deadline(10, clock), 500, clock)
        self.now += 2
        rate.count(waited=2, moved=1)
        assert rate.left() == pytest.approx(GRACE + 0.002)
        self.now += 1
        rate.count(waited=1, moved=1)
        assert rate.left() == pytest.approx(GRACE + 0.004 - 1)

    def test_leaves_a_second_for_every_minimum_but_no_more_than_the_deadline(self, clock: Callable[[], float]) -> None:
        rate = Rate(Deadline(10, clock), 500, clock)
        rate.count(waited=0, moved=1000)
        assert rate.left() == pytest.approx(GRACE + 2)
        rate.count(waited=0, moved=1000)
        assert rate.left() == pytest.approx(GRACE + 4)
        rate.reach(8000)
        assert rate.left() == 10

    def test_without_a_minimum_is_the_deadline(self, clock: Callable[[], float]) -> None:
        rate = Rate(Deadline(None, clock), None, clock)
        rate.count(waited=5, moved=1)
        assert rate.left() is None

    def test_alone_bounds_what_has_no_deadline(self, clock: Callable[[], float]) -> None:
        rate = Rate(Deadline(None, clock), 500, clock)
        assert rate.left() is None
        rate.reach(1)
        assert rate.left() == pytest.approx(GRACE + 0.002)


class TestReading:
    def test_lines_and_bodies(self, ends: Any) -> None:
        link, theirs = ends
        theirs.sendall(b"one\r\ntwo\r\nbody")
        theirs.shutdown(socket.SHUT_WR)
        reader = SocketReader(link)
        with io.BufferedReader(reader) as rfile:
            assert rfile.readline() == b"one\r\n"
            assert rfile.tell() == 5
            assert rfile.readline() == b"two\r\n"
            assert rfile.read(4) == b"body"
            assert rfile.read() == b""
            assert rfile.tell() == 14
            assert rfile.fileno() == link.sock.fileno()

    def test_stops_without_losing_what_was_read(self, ends: Any) -> None:
        link, theirs = ends
        theirs.sendall(b"head\r\nframes")
        reader = SocketReader(link)
        with io.BufferedReader(reader) as rfile:
            assert rfile.readline() == b"head\r\n"
            reader.stop()
            theirs.sendall(b"later")
            assert rfile.read() == b"frames"
            assert rfile.read() == b""
        assert link.sock.recv(100) == b"later"

    def test_looks_ahead_without_a_file(self, ends: Any) -> None:
        link, theirs = ends
        theirs.sendall(b"head\r\nframes")
        reader = SocketReader(link)
        assert reader.look() == reader.look() == b"head\r\nframes"
        assert reader.tell() == 0
        reader.skip(6)
        assert reader.tell() == 6
        with io.BufferedReader(reader) as rfile:
            assert rfile.read(3) == b"fra"
        theirs.sendall(b"later")
        reader.stop()
        assert reader.look() == b""
        assert link.sock.recv(100) == b"later"

    def test_ends_with_the_deadline_of_the_whole(self, ends: Any) -> None:
        link, theirs = ends
        link.limit = Deadline(0.1)
        done = threading.Event()

        def drip() -> None:
            while not done.wait(0.02):
                theirs.sendall(b"x")

        dripping = run_in_thread(drip)
        with io.BufferedReader(SocketReader(link)) as rfile:
            with pytest.raises(TimeoutError) as caught:
                rfile.read(1000)
            assert link.error is caught.value
            with pytest.raises(TimeoutError):
                rfile.read(1000)
            link.limit = Deadline(SOON)  # unlike a file of socket.makefile it can be read again
            assert rfile.read(1) == b"x"
        done.set()
        dripping.result()

    def test_remembers_a_reset(self, ends: Any) -> None:
        link, theirs = ends
        link.sock.sendall(b"x")
        theirs.close()  # with a byte unread: that is a reset
        with pytest.raises(ConnectionError) as caught:
            while True:
                link.send(memoryview(b"x"))
        assert link.error is caught.value


class TestWriting:
    def test_takes_all_of_anything(self, ends: Any) -> None:
        link, theirs = ends
        writer = SocketWriter(link)
        data = bytes(range(256)) * 20_000
        with theirs.makefile("rb") as file:
            received = run_in_thread(file.read, len(data))
            assert writer.write(data) == len(data)
            assert received.result() == data
        assert writer.write(memoryview(b"\1\0\2\0").cast("H")) == 4
        assert theirs.recv(100) == b"\1\0\2\0"
        assert writer.write(b"") == 0
        assert writer.writable()
        assert writer.fileno() == link.sock.fileno()

    def test_ends_with_its_limit(self, ends: Any) -> None:
        link, _ = ends
        link.limit = Pace(0.1)
        with pytest.raises(TimeoutError) as caught:
            SocketWriter(link).write(bytes(1 << 25))
        assert link.error is caught.value


class TestEnd:
    def test_says_so(self, ends: Any) -> None:
        link, theirs = ends
        link.send(memoryview(b"last"))
        link.end(linger=False)
        assert theirs.recv(100) == b"last"
        assert theirs.recv(100) == b""

    def test_reads_on_so_that_the_answer_arrives(self, ends: Any) -> None:
        link, theirs = ends
        theirs.sendall(bytes(100_000))
        link.send(memoryview(b"answer"))
        ending = run_in_thread(link.end, linger=True)
        assert theirs.recv(100) == b"answer"
        theirs.shutdown(socket.SHUT_WR)
        ending.result()
        link.sock.close()
        assert theirs.recv(100) == b""

    def test_reads_on_for_a_bounded_size(self, ends: Any) -> None:
        link, theirs = ends

        def flood() -> int:
            sent = 0
            try:
                while True:
                    sent += theirs.send(bytes(SLICE))
            except OSError:
                return sent

        flooding = run_in_thread(flood)
        link.end(linger=True)
        link.sock.close()
        assert flooding.result() >= LINGER_SIZE

    def test_does_not_wait_for_who_is_gone(self, ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.streams.LINGER_TIME", 1000)
        link, _ = ends
        link.error = ConnectionResetError()
        run_in_thread(link.end, linger=True).result()


class TestAfterUpgrade:
    def test_explains_itself(self) -> None:
        rfile: Any = AfterUpgrade("rfile", "recv()")
        for use in (lambda: rfile.read(1), lambda: list(rfile), lambda: rfile.anything):
            with pytest.raises(RuntimeError, match=r"rfile .* use self\.websocket\.recv\(\)"):
                use()

    def test_can_be_ended_again(self) -> None:
        wfile = AfterUpgrade("wfile", "send(message)")
        assert wfile.closed
        wfile.flush()
        wfile.close()

"""Pump: whoever waits, pumps; nothing that was received is lost, and the inbox has a bound."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver.connection import Role, State
from websocketserver.deadline import Deadline
from websocketserver.exceptions import ConnectionClosed, ConnectionClosedOK
from websocketserver.settings import Settings

from .support import MASK, MS, SOON, Handle, RawPeer, frame, half, pipe, run_in_thread, wait_until

pytestmark = pytest.mark.usefixtures("no_timer")


def pumping(connection: object) -> bool:
    return bool(connection._pumping and connection._idle or connection._waiting)  # type: ignore[attr-defined]


class TestTimeouts:
    def test_recv_times_out_and_goes_on(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls) as (connection, peer):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    connection.recv(5 * MS)
            peer.frame(1, b"here")
            assert connection.recv(SOON) == "here"

    def test_recv_that_times_out_in_a_frame_loses_nothing(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            for byte in frame(1, b"x" * 130, key=MASK)[:12]:
                peer.send(bytes([byte]))
                with pytest.raises(TimeoutError):
                    connection.recv(2 * MS)
            peer.send(frame(1, b"x" * 130, key=MASK)[12:])
            assert connection.recv(SOON) == "x" * 130

    def test_recv_that_times_out_in_a_large_frame_loses_nothing(self, tls: bool) -> None:
        """What is left of it is read straight into the message."""
        data = bytes(range(256)) * 1000
        whole = frame(2, data, key=MASK)
        with half(tls=tls) as (connection, peer):
            for start in range(0, len(whole), 50_000):
                with pytest.raises(TimeoutError):
                    connection.recv(2 * MS)
                peer.send(whole[start : start + 50_000])
            assert connection.recv(SOON) == data

    def test_recv_that_times_out_between_fragments_loses_nothing(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(1, b"one ", fin=False)
            with pytest.raises(TimeoutError):
                connection.recv(5 * MS)
            peer.frame(0, b"two", fin=True)
            assert connection.recv(SOON) == "one two"

    def test_zero_looks_what_is_there(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            with pytest.raises(TimeoutError):
                connection.recv(0)
            peer.frame(1, b"one")
            peer.frame(1, b"two")
            assert connection._transport.wait(True, False, Deadline(SOON))[0]
            assert connection.recv(0) == "one"
            assert connection.recv(0) == "two"
            with pytest.raises(TimeoutError):
                connection.recv(0)

    def test_zero_finds_a_message_of_many_reads(self) -> None:
        with half() as (connection, peer):
            peer.frame(2, bytes(100_000))
            assert len(connection.recv(0)) == 100_000

    def test_thread_that_waits_for_the_pump_times_out_too(self) -> None:
        with half() as (connection, peer):
            first = run_in_thread(connection.recv, SOON)
            wait_until(lambda: pumping(connection))
            with pytest.raises(TimeoutError):
                connection.recv(5 * MS)
            peer.frame(1, b"x")
            assert first.result() == "x"


PINGS = frame(9, b"p", key=MASK) * 1000


@contextlib.contextmanager
def flood(peer: RawPeer, data: bytes) -> Iterator[None]:
    """Send the data again and again, and read nothing."""
    stop = threading.Event()
    peer.sock.settimeout(50 * MS)

    def send() -> None:
        rest = memoryview(data)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                rest = rest[peer.sock.send(rest) :] or memoryview(data)

    flooding = run_in_thread(send)
    try:
        yield
    finally:
        stop.set()
        flooding.result()


class TestFlood:
    """A peer that sends on and on holds nobody past a deadline."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.pump.MOST_LATE", 2)  # thousands of frames in each read

    def test_recv_times_out_under_a_flood_of_pings(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer), flood(peer, PINGS):
            with pytest.raises(TimeoutError):
                run_in_thread(connection.recv, 50 * MS).result()

    def test_recv_times_out_under_a_flood_of_fragments(self) -> None:
        settings = Settings(max_fragments=None, max_message_size=None)
        with half(settings=settings) as (connection, peer):
            peer.frame(2, b"", fin=False)
            with flood(peer, frame(0, b"x", fin=False, key=MASK) * 1000), pytest.raises(TimeoutError):
                run_in_thread(connection.recv, 50 * MS).result()

    def test_pong_is_awaited_no_longer_under_a_flood_of_pings(self) -> None:
        with half() as (connection, peer), flood(peer, PINGS):
            with pytest.raises(TimeoutError):
                run_in_thread(connection.ping(b"other").wait, 50 * MS).result()

    def test_send_times_out_under_a_flood_of_pings(self) -> None:
        """Pings do not fill the inbox, so the writer never ceases to read."""
        with half() as (connection, peer):
            readable = connection._transport.wait

            def wait(*args: Any) -> tuple[bool, bool]:  # the peer is always quick enough
                return args[0], readable(*args)[1]

            connection._transport.wait = wait  # type: ignore[method-assign]
            with flood(peer, PINGS), pytest.raises(TimeoutError):
                run_in_thread(connection.send, bytes(8 << 20), timeout=50 * MS).result()

    def test_close_ends_under_a_flood(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer), flood(peer, PINGS):
            run_in_thread(connection.close, timeout=50 * MS).result()
            assert connection.state is State.CLOSED

    def test_receiver_with_a_pong_to_send_waits_quietly_for_a_busy_writer(self) -> None:
        """Who holds the write lock will send it: to poll for room meanwhile would be to spin, deadline or not."""
        with half() as (connection, peer):
            with connection._output.lock:  # as a writer that compresses
                peer.frame(9, b"p")
                waits = 0
                wait = connection._transport.wait

                def count(*args: Any) -> tuple[bool, bool]:
                    nonlocal waits
                    waits += 1
                    return wait(*args)

                connection._transport.wait = count  # type: ignore[method-assign]
                with pytest.raises(TimeoutError):
                    run_in_thread(connection.recv, 50 * MS).result()
                assert waits < 10
            connection.send("x")
            assert peer.read_frame()[:2] == (10, b"p")


class TestThreads:
    def test_threads_share_the_messages(self, tls: bool) -> None:
        count, got = 2000, []
        with pipe(tls=tls) as (client, server):

            def receive() -> None:
                for message in server:
                    got.append(int(message))

            receivers = [run_in_thread(receive) for _ in range(4)]
            for number in range(count):
                client.send(str(number))
            client.close(timeout=SOON)
            for receiver in receivers:
                receiver.result()
        assert sorted(got) == list(range(count))

    def test_each_thread_gets_its_own_in_order(self) -> None:
        with pipe() as (client, server):
            lists: list[list[int]] = [[], []]

            def receive(got: list[int]) -> None:
                for message in server:
                    got.append(int(message))

            receivers = [run_in_thread(receive, got) for got in lists]
            for number in range(500):
                client.send(str(number))
            client.close(timeout=SOON)
            for receiver in receivers:
                receiver.result()
            assert all(got == sorted(got) for got in lists)
            assert len(lists[0]) + len(lists[1]) == 500

    def test_all_waiting_threads_learn_the_end(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            receivers = [run_in_thread(connection.recv) for _ in range(4)]
            wait_until(lambda: connection._waiting == 3)
            peer.close_frame(1000)
            for receiver in receivers:
                with pytest.raises(ConnectionClosedOK):
                    receiver.result()

    def test_abort_wakes_all_waiting_threads(self, tls: bool) -> None:
        with half(tls=tls) as (connection, _):
            receivers = [run_in_thread(connection.recv) for _ in range(3)]
            wait_until(lambda: connection._waiting == 2)
            connection.abort()
            for receiver in receivers:
                with pytest.raises(ConnectionClosed):
                    receiver.result()

    def test_next_waiting_thread_takes_over_the_pump(self, tls: bool) -> None:
        """The pump tells all when it is left."""
        with half(tls=tls) as (connection, peer):
            receivers = [run_in_thread(connection.recv, SOON) for _ in range(3)]
            wait_until(lambda: connection._waiting == 2)
            for number in range(3):
                peer.frame(1, b"%d" % number)
            assert sorted(receiver.result() for receiver in receivers) == ["0", "1", "2"]

    def test_pump_that_times_out_hands_over(self) -> None:
        with half() as (connection, peer):
            first = run_in_thread(connection.recv, 150 * MS)
            wait_until(lambda: pumping(connection))
            second = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._waiting)
            with pytest.raises(TimeoutError):
                first.result()
            peer.frame(1, b"for the second")
            assert second.result() == "for the second"

    def test_whoever_waits_for_something_else_keeps_the_messages(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            waiter = connection.ping(b"p")
            peer.numbers(100, 10, b"p")
            assert waiter.wait(SOON) >= 0
            assert [connection.recv(0) for _ in range(100)] == [str(number) for number in range(100)]


class TestInbox:
    """A full inbox stops the parser and pushes back through TCP; what is in it stays readable."""

    def test_full_inbox_pushes_back(self) -> None:
        limit = 100_000
        with half(settings=Settings(max_queue_size=limit)) as (connection, peer):
            peer.sock.settimeout(0)
            sent = 0
            block = frame(2, bytes(1000), key=MASK)
            waiting = run_in_thread(connection.ping().wait, SOON)  # reads for all, as far as it may
            try:
                while sent < 100 << 20:
                    try:
                        peer.sock.send(block)
                        sent += len(block)
                    except BlockingIOError:
                        if connection._inbox_size >= limit and connection._waiting:
                            break
            finally:
                connection.abort()
            with pytest.raises(ConnectionClosed):
                waiting.result()
            assert limit <= connection._inbox_size < limit + 1100
            assert sent < 10 << 20

    def test_empty_messages_count_too(self) -> None:
        with half(settings=Settings(max_queue_size=64_000)) as (connection, peer):
            peer.send(frame(2, b"", key=MASK) * 5000)
            peer.frame(9, b"")
            with pytest.raises(TimeoutError):
                connection.ping().wait(50 * MS)
            assert len(connection._inbox) <= 1000

    @pytest.mark.parametrize("limit", [0, 1000])
    def test_one_message_always_fits(self, limit: int) -> None:
        with half(settings=Settings(max_queue_size=limit)) as (connection, peer):
            peer.frame(2, bytes(100_000))
            with pytest.raises(TimeoutError):
                connection.ping().wait(50 * MS)
            assert len(connection._inbox) == 1
            assert len(connection.recv(0)) == 100_000

    def test_room_wakes_who_waits_for_it(self) -> None:
        with half(settings=Settings(max_queue_size=1000)) as (connection, peer):
            waiter = connection.ping(b"p")
            for _ in range(20):
                peer.frame(2, bytes(1000))
            peer.frame(10, b"p")
            waiting = run_in_thread(waiter.wait, SOON)
            for _ in range(20):
                wait_until(lambda: connection._inbox)  # who waits has read it
                assert connection.recv(0) == bytes(1000)
            assert waiting.result() >= 0

    def test_none_is_no_bound(self) -> None:
        with half(settings=Settings(max_queue_size=None)) as (connection, peer):
            waiting = run_in_thread(connection.ping(b"p").wait, SOON)
            for _ in range(1000):
                peer.frame(2, bytes(10_000))
            peer.frame(10, b"p")
            waiting.result()
            assert len(connection._inbox) == 1000

    def test_data_after_our_close_is_dropped_and_the_inbox_stays_readable(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(1, b"before")
            peer.frame(10, b"p")
            with pytest.raises(TimeoutError):
                connection.ping(b"q").wait(20 * MS)
            connection.start_close()
            peer.frame(1, b"after")
            peer.close_frame(1000)
            peer.sock.shutdown(socket.SHUT_WR)
            connection.close()
            assert connection.recv(0) == "before"
            with pytest.raises(ConnectionClosedOK):
                connection.recv(0)

    def test_flood_of_pings_after_our_close_costs_no_memory(self) -> None:
        with half(hooks=frozenset({"ping", "pong"}), settings=Settings(max_queue_size=1000)) as (connection, peer):
            connection.start_close()
            closing = run_in_thread(connection.close, timeout=SOON)
            peer.send((frame(9, b"p", key=MASK) + frame(10, b"p", key=MASK)) * 5000 + frame(8, b"\x03\xe8", key=MASK))
            peer.sock.shutdown(socket.SHUT_WR)
            closing.result()
            assert len(connection._inbox) == 0

    def test_data_after_our_close_is_checked(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            connection.start_close()
            peer.frame(1, b"\xff")
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1006
            assert "UTF-8" in caught.value.reason


class TestDirections:
    """Each direction has a deadline of its own."""

    def test_receiver_that_times_out_does_not_disturb_a_blocked_sender(self, tls: bool) -> None:
        data = bytes(8 << 20)
        with pipe(tls=tls, server=Settings(max_message_size=None)) as (client, server):
            sending = run_in_thread(client.send, data)
            wait_until(lambda: client._output.lock.locked() and client._output.bytes_sent)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    client.recv(5 * MS)
            assert sending.running
            assert server.recv(SOON) == data
            sending.result()

    def test_blocking_receiver_lets_others_send_and_close(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            receiving: Handle[object] = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            connection.send("meanwhile")
            assert peer.read_frame().payload == b"meanwhile"
            closing = run_in_thread(connection.close, timeout=SOON)
            assert peer.read_close() == 1000
            peer.close_frame(1000)
            peer.sock.close()
            closing.result()
            with pytest.raises(ConnectionClosedOK):
                receiving.result()


def test_pings_are_answered_while_somebody_waits(tls: bool, role: Role) -> None:
    with half(role, tls=tls) as (connection, peer):
        receiving = run_in_thread(connection.recv, SOON)
        for number in range(10):
            peer.frame(9, b"%d" % number)
            assert peer.read_frame()[:2] == (10, b"%d" % number)
        peer.frame(1, b"end")
        receiving.result()


def test_pong_queued_behind_a_writer_leaves_when_it_is_done(tls: bool) -> None:
    """After releasing the lock, look again."""
    with half(tls=tls) as (connection, peer):
        assert connection._lock_output(Deadline(SOON))
        peer.frame(9, b"p")
        with pytest.raises(TimeoutError):
            run_in_thread(connection.recv, 20 * MS).result()
        assert connection._output.queued
        connection._unlock_output()
        assert peer.read_frame()[:2] == (10, b"p")


def test_state_lock_is_free_during_io_and_codecs() -> None:
    """Nothing waits, and no code of others runs, while the state lock is held."""
    from websocketserver.protocol.deflate import PerMessageDeflate

    held: list[str] = []

    with pipe(negotiate_extensions=True, client=Settings(compression=PerMessageDeflate(threshold=0))) as ends:
        for end in ends:
            watch(end, held)
        client, server = ends
        receiving = run_in_thread(list, server)
        for _ in range(20):
            client.send("x" * 1000)
            client.ping().wait(SOON)
        client.close()
        receiving.result()
        server.close()
    assert held == []


def watch(connection: object, held: list[str]) -> None:
    """Note every call of the transport or a codec during which the state lock is held by the caller."""
    lock: threading.Lock = connection._lock  # type: ignore[attr-defined]

    def wrap(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            if lock.acquire(timeout=1):  # were it ours, it would not come
                lock.release()
            else:
                held.append(name)
            return inner(*args, **kwargs)

        setattr(owner, name, call)

    for name in ("receive", "receive_into", "send", "wait", "discard", "shutdown", "shutdown_write", "close"):
        wrap(connection._transport, name)  # type: ignore[attr-defined]
    for codec in connection.extensions:  # type: ignore[attr-defined]
        wrap(codec.encoder, "encode")
        wrap(codec.decoder, "decode")


def test_state_says_where_the_connection_stands(tls: bool) -> None:
    with half(tls=tls) as (connection, peer):
        assert connection.state is State.OPEN
        connection.start_close()
        assert connection.state is State.CLOSING
        peer.close_frame(1000)
        peer.sock.close()
        connection.close()
        assert connection.state is State.CLOSED

"""Channel: both directions at once, the closing handshake, and the end of the descriptor."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from websocketserver.attendance import AGAIN
from websocketserver.connection import Role, State, WebSocketConnection
from websocketserver.deadline import Deadline
from websocketserver.exceptions import Close, ConnectionClosed, ConnectionClosedOK
from websocketserver.intake import LITTLE
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.sender import Buffer
from websocketserver.settings import Settings
from websocketserver.transport import Transport

from .program import run_program
from .support import MASK, MS, SOON, RawPeer, frame, half, pipe, read_slowly, run_in_thread, socket_pair, wait_until

MB = 1 << 20
UNBOUNDED = Settings(max_message_size=None, max_queue_size=None, compression=None)


def block_writer(connection: WebSocketConnection, size: int = 8 * MB) -> object:
    """Start a send that the peer does not read; return its handle once it waits for room."""
    sending = run_in_thread(connection.send, bytes(size))
    wait_until(lambda: connection._output.lock.locked() and connection._output.bytes_sent > 0)
    sent = -1
    while connection._output.bytes_sent != sent:  # until nothing moves any more
        sent = connection._output.bytes_sent
        threading.Event().wait(10 * MS)
    return sending


def fill(connection: WebSocketConnection) -> int:
    """Send small messages until the socket takes no more; return how many it took. The connection stays usable."""
    count = 0
    with pytest.raises(TimeoutError, match="usable"):
        while True:
            connection.send(b"x" * 1000, timeout=0)
            count += 1
    assert connection.state is State.OPEN
    return count


class TestFullDuplex:
    """Whoever finds the socket full reads meanwhile: two peers that send never wait for each other."""

    def both_send(self, tls: bool, size: int, timeout: float, tcp: bool = False) -> None:
        data = random.Random(1).randbytes(MB) * (size // MB)
        with pipe(tls=tls, tcp=tcp, client=UNBOUNDED, server=UNBOUNDED) as (client, server):
            sending = [run_in_thread(end.send, data) for end in (client, server)]
            for handle in sending:
                handle.result(timeout)
            for end in (client, server):
                assert end.recv(timeout) == data

    def test_both_ends_send_20_mb_at_once_and_nobody_receives(self, tls: bool) -> None:
        self.both_send(tls, 20 * MB, SOON)

    @pytest.mark.slow
    def test_both_ends_send_100_mb_at_once_and_nobody_receives(self, tls: bool) -> None:
        self.both_send(tls, 100 * MB, 50, tcp=True)

    def test_both_ends_send_many_messages_at_once_and_nobody_receives(
        self, tls: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 50 * MS)  # an end that is done never had to wait
        with pipe(tls=tls, client=UNBOUNDED, server=UNBOUNDED) as (client, server):

            def send(end: WebSocketConnection) -> None:
                for number in range(300):
                    end.send(b"%d " % number + bytes(10_000))

            sending = [run_in_thread(send, end) for end in (client, server)]
            for handle in sending:
                handle.result()
            for end in (client, server):
                assert [int(end.recv(SOON).split()[0]) for _ in range(300)] == list(range(300))  # type: ignore[arg-type]

    def test_both_ends_send_much_while_threads_receive(self, tls: bool) -> None:
        """A writer that waits for another thread's read to end must be woken by it."""
        data = bytes(5 * MB)
        with pipe(tls=tls, client=UNBOUNDED, server=UNBOUNDED) as (client, server):
            receiving = [run_in_thread(end.recv) for end in (client, server)]
            sending = [run_in_thread(end.send, data) for end in (client, server)]
            for handle in sending + receiving:
                handle.result()
            assert all(handle.result() == data for handle in receiving)

    def test_read_that_brings_nothing_wakes_the_writer_too(self) -> None:
        """Half a TLS record makes the socket readable, and yields nothing: who waits for that read polls again."""
        with half() as (connection, peer):
            wait = connection._transport.wait
            pump_waits = threading.Event()
            seen = 0

            def scripted(readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
                nonlocal seen
                if not writable:  # the pump, which finds input and reads nothing once the writer waits for it
                    pump_waits.set()
                    wait_until(lambda: connection._waiting or seen > 2)
                    return wait(True, False, deadline) if seen > 2 else (True, False)
                assert pump_waits.wait(SOON)
                seen += 1
                return (True, False) if seen <= 2 else wait(readable, writable, deadline)

            connection._transport.wait = scripted  # type: ignore[method-assign]
            receiving = run_in_thread(connection.recv, 60)
            assert pump_waits.wait(SOON)
            sending = run_in_thread(connection.send, bytes(MB))
            wait_until(lambda: seen > 2)
            assert len(peer.read_frame().payload) == MB
            sending.result()
            connection.abort()
            with pytest.raises(ConnectionClosed):
                receiving.result()

    def test_with_the_default_queue_and_nobody_receiving_both_end_by_deadline(self, tls: bool) -> None:
        settings = Settings(max_message_size=None, send_timeout=100 * MS)
        with pipe(tls=tls, client=settings, server=settings) as (client, server):

            def send(end: WebSocketConnection) -> None:
                for _ in range(50):
                    end.send(bytes(MB))

            for handle in [run_in_thread(send, end) for end in (client, server)]:
                with pytest.raises((TimeoutError, ConnectionClosed)):
                    handle.result()

    @pytest.mark.parametrize("seconds", [0.2, pytest.param(10, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("size", [10, 100_000])
    def test_stress(self, tls: bool, size: int, seconds: float) -> None:
        """Two senders and two receivers on each end, and the occasional Ping: not one byte is wrong."""
        end_at = time.monotonic() + seconds
        with pipe(tls=tls, tcp=True, client=UNBOUNDED, server=UNBOUNDED) as ends:
            sent: dict[tuple[int, int], int] = {}
            got: list[bytes] = []

            def send(who: tuple[int, int]) -> None:
                count = 0
                while time.monotonic() < end_at:
                    head = b"%d.%d.%d." % (*who, count)
                    ends[who[0]].send(head + bytes([count % 256]) * size)
                    count += 1
                    if not count % 50:
                        ends[who[0]].ping()
                sent[who] = count

            def receive(end: WebSocketConnection) -> None:
                for message in end:
                    assert isinstance(message, bytes)
                    *head, body = message.split(b".", 3)
                    assert body == bytes([int(head[2]) % 256]) * size
                    got.append(b".".join(head))

            receiving = [run_in_thread(receive, end) for end in ends for _ in range(2)]
            sending = [run_in_thread(send, (number, thread)) for number in range(2) for thread in range(2)]
            for handle in sending:
                handle.result(seconds + SOON)
            expected = {b"%d.%d.%d" % (*who, count) for who in sent for count in range(sent[who])}
            wait_until(lambda: len(got) >= len(expected), seconds + SOON)
            closing = [run_in_thread(end.close, timeout=SOON) for end in ends]
            for handle in closing + receiving:
                handle.result()
        assert len(got) == len(expected)
        assert set(got) == expected


class TestWriters:
    """One writer at a time; what was begun is finished first; deadlines cover waiting for the lock."""

    def test_messages_of_many_threads_stay_whole(self, tls: bool) -> None:
        settings = Settings(max_queue_size=None)
        with pipe(tls=tls, client=settings, server=settings) as (client, server):

            def send(thread: int) -> None:
                for number in range(1000):
                    client.send(f"{thread} {number} " + str(thread) * (number % 50))

            sending = [run_in_thread(send, thread) for thread in range(8)]
            last = [-1] * 8
            for _ in range(8000):
                message = server.recv(SOON)
                assert isinstance(message, str)
                thread, number, rest = message.split(" ")
                assert rest == thread * (int(number) % 50)
                assert int(number) == last[int(thread)] + 1
                last[int(thread)] += 1
            for handle in sending:
                handle.result()

    def test_compressed_messages_of_many_threads_stay_whole(self) -> None:
        """The compressor must go on in the order of the wire."""
        settings = Settings(compression=PerMessageDeflate(threshold=0))
        with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):

            def send(thread: int) -> None:
                for number in range(100):
                    client.send(f"{thread} {number} " * 20)

            sending = [run_in_thread(send, thread) for thread in range(4)]
            got = [server.recv(SOON) for _ in range(400)]
            for handle in sending:
                handle.result()
            assert sorted(got) == sorted(f"{thread} {number} " * 20 for thread in range(4) for number in range(100))

    def test_fragmented_messages_stay_whole_and_pings_are_answered_between(self) -> None:
        with half(settings=Settings(fragment_size=1000)) as (connection, peer):
            sending = block_writer(connection)
            peer.frame(9, b"meanwhile")
            got = peer.read_frame()
            assert got.opcode == 2
            pongs, payload = 0, len(got.payload)
            while not got.fin or got.opcode in (9, 10):
                got = peer.read_frame()
                assert got.opcode in (0, 10)
                pongs += got.opcode == 10
                payload += len(got.payload) if got.opcode == 0 else 0
            assert payload == 8 * MB
            sending.result()  # type: ignore[attr-defined]
            if not pongs:
                assert peer.read_frame()[:2] == (10, b"meanwhile")

    def test_pong_leaves_behind_a_blocked_writer(self, tls: bool, role: Role) -> None:
        """Queue first, then try the lock; who releases it looks again."""
        with half(role, tls=tls) as (connection, peer):
            sending = block_writer(connection)
            peer.frame(9, b"one")
            peer.frame(9, b"two")
            wait_until(lambda: connection._output.queued and connection._output.queued[-1][1] == b"two")
            assert peer.read_frame().opcode == 2
            assert peer.read_frame()[:2] == (10, b"two")
            sending.result()  # type: ignore[attr-defined]

    def test_ping_flood_of_a_peer_that_does_not_read_costs_nothing(self) -> None:
        with half() as (connection, peer):
            receiving = run_in_thread(connection.recv, SOON)
            peer.sock.settimeout(0)
            block = frame(9, b"p" * 125, key=MASK) * 100
            sent = 0
            peer.sock.settimeout(SOON)
            while sent < 5 * MB:
                peer.send(block)
                sent += len(block)
                assert len(connection._output.queued) <= 1
                assert not connection._inbox
            peer.frame(1, b"still there")
            assert receiving.result() == "still there"

    def test_waiting_for_the_lock_counts(self, tls: bool) -> None:
        with half(tls=tls) as (connection, _):
            sending = block_writer(connection)
            for call in (
                lambda: connection.send("x", timeout=30 * MS),
                lambda: connection.ping(timeout=30 * MS),
                lambda: connection.pong(timeout=30 * MS),
            ):
                start = time.monotonic()
                with pytest.raises(TimeoutError, match="usable"):
                    call()
                assert time.monotonic() - start < SOON / 2
            assert connection.state is State.OPEN
            connection.abort()
            with pytest.raises(ConnectionClosed):
                sending.result()  # type: ignore[attr-defined]

    def test_peer_that_never_reads_cannot_hold_a_send(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls, settings=Settings(send_timeout=50 * MS)) as (connection, _):
            with pytest.raises(TimeoutError, match="aborted"):
                connection.send(bytes(8 * MB))
            assert connection.state is State.CLOSED
            with pytest.raises(ConnectionClosed):
                connection.send("x")

    def test_total_time_out_of_a_send(self, tls: bool) -> None:
        with half(tls=tls) as (connection, _):
            with pytest.raises(TimeoutError, match="aborted"):
                connection.send(bytes(8 * MB), timeout=50 * MS)
            assert connection.state is State.CLOSED

    def test_send_that_times_out_before_a_byte_left_leaves_the_connection_usable(self) -> None:
        with half() as (connection, peer):
            count = fill(connection)
            for _ in range(count):
                assert len(peer.read_frame().payload) == 1000
            connection.send("now")
            assert peer.read_frame().payload == b"now"

    def test_send_that_times_out_over_tls_aborts(self) -> None:
        """OpenSSL has made a record of it, which must leave before anything else."""
        with half(tls=True) as (connection, _):
            with pytest.raises(TimeoutError, match="aborted"):
                while True:
                    connection.send(bytes(1000), timeout=0)
            assert connection.state is State.CLOSED

    def test_send_that_times_out_after_compression_aborts(self) -> None:
        """The peer's decompressor would not have gone on."""
        settings = Settings(compression=PerMessageDeflate(threshold=0))
        with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, _):
            with pytest.raises(TimeoutError, match="aborted"):
                while True:
                    client.send(random.Random(1).randbytes(1000), timeout=0)
            assert client.state is State.CLOSED

    def test_compression_starts_only_with_the_lock_held(self) -> None:
        settings = Settings(compression=PerMessageDeflate(threshold=0), max_message_size=None)
        with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):
            data = random.Random(1).randbytes(8 * MB)
            sending = run_in_thread(client.send, data)
            wait_until(lambda: client._output.lock.locked() and client._output.bytes_sent > 0)
            with pytest.raises(TimeoutError, match="usable"):
                client.send("x" * 1000, timeout=20 * MS)
            assert server.recv(SOON) == data
            sending.result()
            client.send("y" * 1000)
            assert server.recv(SOON) == "y" * 1000  # had the lost message gone through the compressor, this would fail

    def test_slow_but_steady_reader_is_no_stall(self) -> None:
        data = bytes(3 * MB)
        with half(settings=Settings(send_timeout=400 * MS)) as (connection, peer):
            sending = run_in_thread(connection.send, data)
            start = time.monotonic()
            read_slowly(peer, len(data))
            sending.result()
            assert time.monotonic() - start > 400 * MS


class TestPending:
    """What could not leave at once leaves as soon as there is room, whoever is or is not there."""

    @pytest.fixture(autouse=True)
    def no_other_visit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 1000.0)

    @pytest.fixture(params=["nobody", "a receiver", "a receiver in no hurry"])
    def company(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @contextlib.contextmanager
    def attended(self, connection: WebSocketConnection, company: str) -> Iterator[None]:
        if company == "nobody":
            yield
            return
        receiving = run_in_thread(connection.recv, None if company == "a receiver" else 60)
        wait_until(lambda: connection._pumping)
        yield
        connection.abort()
        with pytest.raises(ConnectionClosed):
            receiving.result()

    def test_close(self, company: str) -> None:
        with half(settings=Settings(close_timeout=60)) as (connection, peer):
            with self.attended(connection, company):
                fill(connection)
                connection.start_close(1001)
                assert connection._output.waits
                assert peer.read_close() == 1001

    def test_many_visits_to_a_stuck_peer_become_few(self) -> None:
        with half(settings=Settings(close_timeout=60)) as (connection, _):
            fill(connection)
            connection.start_close()
            wait_until(lambda: connection._pause > 50 * AGAIN)  # type: ignore[attr-defined]


class TestClosing:
    def test_a_server_is_done_with_the_peers_close(self) -> None:
        """Nothing follows it (5.5.1): there is nothing to wait for, and the descriptor is closed."""
        with half(Role.SERVER) as (server, peer):
            peer.close_frame(4000)
            with pytest.raises(ConnectionClosed):
                server.recv(SOON)
            assert server.state is State.CLOSED
            assert server.fileno() == -1
            assert peer.read_close() == 4000
            assert peer.sock.recv(1) == b""

    @pytest.mark.parametrize("behind", [b"\x89", bytes(LITTLE)], ids=["read", "unread"])
    def test_a_server_reads_to_the_end_where_something_follows_the_peers_close(self, behind: bytes) -> None:
        """The end of a socket with input unread would be a reset, which might overtake our Close."""
        with half(Role.SERVER) as (server, peer):
            peer.send(frame(8, (1000).to_bytes(2, "big"), key=MASK) + behind)
            with pytest.raises(ConnectionClosedOK):
                server.recv(SOON)
            assert server.state is State.CLOSING
            assert peer.read_close() == 1000
            assert peer.sock.recv(1) == b""
            peer.sock.close()
            server.close()
            assert server.state is State.CLOSED

    def test_a_server_waits_for_the_end_of_the_peers_stream_before_it_reads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has ended its own first (7.1.1): to read at once would hardly ever find anything."""
        steps: list[str] = []
        with half(Role.SERVER, tls=True) as (server, peer):
            kind = type(server._transport)
            for name in ("wait", "discard"):
                step = getattr(kind, name)
                monkeypatch.setattr(kind, name, lambda *args, name=name, step=step: steps.append(name) or step(*args))
            peer.close_frame(1000)
            with pytest.raises(ConnectionClosedOK):
                server.recv(SOON)
            steps.clear()
            closing = run_in_thread(server.close)
            assert peer.read_close() == 1000
            peer.sock.close()
            closing.result(SOON)
        assert steps[0] == "wait"

    def test_we_begin(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls) as (connection, peer):
            closing = run_in_thread(connection.close, 4000, "enough", timeout=SOON)
            got = peer.read_frame()
            assert (got.opcode, got.payload) == (8, b"\x0f\xa0enough")
            peer.close_frame(4000)
            if role is Role.SERVER:
                assert peer.read_to_end() == b""  # 7.1.1: the server ends the stream first
            peer.sock.close()
            closing.result()
            assert connection.state is State.CLOSED
            assert connection.close_code == 4000
            wait_until(lambda: connection.fileno() == -1)

    @pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
    def test_peer_begins_and_its_code_is_echoed(self, code: int) -> None:
        """5.5.1."""
        with half() as (connection, peer):
            peer.close_frame(code, "why")
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert isinstance(caught.value, ConnectionClosedOK) is (code in (1000, 1001))
            assert (caught.value.code, caught.value.reason) == (code, "why")
            assert caught.value.sent == Close(code)
            assert peer.read_close() == code
            assert peer.read_to_end() == b""

    def test_empty_close_is_echoed_empty(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(8)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1005
            assert peer.read_frame()[:2] == (8, b"")

    def test_both_begin(self, tls: bool) -> None:
        """One Close each."""
        with pipe(tls=tls) as (client, server):
            closing = [run_in_thread(end.close, 4000 + number) for number, end in enumerate((client, server))]
            for handle in closing:
                handle.result()
            assert (client.close_code, server.close_code) == (4001, 4000)
            assert client._output.bytes_sent == 8
            assert server._output.bytes_sent == 4

    def test_simultaneous_close_sends_one_close_each(self, role: Role) -> None:
        with half(role) as (connection, peer):
            connection.start_close(4000)
            peer.close_frame(4001)  # crosses ours
            peer.sock.shutdown(socket.SHUT_WR)
            connection.close()
            assert connection.close_code == 4001
            assert peer.read_close() == 4000
            assert peer.read_to_end() == b""

    def test_nothing_after_the_peers_close_counts(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.send(frame(8, b"\x03\xe8", key=MASK) + frame(1, b"late", key=MASK) + frame(9, b"late", key=MASK))
            with pytest.raises(ConnectionClosedOK):
                connection.recv(SOON)
            assert peer.read_close() == 1000
            assert peer.read_to_end() == b""

    def test_close_again_does_nothing(self, tls: bool) -> None:
        with pipe(tls=tls) as (client, server):
            closing = run_in_thread(server.close)
            client.close(4000)
            closing.result()
            client.close(4001)
            client.start_close(4002)
            client.abort()
            assert client.state is State.CLOSED

    def test_several_threads_close(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            closing = [run_in_thread(connection.close, timeout=SOON) for _ in range(4)]
            assert peer.read_close() == 1000
            peer.close_frame(1000)
            peer.sock.close()
            for handle in closing:
                handle.result()

    def test_peer_that_never_answers_is_cut(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls, settings=Settings(close_timeout=50 * MS)) as (connection, peer):
            start = time.monotonic()
            connection.close()
            assert time.monotonic() - start < SOON / 2
            assert connection.state is State.CLOSED
            assert connection.close_code == 1006
            assert peer.read_close() == 1000
            assert peer.read_to_end() == b""

    def test_peer_that_answers_but_keeps_the_stream_is_cut(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls, settings=Settings(close_timeout=50 * MS)) as (connection, peer):
            peer.close_frame(1000)
            connection.close()
            assert connection.close_code == 1000
            assert connection.state is State.CLOSED

    def test_peer_that_keeps_sending_is_cut(self, tls: bool) -> None:
        with half(tls=tls, settings=Settings(close_timeout=100 * MS)) as (connection, peer):

            def flood() -> None:
                try:
                    while True:
                        peer.send(frame(2, bytes(10_000), key=MASK))
                except OSError:
                    pass

            flooding = run_in_thread(flood)
            connection.close()
            flooding.result()
            assert connection.state is State.CLOSED

    def test_started_close_is_cut_without_anybody_waiting(self, tls: bool) -> None:
        with half(tls=tls, settings=Settings(close_timeout=50 * MS)) as (connection, peer):
            connection.start_close(1001)
            assert peer.read_close() == 1001
            wait_until(lambda: connection.state is State.CLOSED and connection.fileno() == -1)

    def test_close_ends_by_its_deadline_behind_a_blocked_writer(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls) as (connection, _):
            sending = block_writer(connection)
            start = time.monotonic()
            connection.close(timeout=50 * MS)
            assert time.monotonic() - start < SOON / 2
            with pytest.raises(ConnectionClosed):
                sending.result()  # type: ignore[attr-defined]

    def test_close_leaves_behind_a_blocked_writer(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            sending = block_writer(connection)
            closing = run_in_thread(connection.close, timeout=SOON)
            wait_until(lambda: connection._sent)
            with pytest.raises(ConnectionClosed):
                connection.send("too late")
            assert len(peer.read_frame().payload) == 8 * MB
            assert peer.read_close() == 1000
            peer.close_frame(1000)
            peer.sock.close()
            sending.result()  # type: ignore[attr-defined]
            closing.result()

    def test_abort_never_waits(self, tls: bool) -> None:
        with half(tls=tls) as (connection, _):
            sending = block_writer(connection)
            receiving = run_in_thread(connection.recv)
            connection.abort()
            assert connection.state is State.CLOSED
            for handle in (sending, receiving):
                with pytest.raises(ConnectionClosed):
                    handle.result()  # type: ignore[attr-defined]
            wait_until(lambda: connection.fileno() == -1)

    def test_unread_input_does_not_eat_the_close(self, tls: bool, role: Role) -> None:
        """Closing a socket with unread input resets it, and the peer may never see the Close."""
        with half(role, tls=tls, tcp=True) as (connection, peer):
            key = MASK if peer.masks else None
            peer.send(frame(2, bytes(10), key=key) * 10_000)
            closing = run_in_thread(connection.close, timeout=SOON)
            peer.send(frame(2, bytes(10), key=key) * 10_000)
            assert peer.read_close() == 1000
            peer.close_frame(1000)
            peer.sock.shutdown(socket.SHUT_WR)
            closing.result()
            assert connection.close_code == 1000

    def test_input_after_a_violation_does_not_eat_the_close(self) -> None:
        with half(tcp=True) as (connection, peer):
            peer.send(frame(1, b"unmasked") + bytes(200_000))
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)
            closing = run_in_thread(connection.close, timeout=SOON)
            peer.send(bytes(200_000))
            assert peer.read_close() == 1002
            peer.sock.close()
            closing.result()

    def test_peer_that_sends_for_ever_after_the_end_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.intake.MOST_DRAINED", MB)
        with half(settings=Settings(close_timeout=60)) as (connection, peer):
            peer.close_frame(1000)

            def flood() -> None:
                try:
                    while True:
                        peer.send(bytes(10_000))
                except OSError:
                    pass

            flooding = run_in_thread(flood)
            with pytest.raises(ConnectionClosedOK):
                connection.recv(SOON)
            connection.close(timeout=60)
            flooding.result()


class TestLoss:
    """A stream that ends at any moment is a close with 1006, and nothing is left behind."""

    @staticmethod
    def reset(peer: RawPeer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sock.close()

    @pytest.fixture(params=["fin", "rst"])
    def ends(self, request: pytest.FixtureRequest) -> object:
        return self.reset if request.param == "rst" else lambda peer: peer.sock.close()

    def test_while_nobody_does_anything(self, tls: bool, ends: object) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            ends(peer)  # type: ignore[operator]
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1006
            assert not isinstance(caught.value, ConnectionClosedOK)

    def test_while_receiving(self, tls: bool, ends: object) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            ends(peer)  # type: ignore[operator]
            with pytest.raises(ConnectionClosed) as caught:
                receiving.result()
            assert caught.value.code == 1006

    def test_while_sending(self, tls: bool, ends: object) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            sending = block_writer(connection, 32 * MB)
            ends(peer)  # type: ignore[operator]
            with pytest.raises(ConnectionClosed) as caught:
                sending.result()  # type: ignore[attr-defined]
            assert caught.value.reason
            assert connection.state is not State.OPEN

    def test_in_the_middle_of_a_message(self, tls: bool, ends: object) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            peer.send(frame(2, bytes(100_000), key=MASK)[:50_000])
            with pytest.raises(TimeoutError):
                connection.recv(20 * MS)
            ends(peer)  # type: ignore[operator]
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)

    def test_while_closing(self, tls: bool, ends: object) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            closing = run_in_thread(connection.close, timeout=60)
            assert peer.read_close() == 1000
            ends(peer)  # type: ignore[operator]
            closing.result()
            assert connection.close_code == 1006

    def test_after_both_closes(self, tls: bool, ends: object) -> None:
        with half(Role.CLIENT, tls=tls, tcp=True) as (connection, peer):
            peer.close_frame(1000)
            with pytest.raises(ConnectionClosedOK):
                connection.recv(SOON)
            ends(peer)  # type: ignore[operator]
            connection.close(timeout=60)
            assert connection.close_code == 1000

    def test_half_close_is_loss(self, tls: bool) -> None:
        with half(tls=tls, settings=Settings(close_timeout=50 * MS)) as (connection, peer):
            peer.sock.shutdown(socket.SHUT_WR) if not tls else socket.socket.shutdown(peer.sock, socket.SHUT_WR)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1006
            assert caught.value.reason
            with pytest.raises(ConnectionClosed):
                connection.send("to nobody")
            wait_until(lambda: connection.fileno() == -1)  # without anybody asking

    def test_kernels_time_out_is_a_loss_and_no_time_out_of_ours(self) -> None:
        """ETIMEDOUT of TCP is a TimeoutError, as is what recv raises at its deadline."""
        ours, theirs = socket_pair()

        class Gone(socket.socket):
            def recv(self, *args: object) -> bytes:  # type: ignore[override]
                raise TimeoutError(110, "Connection timed out")

        with theirs:
            connection = WebSocketConnection(Gone(fileno=ours.detach()), role=Role.CLIENT)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.reason == "Connection timed out"
            connection.abort()


class Guarded(Transport):
    """A transport that notes every use while or after it is closed."""

    retractable = True

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.retractable = inner.retractable
        self.guard = threading.Lock()
        self.users = 0
        self.closed = 0
        self.wrong: list[str] = []

    def use(self, name: str, *args: object) -> object:
        with self.guard:
            self.users += 1
            if self.closed:
                self.wrong.append(f"{name} after close")
        try:
            return getattr(self.inner, name)(*args)
        finally:
            with self.guard:
                self.users -= 1

    def receive(self, size: int, block: bool = False) -> bytes | None:
        return self.use("receive", size, block)  # type: ignore[return-value]

    def receive_into(self, buffer: memoryview) -> int | None:
        return self.use("receive_into", buffer)  # type: ignore[return-value]

    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        return self.use("send", buffers, more)  # type: ignore[return-value]

    def wait(self, readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
        return self.use("wait", readable, writable, deadline)  # type: ignore[return-value]

    def shutdown_write(self) -> None:
        self.use("shutdown_write")

    def shutdown(self) -> None:
        self.use("shutdown")

    def discard(self, size: int) -> int | None:
        return self.use("discard", size)  # type: ignore[return-value]

    def pending(self) -> bool:
        return bool(self.use("pending"))

    def close(self) -> None:
        with self.guard:
            self.closed += 1
            if self.users:
                self.wrong.append(f"close while {self.users} use it")
        self.inner.close()

    def fileno(self) -> int:
        return self.inner.fileno()


def guard(connection: WebSocketConnection) -> Guarded:
    guarded = Guarded(connection._transport)
    connection._transport = connection._output._transport = guarded
    return guarded


class TestDescriptor:
    """Closed once, by the last to leave."""

    @pytest.mark.parametrize("how", ["close", "abort", "peer"])
    def test_closed_once_and_never_while_in_use(self, tls: bool, how: str) -> None:
        for _ in range(10):
            with half(tls=tls) as (connection, peer):
                guarded = guard(connection)
                self.end(connection, peer, how)
                wait_until(lambda guarded=guarded: guarded.closed)  # type: ignore[misc]
                assert guarded.wrong == []
                assert guarded.closed == 1

    def end(self, connection: WebSocketConnection, peer: RawPeer, how: str) -> None:
        """End a connection that several threads use."""
        using = [run_in_thread(connection.send, bytes(8 * MB))]
        using += [run_in_thread(connection.recv) for _ in range(2)]  # type: ignore[misc]
        wait_until(lambda: connection._waiting and connection._output.lock.locked())
        if how == "peer":
            peer.sock.close()
            connection.close()
        else:
            ending = [run_in_thread(connection.abort) for _ in range(2)]
            if how == "close":
                ending.append(run_in_thread(connection.close, timeout=0))
            for handle in ending:
                handle.result()
        for handle in using:
            with pytest.raises(ConnectionClosed):
                handle.result()

    def test_cutting_counts_as_use(self) -> None:
        with half() as (connection, _):
            guarded = guard(connection)
            entered, leave = threading.Event(), threading.Event()

            def shutdown() -> None:
                entered.set()
                assert leave.wait(SOON)
                guarded.inner.shutdown()

            guarded.shutdown = shutdown  # type: ignore[method-assign]
            aborting = run_in_thread(connection.abort)
            assert entered.wait(SOON)
            connection.close()  # finds it over, and leaves
            with pytest.raises(ConnectionClosed):
                connection.send("x")
            assert guarded.closed == 0
            leave.set()
            aborting.result()
            assert guarded.closed == 1

    def test_stays_open_while_the_pump_is_in_it(self) -> None:
        with half() as (connection, _):
            guarded = guard(connection)
            entered, leave = threading.Event(), threading.Event()

            def wait(readable: bool, writable: bool, deadline: Deadline) -> tuple[bool, bool]:
                entered.set()
                assert leave.wait(SOON)
                return True, False

            guarded.wait = wait  # type: ignore[method-assign]
            receiving = run_in_thread(connection.recv, SOON)
            assert entered.wait(SOON)
            connection.abort()
            assert guarded.closed == 0
            leave.set()
            with pytest.raises(ConnectionClosed):
                receiving.result()
            assert guarded.closed == 1

    def test_stays_open_while_a_writer_is_in_it(self) -> None:
        with half() as (connection, _):
            guarded = guard(connection)
            entered, leave = threading.Event(), threading.Event()

            def send(buffers: Sequence[Buffer], more: bool = False) -> int:
                entered.set()
                assert leave.wait(SOON)
                return guarded.inner.send(buffers, more)

            guarded.send = send  # type: ignore[method-assign]
            sending = run_in_thread(connection.send, "x")
            assert entered.wait(SOON)
            connection.abort()
            assert guarded.closed == 0
            leave.set()
            with pytest.raises(ConnectionClosed):
                sending.result()
            assert guarded.closed == 1


@pytest.mark.parametrize("how", ["start_close", "close", "abort"])
def test_a_signal_handler_ends_a_connection_whatever_the_interrupted_thread_has_locked(how: str) -> None:
    """In a program of its own: the main thread, which runs it, is not always the tests'."""
    done = run_program(f"""
        import contextlib, signal
        from tests.support import SOON, pipe
        from websocketserver import ConnectionClosed, Settings
        from websocketserver.keepalive import timer
        from websocketserver.trace import teller

        quick = Settings(close_timeout=0.1)
        for number in range(4):
            with pipe(tls=True, client=quick, server=quick) as (connection, peer):
                connection.trace(print)
                signal.signal(signal.SIGUSR1, lambda *_: connection.{how}())
                with [connection._lock, connection._transport._lock, timer._lock, teller._changed][number]:
                    signal.raise_signal(signal.SIGUSR1)
                with contextlib.suppress(ConnectionClosed):
                    peer.recv(SOON)
                print("ended")
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended") == 4

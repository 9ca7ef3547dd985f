"""Attendance: what the timer and a pool do for connections while none of their users is there."""

from __future__ import annotations

import dataclasses
import itertools
import socket
import threading
import time
from collections.abc import Callable

import pytest

from websocketserver.connection import Role, State, WebSocketConnection
from websocketserver.deadline import Deadline
from websocketserver.exceptions import Close, ConnectionClosed, ConnectionClosedOK
from websocketserver.keepalive import timer
from websocketserver.protocol.events import AppEvent, Message
from websocketserver.protocol.extensions import RSV1, Codec, Decoder, Encoder, Extension
from websocketserver.settings import Settings

from .support import MS, SOON, frame, half, pipe, run_in_thread, wait_until

KEY = b"\x01\x02\x03\x04"


@pytest.fixture
def soon_unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 10 * MS)


OWN_CLOCK = Settings(ping_interval=100, ping_timeout=100)


@pytest.fixture
def own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer comes only when the test says so, at the time that it says: connection.visit(now)."""
    monkeypatch.setattr(timer, "schedule", lambda *args: None)


@pytest.fixture
def seldom_unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 1000.0)


def keepalive(interval: float, timeout: float) -> Settings:
    return Settings(ping_interval=interval * MS, ping_timeout=timeout * MS)


class TestKeepalive:
    """A peer that is silent is given up; one that is merely not listened to is not."""

    @pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
    def test_pings_are_sent_and_tell_the_latency(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls, settings=keepalive(20, 5000)) as (connection, peer):
            receiving = run_in_thread(connection.recv)
            payloads = set()
            for _ in range(3):
                ping = peer.read_frame()
                assert ping.opcode == 9
                payloads.add(ping.payload)
                peer.frame(10, ping.payload)
            assert len(payloads) == 3
            wait_until(lambda: connection.latency is not None)
            assert connection.latency is not None
            assert 0 <= connection.latency < SOON
            peer.frame(1, b"end")
            assert receiving.result() == "end"

    def test_two_ends_keep_each_other_alive_while_nobody_does_anything(self, tls: bool, soon_unattended: None) -> None:
        settings = keepalive(20, 60_000)
        with pipe(tls=tls, client=settings, server=settings) as ends:
            for end in ends:
                wait_until(lambda end=end: end.latency is not None and end._pings._count > 3)  # type: ignore[misc]
            ends[0].send("still here")
            assert ends[1].recv(SOON) == "still here"

    @pytest.mark.parametrize("receiving", [False, True], ids=["idle", "receiving"])
    def test_peer_that_says_nothing_is_given_up(self, tls: bool, receiving: bool) -> None:
        with half(tls=tls, settings=keepalive(20, 50)) as (connection, peer):
            handle = run_in_thread(connection.recv) if receiving else None
            wait_until(lambda: connection.state is State.CLOSED)
            with pytest.raises(ConnectionClosed) as caught:
                handle.result() if handle else connection.recv()
            assert caught.value.code == 1006
            assert caught.value.sent is not None
            assert caught.value.sent.code == 1011
            assert "Ping" in caught.value.reason
            assert peer.read_close() == 1011
            wait_until(lambda: connection.fileno() == -1)

    def test_peer_that_stops_while_we_send_is_given_up(self, tls: bool) -> None:
        """The write lock is taken all the time."""
        with half(tls=tls, settings=keepalive(20, 50)) as (connection, _):
            sending = run_in_thread(connection.send, bytes(8 << 20))
            with pytest.raises(ConnectionClosed) as caught:
                sending.result()
            assert "Ping" in caught.value.reason

    def test_peer_that_stops_in_the_middle_of_a_frame_is_given_up(self, tls: bool) -> None:
        with half(tls=tls, settings=keepalive(20, 50)) as (connection, peer):
            peer.send(frame(2, bytes(1000), key=KEY)[:500])
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)

    def test_progress_of_a_blocked_send_proves_life(self, tls: bool, own_clock: None) -> None:
        with half(tls=tls, settings=OWN_CLOCK) as (connection, peer):
            begun = time.monotonic()
            output, received = connection._output, 0
            sending = run_in_thread(connection.send, bytes(8 << 20))
            wait_until(lambda: output.lock.locked() and output.bytes_sent)
            assert connection.visit(begun + 200) is not None  # a Ping is due, and waits behind the message
            for number in range(3):
                drained, sent = output.drained, output.bytes_sent
                while received < sent:  # no more, else one call of send goes on as long as we read; and answer nothing
                    received += len(peer.sock.recv(sent - received))
                wait_until(lambda drained=drained: output.drained != drained)  # type: ignore[misc]
                assert connection.visit(begun + 301 + 100 * number) is not None
                connection.visit(begun + 302 + 100 * number)  # a Ping
            clock = itertools.count(1000, 200)  # a last part of the message may still be on its way to the peer
            wait_until(lambda: connection.visit(begun + next(clock)) is None)
            with pytest.raises(ConnectionClosed, match="Ping"):
                sending.result()

    def test_bytes_of_any_kind_prove_life(self, own_clock: None) -> None:
        with half(settings=OWN_CLOCK) as (connection, peer):
            begun = time.monotonic()
            connection.visit(begun + 200)  # a Ping
            for number, byte in enumerate(frame(1, b"x" * 5, key=KEY)):
                peer.send(bytes([byte]))
                assert connection.visit(begun + 301 + 100 * number) is not None
                connection.visit(begun + 302 + 100 * number)  # a Ping
            assert connection.recv(SOON) == "x" * 5
            assert connection.visit(begun + 10_000) is None

    def test_clock_stands_while_input_is_unread(self, own_clock: None) -> None:
        """The Pong may be in it."""
        with half(settings=dataclasses.replace(OWN_CLOCK, max_queue_size=1000)) as (connection, peer):
            begun = time.monotonic()
            peer.send(b"".join(frame(2, bytes([number]) * 1000, key=KEY) for number in range(5)))
            for number in range(5):
                for later in (200, 400, 600):
                    assert connection.visit(begun + 1000 * number + later) is not None
                assert connection.recv(SOON) == bytes([number]) * 1000
            assert connection.visit(begun + 4650) is not None
            assert connection.visit(begun + 4750) is None  # now nothing is unread

    def test_none_sends_no_pings(self) -> None:
        with half(settings=Settings(ping_interval=None)) as (connection, _):
            assert connection._heartbeat.next_visit() is None


def test_begins_when_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the timer's thread meets, should it come at once."""
    met: list[tuple[str, bool]] = []
    monkeypatch.setattr(timer, "schedule", lambda visited, at: met.append((repr(visited), visited._unparsed)))
    with half(received=frame(1, b"x", key=KEY)) as (connection, _):
        assert met == [(repr(connection), True)]


class TestUnattended:
    """A long computation does not lose its connection."""

    def test_comes_sooner_where_nobody_reads(self, own_clock: None) -> None:
        """The peer may be waiting for us to read all that it sends, though we never found the socket full."""
        with half(settings=Settings(ping_interval=None)) as (connection, peer):
            assert connection._next_visit(0) == 1
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            assert connection.visit(0) == 2
            assert [connection.visit(0) for _ in range(3)] == [4, 5, 5]
            peer.frame(1, b"end")
            receiving.result()
            assert connection.visit(0) == 1

    def test_pings_are_answered(self, tls: bool, soon_unattended: None) -> None:
        with half(tls=tls) as (_, peer):
            for payload in (b"1", b"2"):
                peer.frame(9, payload)
                assert peer.read_frame()[:2] == (10, payload)

    def test_close_is_answered_and_the_descriptor_given_back(self, tls: bool, soon_unattended: None) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(1, b"before")
            peer.close_frame(1000)
            assert peer.read_close() == 1000
            peer.sock.close()
            wait_until(lambda: connection.fileno() == -1)
            assert connection.recv() == "before"

    def test_inbox_is_filled_up_to_its_bound(self, soon_unattended: None) -> None:
        with half(settings=Settings(max_queue_size=10_000)) as (connection, peer):
            peer.send(frame(2, bytes(1000), key=KEY) * 50)
            wait_until(lambda: connection._full())
            assert connection._inbox_size <= 11_100
            assert [connection.recv(SOON) for _ in range(50)] == [bytes(1000)] * 50

    def test_violation_is_answered(self, soon_unattended: None) -> None:
        with half() as (connection, peer):
            peer.send(frame(1, b"unmasked"))
            assert peer.read_close() == 1002
            with pytest.raises(ConnectionClosed):
                connection.send("x")

    def test_end_of_the_stream_is_noticed(self, soon_unattended: None) -> None:
        with half() as (connection, peer):
            peer.sock.close()
            wait_until(lambda: connection.state is State.CLOSED)

    def test_reads_on_behind_a_writer_that_left_input_unread(self, tls: bool, seldom_unattended: None) -> None:
        """The peer may be waiting for us to read all that it sends, and the writer is done."""
        unbounded = Settings(max_message_size=None, max_queue_size=None, ping_interval=None)
        with pipe(tls=tls, client=unbounded, server=unbounded) as (client, server):
            first = run_in_thread(client.send, bytes(2 << 20))
            wait_until(lambda: client._output.lock.locked() and client._output.bytes_sent)
            second = run_in_thread(server.send, bytes(16 << 20))
            first.result()
            second.result()
            assert len(client.recv(SOON)) == 16 << 20

    def test_comes_again_where_it_found_nothing_at_first(self, seldom_unattended: None) -> None:
        """What the writer saw coming may come a moment later."""
        with half() as (connection, peer):
            assert connection._lock_output(Deadline(SOON))
            connection._unread = True
            connection._unlock_output()
            threading.Event().wait(20 * MS)
            peer.frame(1, b"late")
            wait_until(lambda: connection._inbox)

    def test_reads_what_a_writer_saw_and_left(self, seldom_unattended: None) -> None:
        with half() as (connection, peer):
            sending = run_in_thread(connection.send, bytes(8 << 20))
            wait_until(lambda: connection._output.lock.locked() and connection._output.bytes_sent)
            wait = connection._transport.wait
            # The writer finds room and input at once, whenever it looks.
            connection._transport.wait = lambda *args: (args[0], wait(False, *args[1:])[1])  # type: ignore[method-assign]
            peer.frame(1, b"unread")
            peer.read_frame()
            sending.result()
            wait_until(lambda: connection._inbox)


def test_idle_connections_give_back_memory_though_pings_go_on(soon_unattended: None) -> None:
    released = threading.Event()

    class Releasing(Encoder):
        def release(self) -> None:
            released.set()

    extension = Extension()
    extension.name, extension.release_after = "releasing", 100 * MS
    settings = Settings(ping_interval=20 * MS, ping_timeout=SOON)
    with half(settings=settings, codecs=(Codec(extension, [], Releasing(), Decoder()),)) as (connection, peer):
        while not released.is_set():  # a Ping each 20 ms, answered, until it happens
            ping = peer.read_frame()
            assert ping.opcode == 9
            peer.frame(10, ping.payload)
        assert connection.state is State.OPEN


class Failing(Extension):
    """An extension whose halves do what the test says."""

    name = "failing"
    rsv = RSV1
    release_after = 0.001


def failing_codec(half_of: type[Encoder] | type[Decoder], name: str) -> Codec:
    def fail(*args: object, **kwargs: object) -> bytes:
        raise ZeroDivisionError("a fault of the extension")

    class Quick(Decoder):
        def begin(self, rsv: int) -> bool:
            return True

    encoder, decoder = Encoder(), Quick()
    setattr(encoder if half_of is Encoder else decoder, name, fail)
    return Codec(Failing(), [], encoder, decoder)


class TestFailingExtension:
    """Whatever it does, the connection ends, and no lock stays taken."""

    def check(self, codec: Codec, act: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
        with half(codecs=(codec,)) as (connection, peer):
            act(connection, peer)
            wait_until(lambda: connection.state is State.CLOSED)
            wait_until(lambda: connection.fileno() == -1)  # the timer's thread may still be on its way out
            wait_until(lambda: not connection._output.lock.locked())
            with pytest.raises(ConnectionClosed):
                connection.send("x")

    def test_decode_in_the_timers_thread(self, soon_unattended: None, caplog: pytest.LogCaptureFixture) -> None:
        codec = failing_codec(Decoder, "decode")
        self.check(codec, lambda connection, peer: peer.frame(1, b"x", rsv=RSV1), caplog)
        wait_until(lambda: "a fault of the extension" in caplog.text)

    @pytest.mark.parametrize("half_of", [Encoder, Decoder])
    def test_release(self, half_of: type[Encoder], soon_unattended: None, caplog: pytest.LogCaptureFixture) -> None:
        self.check(failing_codec(half_of, "release"), lambda connection, peer: None, caplog)
        wait_until(lambda: "a fault of the extension" in caplog.text)

    def test_decode_in_recv(self, caplog: pytest.LogCaptureFixture) -> None:
        def act(connection: object, peer: object) -> None:
            peer.frame(1, b"x", rsv=RSV1)  # type: ignore[attr-defined]
            with pytest.raises(ZeroDivisionError):
                connection.recv(SOON)  # type: ignore[attr-defined]

        self.check(failing_codec(Decoder, "decode"), act, caplog)

    def test_begin_in_send(self, caplog: pytest.LogCaptureFixture) -> None:
        def act(connection: object, peer: object) -> None:
            with pytest.raises(ZeroDivisionError):
                connection.send("x")  # type: ignore[attr-defined]

        self.check(failing_codec(Encoder, "begin"), act, caplog)


@pytest.mark.parametrize("end", [frame(8, b"\x03\xe8", key=KEY), frame(3, key=KEY)], ids=["close", "violation"])
def test_the_end_comes_behind_the_answers_to_what_came_before(end: bytes) -> None:
    """Also where the timer comes meanwhile, to send what is gathered."""
    with half() as (connection, peer):
        peer.send(frame(1, b"a", key=KEY) + frame(1, b"b", key=KEY) + frame(1, b"c", key=KEY) + end)
        arrived = threading.Event()

        def answer() -> None:
            for event in connection.events():
                connection.send(event[0])
                assert arrived.wait(SOON)

        answering = run_in_thread(answer)
        assert peer.read_frame().payload == b"a"  # the timer has been there
        arrived.set()
        assert [peer.read_frame().payload for _ in range(2)] == [b"b", b"c"]
        assert peer.read_close() in (1000, 1002)
        peer.sock.close()
        with pytest.raises(ConnectionClosed):
            answering.result()


def test_close_that_the_peer_began_is_noted_as_ours_too(soon_unattended: None) -> None:
    with half() as (connection, peer):
        peer.close_frame(4000, "enough")
        assert peer.read_close() == 4000
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(SOON)
        assert (caught.value.received, caught.value.sent) == (Close(4000, "enough"), Close(4000))


class Parked:
    """A connection in a pool's hands, and how often it was announced."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.announced = 0
        connection.park(self.announce)

    def announce(self) -> None:
        self.announced += 1

    def __enter__(self) -> Parked:
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.unpark()

    def events(self) -> list[str]:
        events: list[AppEvent] = []
        self.connection.handle_ready(events.append)
        return [str(event[0]) for event in events]


class TestParked:
    def test_gives_what_is_here_and_never_waits(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer), Parked(connection) as parked:
            assert parked.events() == []
            peer.send(b"".join(frame(1, b"%d" % number, key=KEY) for number in range(3)))
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            assert parked.events() == ["0", "1", "2"]
            assert not connection.is_ready()

    def test_raises_at_the_end_behind_all_messages(self) -> None:
        with half(tls=True) as (connection, peer), Parked(connection):
            peer.frame(1, b"last")
            peer.close_frame(1000)
            seen: list[AppEvent] = []
            with pytest.raises(ConnectionClosedOK):
                while True:
                    connection.handle_ready(seen.append)
            assert seen == [Message("last", True)]
            assert connection.is_ended()
            assert not connection.drain(), "the peer has not ended its stream"
            peer.sock.shutdown(socket.SHUT_WR)
            assert connection.drain()

    def test_attending_answers_pings_and_keeps_messages(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer), Parked(connection) as parked:
            peer.frame(9, b"p")
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            assert not connection.attend()
            assert peer.read_frame()[:2] == (10, b"p")
            peer.frame(1, b"m")
            wait_until(connection.attend)
            assert connection.is_ready()
            assert parked.events() == ["m"]

    def test_is_announced_when_another_thread_has_read_for_it(self) -> None:
        with half() as (connection, peer), Parked(connection) as parked:
            peer.send(frame(1, b"1", key=KEY) + frame(1, b"2", key=KEY))
            assert connection.recv(SOON) == "1"
            assert parked.announced
            assert connection.is_ready()
            assert parked.events() == ["2"]

    def test_is_announced_when_it_is_cut_and_keeps_its_descriptor(self) -> None:
        with half() as (connection, _), Parked(connection) as parked:
            connection.abort()
            assert parked.announced
            assert connection.is_ready()
            assert connection.fileno() >= 0
            connection.unpark()
            wait_until(lambda: connection.fileno() < 0)

    def test_what_nobody_takes_any_more_can_be_dropped(self) -> None:
        with half() as (connection, peer), Parked(connection):
            peer.frame(1, b"m")
            wait_until(connection.attend)
            connection.start_close(1011)
            peer.sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: connection.drain() or connection._eof)
            assert not connection.drain(), "a message is still here"
            assert connection.drain(forget=True)

    def test_a_violation_is_over_once_the_peer_has_gone_and_does_not_call_for_service_before(self) -> None:
        with half() as (connection, peer), Parked(connection) as parked:
            peer.send(frame(1, b"\xff", key=KEY) + frame(1, b"more", key=KEY))
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            with pytest.raises(ConnectionClosed):
                parked.events()
            assert peer.read_close() == 1007
            announced = parked.announced
            assert not connection.drain()
            assert not connection.is_ready()
            assert parked.announced == announced

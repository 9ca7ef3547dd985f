"""Sending: Pings and Pongs, and messages that leave together; what becomes of whole ones: test_connection.py."""

from __future__ import annotations

import time

import pytest

from websocketserver.connection import State, WebSocketConnection
from websocketserver.deadline import Deadline
from websocketserver.exceptions import ConnectionClosed, ConnectionClosedOK
from websocketserver.output import GATHERED
from websocketserver.protocol.events import Message
from websocketserver.pump import MOST_GATHERING, gatherers
from websocketserver.sending import Clock

from .support import MS, SOON, frame, half, run_in_thread, wait_until

KEY = b"\x01\x02\x03\x04"


Ends = tuple[WebSocketConnection, WebSocketConnection]


class TestPing:
    def test_round_trip(self, ends: Ends) -> None:
        client, server = ends
        receiving = run_in_thread(server.recv)
        waiter = client.ping()
        round_trip = waiter.wait(SOON)
        assert round_trip == waiter.round_trip == client.latency
        assert 0 <= round_trip < SOON
        client.send("end")
        receiving.result()

    def test_payload_is_answered(self) -> None:
        with half() as (connection, peer):
            waiter = connection.ping("häh")
            ping = peer.read_frame()
            assert ping[:2] == (9, "häh".encode())
            peer.frame(10, b"other")
            peer.frame(10, ping.payload)
            assert waiter.wait(SOON) >= 0

    def test_wait_times_out_and_may_be_repeated(self) -> None:
        with half() as (connection, peer):
            waiter = connection.ping(b"p")
            for _ in range(2):
                with pytest.raises(TimeoutError, match="Pong"):
                    waiter.wait(5 * MS)
            peer.frame(10, b"p")
            assert waiter.wait(SOON) == waiter.wait(0)

    def test_several_threads_wait(self) -> None:
        with half() as (connection, peer):
            waiters = [run_in_thread(connection.ping(b"%d" % number).wait) for number in range(4)]
            receiving = run_in_thread(connection.recv)
            for number in (1, 3):
                peer.frame(10, b"%d" % number)
            for waiter in waiters:
                waiter.result()
            peer.frame(1, b"end")
            assert receiving.result() == "end"

    @pytest.mark.parametrize("how", ["close", "abort", "loss"])
    def test_wait_ends_with_the_connection(self, tls: bool, how: str) -> None:
        with half(tls=tls) as (connection, peer):
            waiting = run_in_thread(connection.ping().wait)
            wait_until(lambda: connection._pumping)
            if how == "close":
                peer.close_frame(1000)
            elif how == "abort":
                connection.abort()
            else:
                peer.sock.close()
            with pytest.raises(ConnectionClosed):
                waiting.result()

    @pytest.mark.parametrize("name", ["ping", "pong"])
    def test_payload_is_checked(self, name: str) -> None:
        with half() as (connection, peer):
            call = getattr(connection, name)
            with pytest.raises(ValueError, match="125 bytes"):
                call(bytes(126))
            with pytest.raises(TypeError):
                call(5)
            call(bytes(125))
            assert len(peer.read_frame().payload) == 125

    def test_pong_is_sent_unasked(self) -> None:
        with half() as (connection, peer):
            connection.pong(b"heartbeat")
            assert peer.read_frame()[:2] == (10, b"heartbeat")

    def test_after_the_end(self) -> None:
        with half() as (connection, _):
            connection.abort()
            with pytest.raises(ConnectionClosed):
                connection.ping()
            with pytest.raises(ConnectionClosed):
                connection.pong()


class TestGathering:
    """Replies leave together while the next message is already here, and never wait long."""

    def sends(self, connection: WebSocketConnection) -> list[int]:
        """Note the size of each write."""
        sizes: list[int] = []
        send = connection._transport.send

        def noted(buffers: list[bytes], more: bool = False) -> int:
            taken = send(buffers, more)
            sizes.append(taken)
            return taken

        connection._transport.send = noted  # type: ignore[assignment, method-assign]
        return sizes

    def serve(self, connection: WebSocketConnection, count: int) -> None:
        events = connection.events()
        for _ in range(count):
            event = next(events)
            assert isinstance(event, Message)
            connection.send(event.data)
        with pytest.raises(ConnectionClosedOK):
            next(events)

    def test_answers_leave_in_one_write(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.send(b"".join(frame(1, b"%d" % number, key=KEY) for number in range(50)))
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            sizes = self.sends(connection)
            serving = run_in_thread(self.serve, connection, 50)
            assert [int(peer.read_frame().payload) for _ in range(50)] == list(range(50))
            assert len(sizes) < 10
            peer.close_frame(1000)
            serving.result()

    def test_message_with_nothing_behind_it_is_answered_at_once(self) -> None:
        with half() as (connection, peer):
            serving = run_in_thread(self.serve, connection, 3)
            for number in range(3):
                peer.frame(1, b"%d" % number)
                assert peer.read_frame().payload == b"%d" % number
            peer.close_frame(1000)
            serving.result()

    def test_answers_before_a_close_leave_before_it(self) -> None:
        with half() as (connection, peer):
            messages = b"".join(frame(1, b"%d" % number, key=KEY) for number in range(20))
            peer.send(messages + frame(8, b"\x03\xe8", key=KEY))
            self.serve(connection, 20)
            assert [int(peer.read_frame().payload) for _ in range(20)] == list(range(20))
            assert peer.read_close() == 1000

    def test_long_hook_does_not_hold_back_what_it_sent(self) -> None:
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            events = connection.events()
            next(events)
            connection.send("answer")
            assert peer.read_frame().payload == b"answer"  # while the hook goes on

    def test_who_gathers_for_a_moment_is_not_visited(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        visits: list[object] = []
        monkeypatch.setattr(
            "websocketserver.keepalive.timer.schedule", lambda visited, at: visits.append((visited, at))
        )
        _, server = ends
        output = server._output
        clock = Clock()
        monkeypatch.setitem(gatherers, 1, server)
        assert clock.visit(0) is None
        for now in (1, 2):
            output.gathered += b"a batch"
            assert clock.visit(now) == now + MOST_GATHERING
            assert output.take_gathered() == [b"a batch"]
        output.gathered += b"a slow one"
        assert clock.visit(3) is not None
        assert not visits
        assert clock.visit(4) is None
        assert visits == [(server, 4)]
        output.take_gathered()

    @pytest.mark.parametrize("how", ["recv", "ping", "close"])
    def test_what_is_gathered_leaves_before_the_thread_waits(self, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.sending.MOST_GATHERING", 1000.0)
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            events = connection.events()
            next(events)
            connection.send("answer")
            if how == "recv":
                assert connection.recv(0) == "x"
                with pytest.raises(TimeoutError):
                    connection.recv(0)
            elif how == "ping":
                with pytest.raises(TimeoutError):
                    connection.ping().wait(0)
            else:
                connection.close(timeout=0)
            assert peer.read_frame().payload == b"answer"

    def test_sends_of_other_threads_go_behind_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.sending.MOST_GATHERING", 1000.0)
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            events = connection.events()
            next(events)
            connection.send("gathered")
            run_in_thread(connection.send, "other").result()
            assert [peer.read_frame().payload for _ in range(2)] == [b"gathered", b"other"]

    def test_nothing_is_gathered_once_the_iteration_is_given_up(self) -> None:
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            for _ in connection.events():
                break
            connection.send("at once")
            assert not connection._output.gathered
            assert peer.read_frame().payload == b"at once"

    def test_it_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.sending.MOST_GATHERING", 1000.0)
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            events = connection.events()
            next(events)
            connection.send(b"first")
            assert len(connection._output.gathered) == 7
            for _ in range(70):
                connection.send(bytes(1000))
                assert len(connection._output.gathered) < GATHERED
            for _ in range(61):
                peer.read_frame()

    def test_bytes_are_taken_as_they_are_at_the_send(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.sending.MOST_GATHERING", 1000.0)
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            events = connection.events()
            next(events)
            message = bytearray(b"a" * 20_000)
            connection.send(message)
            message[:] = b"b" * 20_000
            run_in_thread(connection.send, "other").result()
            assert peer.read_frame().payload == b"a" * 20_000

    def test_recv_keeps_its_deadline_with_something_gathered(self) -> None:
        """A peer that never reads must not hold it."""
        with half() as (connection, peer):
            peer.send(frame(1, b"x", key=KEY) * 2)
            with pytest.raises(TimeoutError):
                while True:
                    connection.send(bytes(1000), timeout=0)
            events = connection.events()
            next(events)
            connection.send("gathered")
            assert connection.recv(SOON) == "x"
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                connection.recv(30 * MS)
            assert time.monotonic() - start < SOON / 2
            assert connection.state is State.OPEN
            while peer.read_frame().payload != b"gathered":
                pass

"""Intake: what the bytes say, in wire order, up to the end of the stream."""

from __future__ import annotations

import socket

import pytest

from websocketserver.connection import Role
from websocketserver.exceptions import ConnectionClosed, ConnectionClosedOK
from websocketserver.protocol.events import Message, Ping, Pong
from websocketserver.settings import Settings

from .support import MASK, SOON, frame, half, run_in_thread

pytestmark = pytest.mark.usefixtures("no_timer")


class TestHooks:
    def test_events_come_in_wire_order(self) -> None:
        with half(hooks=frozenset({"ping", "pong"})) as (connection, peer):
            peer.frame(1, b"one", fin=False)
            peer.frame(9, b"ping")
            peer.frame(10, b"pong")
            peer.frame(0, b"two")
            events = [connection.next_event(SOON) for _ in range(3)]
            assert events == [Ping(b"ping"), Pong(b"pong"), Message(b"onetwo", True)]

    def test_only_those_asked_for_come(self) -> None:
        with half(hooks=frozenset({"pong"})) as (connection, peer):
            peer.frame(9, b"ping")
            peer.frame(10, b"pong")
            assert connection.next_event(SOON) == Pong(b"pong")

    def test_recv_passes_over_them(self) -> None:
        with half(hooks=frozenset({"ping", "pong"})) as (connection, peer):
            peer.frame(9, b"ping")
            peer.frame(10, b"pong")
            peer.frame(2, b"message")
            assert connection.recv(SOON) == b"message"
            assert peer.read_frame()[:2] == (10, b"ping")


class TestEnd:
    def test_all_that_came_before_the_end_is_delivered(self, tls: bool, role: Role) -> None:
        with half(role, tls=tls) as (connection, peer):
            peer.numbers(200, 8, b"\x03\xe8")
            peer.sock.close()
            got = [connection.recv(SOON) for _ in range(200)]
            assert got == [str(number) for number in range(200)]
            with pytest.raises(ConnectionClosedOK):
                connection.recv(SOON)

    def test_all_that_came_before_a_fin_is_delivered(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.numbers(200)
            peer.sock.close()
            assert [connection.recv(SOON) for _ in range(200)] == [str(number) for number in range(200)]
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1006

    def test_all_that_came_before_a_reset_is_delivered(self, tls: bool) -> None:
        with half(tls=tls, tcp=True) as (connection, peer):
            peer.numbers(200)
            first = connection.recv(SOON)  # so that a part is here, in the parser, at the reset
            reset(peer.sock)
            assert [first] + [connection.recv(SOON) for _ in range(199)] == [str(number) for number in range(200)]
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.code == 1006

    def test_inbox_is_read_before_the_end_is_told(self) -> None:
        with half(settings=Settings(max_queue_size=None)) as (connection, peer):
            peer.numbers(200, 8, b"\x03\xe9bye")
            with pytest.raises(ConnectionClosed):
                connection.ping().wait(SOON)
            assert [connection.recv() for _ in range(200)] == [str(number) for number in range(200)]
            with pytest.raises(ConnectionClosedOK) as caught:
                connection.recv()
            assert (caught.value.code, caught.value.reason) == (1001, "bye")

    def test_incomplete_message_at_the_end_is_no_message(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(1, b"whole")
            peer.send(frame(1, b"half a message", key=MASK)[:-1])
            peer.sock.close()
            assert connection.recv(SOON) == "whole"
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)

    @pytest.mark.parametrize(
        "wrong, code",
        [
            (frame(1, b"unmasked"), 1002),
            (frame(3, b"", key=MASK), 1002),
            (frame(1, b"\xff", key=MASK), 1007),
            (frame(2, b"", key=MASK, length=2 << 20), 1009),
        ],
        ids=["mask", "opcode", "utf-8", "size"],
    )
    def test_violation_fails_the_connection(self, tls: bool, wrong: bytes, code: int) -> None:
        with half(tls=tls) as (connection, peer):
            peer.frame(1, b"before")
            peer.send(wrong + frame(1, b"after", key=MASK))
            assert connection.recv(SOON) == "before"
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert caught.value.sent is not None
            assert caught.value.sent.code == code
            assert caught.value.code == 1006
            assert peer.read_close() == code
            assert peer.read_to_end() == b""  # our half of the stream has ended (7.1.7)

    def test_violation_inside_a_large_frame_is_found_before_its_end(self, tls: bool) -> None:
        with half(tls=tls, settings=Settings(max_message_size=None)) as (connection, peer):
            receiving = run_in_thread(connection.recv, SOON)
            peer.send(frame(1, b"a" * 300_000 + b"\xff" + b"a" * 1000, key=MASK, length=1 << 30))
            with pytest.raises(ConnectionClosed):
                receiving.result()
            assert peer.read_close() == 1007


def reset(sock: object) -> None:
    """End a TCP connection with a RST."""
    assert isinstance(sock, socket.socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()

"""A connection: what it receives and sends is the same both ways."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import pytest

from websocketserver import ConnectionClosed, Role, Settings, WebSocketConnection, sharing
from websocketserver.deadline import Deadline
from websocketserver.keepalive import Heartbeat
from websocketserver.protocol.events import AppEvent, Message
from websocketserver.transport import poll

from ..support import MASK, SOON, frame, half, pipe, run_in_thread, wait_until
from .kit import HAVE_C, Ends, counted, frames

LARGE = 200  # messages of 16 KiB: more than a socket holds


def test_the_seam_chooses() -> None:
    assert HAVE_C is not bool(os.environ.get("WEBSOCKETSERVER_PURE"))


@pytest.mark.usefixtures("way")
class TestBothWays:
    @pytest.mark.parametrize(
        "message",
        [
            *("", "text", "x" * 125, "x" * 126, "xy" * 8192, "x" * 20000, "é" * 100, "\N{GRINNING FACE}"),
            *(b"", b"bytes", bytes(16384), b"x" * 20000),
        ],
    )
    def test_messages_come_and_go(self, ends: Ends, message: str | bytes) -> None:
        connection, peer = ends
        payload = message.encode() if isinstance(message, str) else message
        opcode = 1 if isinstance(message, str) else 2
        for _ in range(2):
            connection.send(message)
            assert peer.read_frame() == (opcode, payload, True, 0, connection.role is Role.CLIENT)
            peer.frame(opcode, payload)
            assert connection.recv() == message
        assert counted(connection) == (2, 2)
        head = (2 if len(payload) < 126 else 4) + (4 if connection.role is Role.CLIENT else 0)
        assert connection.stats.bytes_sent == 2 * (len(payload) + head)

    @pytest.mark.parametrize("size", [16385, 65535, 65536, 128 << 10, (128 << 10) + 1])
    def test_messages_of_some_size(self, ends: Ends, size: int) -> None:
        connection, peer = ends
        for opcode, message in ((2, bytes(range(256)) * (size // 256 + 1)), (1, "abc" * size), (1, "é" * size)):
            sent = run_in_thread(connection.send, message[:size])
            payload = message[:size].encode() if isinstance(message, str) else message[:size]
            assert peer.read_frame() == (opcode, payload, True, 0, connection.role is Role.CLIENT)
            sent.result()

    def test_what_comes_together(self, ends: Ends) -> None:
        connection, peer = ends
        peer.send(b"".join(frames(connection, 5)))
        assert [connection.recv() for _ in range(5)] == ["0", "1", "2", "3", "4"]
        peer.send(b"".join(frames(connection, 5)))
        for number, event in enumerate(connection.events()):
            assert event == Message(str(number), True)
            connection.send(f"re {number}")
            if number == 4:
                break
        connection._output.flush(gathered=True)
        assert [peer.read_frame().payload for _ in range(5)] == [b"re %d" % number for number in range(5)]
        assert counted(connection) == (10, 5)

    def test_in_a_pool(self, ends: Ends) -> None:
        connection, peer = ends
        announced: list[None] = []
        connection.park(lambda: announced.append(None))
        try:
            seen: list[AppEvent] = []
            connection.handle_ready(seen.append)  # without waiting
            assert not seen

            def echo(event: AppEvent) -> None:
                seen.append(event)
                connection.send(f"re {event[0]!s}")

            for count in (1, 5):
                peer.send(b"".join(frames(connection, count)))
                wait_until(lambda: poll(connection.fileno(), True, False, Deadline(0))[0])
                connection.handle_ready(echo)
                assert seen == [Message(str(number), True) for number in range(count)]
                seen.clear()
                assert [peer.read_frame().payload for _ in range(count)] == [b"re %d" % each for each in range(count)]
            assert counted(connection) == (6, 6)
            assert not announced
            assert not connection.is_ready()
            peer.close_frame()
            wait_until(lambda: poll(connection.fileno(), True, False, Deadline(0))[0])
            with pytest.raises(ConnectionClosed):
                connection.handle_ready(seen.append)
        finally:
            connection.unpark()

    @pytest.mark.parametrize("way_of_pool", [True, False])
    def test_pings_of_the_timer(self, ends: Ends, way_of_pool: bool) -> None:
        connection, peer = ends
        if way_of_pool:
            connection.park(lambda: None)
        connection._heartbeat = Heartbeat(0, None, time.monotonic())
        for number in (1, 2):
            connection.visit(time.monotonic())
            assert peer.read_frame() == (9, number.to_bytes(4, "big"), True, 0, connection.role is Role.CLIENT)
        assert connection._pings.sent == 2
        assert counted(connection) == (0, 0)
        assert connection.stats.bytes_sent == 2 * (6 if connection.role is Role.SERVER else 10)
        connection.send("x")
        assert peer.read_frame().payload == b"x"
        if way_of_pool:
            connection.unpark()

    def test_pings_to_a_full_socket(self, ends: Ends) -> None:
        connection, peer = ends
        connection.park(lambda: None)
        sent = 0
        with pytest.raises(TimeoutError, match="nothing was sent"):
            while True:
                connection.send(bytes(1000), timeout=0)
                sent += 1
        for _ in range(200):  # the last of them find no room, or not for all
            connection._send_ping(b"ping")
        receiving = run_in_thread(lambda: [peer.read_frame() for _ in range(sent + 1)])
        wait_until(lambda: connection._output.flush())
        got = receiving.result()
        assert [each.opcode for each in got[:sent]] == [2] * sent
        assert got[sent][:2] == (9, b"ping")
        connection.unpark()

    def test_text_as_bytes(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(1, "é".encode())
        assert connection.recv(decode=False) == "é".encode()

    def test_pieces_of_a_frame(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        for byte in frames(connection, 3)[2]:
            peer.send(bytes([byte]))
        assert receiving.result() == "2"

    def test_control_frames_between(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(9, b"ping")
        peer.frame(1, b"text")
        assert connection.recv() == "text"
        assert peer.read_frame().payload == b"ping"

    def test_text_that_is_none(self, ends: Ends) -> None:
        connection, peer = ends
        peer.frame(1, b"\xff")
        with pytest.raises(ConnectionClosed, match="UTF-8"):
            connection.recv()

    def test_end_of_the_stream(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        peer.sock.close()
        with pytest.raises(ConnectionClosed, match="the stream ended without a Close"):
            receiving.result()

    def test_reset(self, role: Role) -> None:
        with half(role, tcp=True) as (connection, peer):
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.sock.close()
            with pytest.raises(ConnectionClosed, match="Connection reset by peer"):
                receiving.result()
            with pytest.raises(ConnectionClosed):
                connection.send("x")

    @pytest.mark.parametrize("parked", [False, True])
    def test_a_reset_that_sending_meets_is_told_as_one(self, role: Role, parked: bool) -> None:
        """A socket tells of its error once: whoever sends after that is told of a broken pipe."""
        with half(role, tcp=True) as (connection, peer):
            if parked:
                connection.park(lambda: None)
            connection._pumping = True  # by a thread that has yet to look: else what it reads would be told
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.sock.close()
            assert poll(connection.fileno(), True, False, Deadline(SOON))[0]
            with pytest.raises(ConnectionClosed, match=os.strerror(errno.ECONNRESET)):
                connection.send("x")
            connection._leave_pump()
            connection.unpark()

    def test_abort_wakes_who_waits(self, ends: Ends) -> None:
        connection, _ = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        connection.abort()
        with pytest.raises(ConnectionClosed):
            receiving.result()
        assert connection.fileno() == -1

    def test_who_waits_for_the_pump_is_told(self, ends: Ends) -> None:
        connection, peer = ends
        receivers = [run_in_thread(connection.recv) for _ in range(3)]
        wait_until(lambda: connection._waiting == 2)
        for number in range(3):
            peer.frame(1, b"%d" % number)
        assert sorted(receiver.result() for receiver in receivers) == ["0", "1", "2"]

    def test_more_than_the_socket_takes(self, ends: Ends) -> None:
        """Sends that take a part of a message are finished, and nothing comes between."""
        connection, peer = ends
        messages = [bytes([number % 256]) * (16384 - number) for number in range(LARGE)]

        def send_all() -> None:
            for message in messages:
                connection.send(message)

        sending = run_in_thread(send_all)
        wait_until(lambda: connection._output.rest or connection._output.lock.locked())
        assert [peer.read_frame().payload for _ in messages] == messages
        sending.result()
        assert connection.stats.messages_sent == LARGE

    def test_nobody_reads(self, role: Role) -> None:
        with half(role, settings=Settings(send_timeout=0.05)) as (connection, _):
            with pytest.raises(TimeoutError):
                while True:
                    connection.send(bytes(16000))

    @pytest.mark.parametrize("parked", [False, True])
    def test_messages_and_messages_in_pieces_of_several_threads(self, parked: bool) -> None:
        """A lock that was just handed to one who waits for it does not look locked."""
        with half(settings=Settings(ping_interval=None, compression=None)) as (connection, peer):
            if parked:
                connection.park(lambda: None)
            connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)

            def send(text: str) -> None:
                for number in range(60):
                    if number % 6:
                        connection.send(text)
                    else:
                        connection.send_fragments([text, text])

            sending = [run_in_thread(send, text) for text in ("a", "b" * 6000, "c" * 18000)]
            whole = 0
            while whole < 180:
                first = peer.read_frame()
                assert first.opcode == 1
                fin = first.fin
                while not fin:
                    more = peer.read_frame()
                    assert more.opcode == 0
                    fin = more.fin
                whole += 1
            for each in sending:
                each.result()
            assert connection.stats.messages_sent == 180
            if parked:
                connection.unpark()

    def test_what_comes_behind_a_close_of_ours_while_a_thread_waits_is_dropped(self, ends: Ends) -> None:
        connection, peer = ends
        receiving = run_in_thread(connection.recv)
        wait_until(lambda: connection._pumping)
        connection.start_close(1000)
        assert peer.read_close() == 1000
        peer.send(frames(connection, 1)[0])
        peer.close_frame(1000)
        with pytest.raises(ConnectionClosed):
            receiving.result()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the two, one can be raised
    def test_the_pump_is_left_where_an_interrupt_meets_another(self, ends: Ends) -> None:
        connection, peer = ends
        shutdown = connection._transport.shutdown

        def interrupted(*args: object) -> None:
            shutdown()
            raise KeyboardInterrupt

        connection._transport.shutdown = interrupted  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(connection), "_look_ahead", interrupted)
            for each in frames(connection, 2):
                peer.send(each)
            peer.frame(9, b"ping")
            wait_until(lambda: connection._transport.wait(True, False, Deadline(0))[0])
            with pytest.raises(KeyboardInterrupt):
                for _ in connection.events():
                    pass
        assert not connection._pumping
        wait_until(lambda: connection.fileno() == -1)

    def test_a_timeout_that_is_none_is_told_at_once(self, ends: Ends) -> None:
        connection, peer = ends
        with pytest.raises(TypeError):
            connection.send("x", timeout="1")  # type: ignore[arg-type]
        assert not connection._output.lock.locked()
        connection.send("y")
        assert peer.read_frame().payload == b"y"

    @pytest.mark.parametrize("parked", [False, True])
    def test_a_socket_that_the_application_has_closed(self, server: Ends, parked: bool) -> None:
        connection, _ = server
        if parked:
            connection.park(lambda: None)
        number = connection._sock.fileno()
        connection._sock.close()
        one, other = socket.socketpair()
        with one, other:
            theirs = {one.fileno(): other, other.fileno(): one}[number]  # the number is another's now
            theirs.setblocking(False)
            theirs.send(frame(1, b"not ours", key=MASK))
            with pytest.raises(ConnectionClosed):
                connection.send("not theirs")
            with pytest.raises(ConnectionClosed):
                connection.recv()
            with pytest.raises(BlockingIOError):
                theirs.recv(1)

    def test_a_guest_that_sends_while_it_is_noted(self, server: Ends) -> None:
        class Hasty(WebSocketConnection):
            __slots__ = ()

            def __hash__(self) -> int:
                self._output.flush_gathered()
                return id(self)

        connection, peer = server
        connection.__class__ = Hasty
        connection._output.gathered += frame(1, b"first")
        message = sharing.SharedMessage("second")
        assert message.frames(connection._output.sender) is not None
        assert connection.offer(message, {}, [])
        assert connection._output.flush_gathered()
        assert [peer.read_frame().payload for _ in range(2)] == [b"first", b"second"]

    def test_several_threads(self) -> None:
        with pipe() as (client, server):
            senders = [run_in_thread(self.send_many, client, name) for name in "abc"]
            got = [server.recv() for _ in range(300)]
            for sender in senders:
                sender.result()
            for name in "abc":
                assert [text for text in got if text[0] == name] == [f"{name}{number}" for number in range(100)]

    def send_many(self, connection: WebSocketConnection, name: str) -> None:
        for number in range(100):
            connection.send(f"{name}{number}")

    @pytest.mark.parametrize("message", ["\ud800", None, 5, [b"x"]])
    def test_what_cannot_be_sent(self, ends: Ends, message: Any) -> None:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            ends[0].send(message)
        ends[0].send("x")
        assert ends[1].read_frame().payload == b"x"

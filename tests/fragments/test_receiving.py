"""Messages received in pieces, as they arrive: recv_fragments, FragmentStream, and whose turn it is."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from websocketserver.connection import Role, WebSocketConnection
from websocketserver.deadline import Deadline
from websocketserver.exceptions import ConnectionClosed, ConnectionClosedOK
from websocketserver.fragments import FragmentStream
from websocketserver.intake import READ_SIZE
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.events import Fragment, Message, Ping
from websocketserver.settings import Settings

from ..support import MS, SOON, RawPeer, frame, half, pipe, run_in_thread, wait_until

CONTINUATION, TEXT, BINARY, PING, PONG = 0, 1, 2, 9, 10
MB = 1 << 20
NOW = Deadline(0)
COMPRESSED = Settings(compression=PerMessageDeflate(threshold=0))


def begin(connection: WebSocketConnection, peer: RawPeer, opcode: int = TEXT) -> FragmentStream:
    """Have the peer begin a message with "one", and return the stream that has taken that."""
    peer.frame(opcode, b"one", fin=False)
    stream = connection.recv_fragments(SOON)
    assert next(stream) == ("one" if opcode == TEXT else b"one")
    return stream


def assemble(connection: WebSocketConnection) -> None:
    """Have what is here of a message assembled."""
    with pytest.raises(TimeoutError):
        connection.recv(20 * MS)


class TestReceiving:
    def test_pieces_come_as_they_arrive(self, role: Role, tls: bool) -> None:
        with half(role, tls=tls) as (connection, peer):
            stream = begin(connection, peer)
            assert stream.text
            peer.frame(CONTINUATION, b"two", fin=False)
            assert next(stream) == "two"
            peer.frame(CONTINUATION, b"three")
            assert next(stream) == "three"
            assert next(stream, None) is None
            peer.frame(BINARY, b"next")
            assert connection.recv(SOON) == b"next"
            assert connection.stats.messages_received == 2

    def test_of_one_huge_frame_no_more_than_a_piece_is_held(
        self, role: Role, tls: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 1000.0)  # the timer reads as much as it may
        size = 20 * MB
        with half(role, tls=tls, settings=Settings(max_message_size=None)) as (connection, peer):
            peer.send(frame(BINARY, key=bytes(4) if peer.masks else None, length=size))
            sending = run_in_thread(peer.send, bytes(size))
            sizes = []
            for piece in connection.recv_fragments(SOON):
                sizes.append(len(piece))
                assert connection._inbox_size == 0
                assert len(connection._receiver._payload) == 0
            sending.result()
            assert sum(sizes) == size
            assert 0 < min(sizes) <= max(sizes) <= 2 * READ_SIZE

    def test_a_piece_of_a_frame_comes_before_the_frame_has_ended(self) -> None:
        with half(Role.CLIENT) as (connection, peer):
            peer.send(frame(TEXT, length=1000) + b"begin")
            stream = connection.recv_fragments(SOON)
            assert next(stream) == "begin"
            peer.send(bytes(995))
            assert len("".join(stream)) == 995  # type: ignore[arg-type]

    def test_no_character_is_split(self) -> None:
        text = "aé€😀" * 3
        with half(Role.CLIENT) as (connection, peer):
            stream = connection.recv_fragments(5 * MS)
            peer.send(frame(TEXT, length=len(text.encode())))
            pieces = []
            for character in text:
                *first, last = character.encode()
                for byte in first:
                    peer.send(bytes([byte]))
                    with pytest.raises(TimeoutError):
                        next(stream)
                peer.send(bytes([last]))
                pieces.append(next(stream))
            assert pieces == list(text)
            assert list(stream) == []

    def test_a_whole_message_is_one_piece(self) -> None:
        with half() as (connection, peer):
            peer.frame(TEXT, "é".encode())
            peer.frame(BINARY, b"b")
            assert list(connection.recv_fragments(SOON)) == ["é"]
            assert list(connection.recv_fragments(SOON)) == [b"b"]

    def test_a_whole_message_in_the_inbox_is_one_piece(self) -> None:
        with half() as (connection, peer):
            for payload in (b"one", b"two", b"three"):
                peer.frame(TEXT, payload)
            wait_until(lambda: connection.attend() and len(connection._inbox) == 3)
            connection._receiver.decode_text = False
            assert [list(connection.recv_fragments(0)) for _ in range(3)] == [["one"], ["two"], ["three"]]

    @pytest.mark.parametrize("whole", [True, False])
    def test_an_empty_message_has_no_pieces(self, whole: bool) -> None:
        with half() as (connection, peer):
            peer.frame(TEXT, fin=whole)
            if not whole:
                peer.frame(CONTINUATION)
            stream = connection.recv_fragments(SOON)
            assert stream.text is None
            assert list(stream) == []
            assert stream.text is True

    @pytest.mark.parametrize("size", [3, 100_000])
    def test_the_first_piece_is_what_was_assembled(self, size: int) -> None:
        with half(Role.CLIENT) as (connection, peer):
            peer.frame(BINARY, b"one", fin=False)
            peer.send(frame(CONTINUATION, length=size + 2) + bytes(size))  # large ones are read straight into place
            assemble(connection)
            stream = connection.recv_fragments(SOON)
            assert next(stream) == b"one" + bytes(size)
            peer.send(b"xy")
            assert list(stream) == [b"xy"]

    def test_what_was_assembled_ends_within_a_character(self) -> None:
        with half() as (connection, peer):
            peer.frame(TEXT, "a€".encode()[:-1], fin=False)
            assemble(connection)
            stream = connection.recv_fragments(SOON)
            assert next(stream) == "a"
            peer.frame(CONTINUATION, "€".encode()[-1:])
            assert list(stream) == ["€"]

    def test_over_an_extension(self, role: Role, tls: bool) -> None:
        with pipe(tls=tls, negotiate_extensions=True, client=COMPRESSED, server=COMPRESSED) as (client, server):
            ours, theirs = (client, server) if role is Role.CLIENT else (server, client)
            for text in ("é" * 300_000, "next"):
                sending = run_in_thread(theirs.send, text)
                assert "".join(ours.recv_fragments(SOON)) == text  # type: ignore[arg-type]
                sending.result()

    def test_pings_pass(self) -> None:
        with half(hooks=frozenset({"ping"})) as (connection, peer):
            stream = begin(connection, peer)
            peer.frame(PING, b"p")
            peer.frame(CONTINUATION, b"two")
            assert list(stream) == ["two"]
            assert peer.read_frame()[:2] == (PONG, b"p")

    def test_an_upgrade_on_fragments_streams_the_rest(self) -> None:
        with half(fragments=True) as (connection, peer):
            peer.frame(TEXT, b"one", fin=False)
            assert connection.next_event(SOON) == Fragment("one", True, False)
            peer.frame(CONTINUATION, b"two")
            peer.frame(TEXT, b"three")
            assert list(connection.recv_fragments(SOON)) == ["two"]
            assert connection.next_event(SOON) == Fragment("three", True, True)

    def test_iterating_is_what_begins_it(self) -> None:
        with half() as (connection, peer):
            stream = connection.recv_fragments(SOON)
            peer.frame(TEXT, b"one")
            peer.frame(TEXT, b"two")
            assert connection.recv(SOON) == "one"
            assert list(stream) == ["two"]


class TestDeadlines:
    def test_a_time_out_before_the_first_piece_leaves_the_message_whole(self) -> None:
        with half() as (connection, peer):
            for payload in (b"", "€".encode()[:2]):
                peer.frame(TEXT, payload, fin=False)
                with pytest.raises(TimeoutError):
                    next(connection.recv_fragments(20 * MS))
                peer.frame(CONTINUATION, "€".encode()[len(payload) :] + b"!")
                assert connection.recv(SOON) == "€!"

    def test_a_time_out_half_way_loses_nothing(self) -> None:
        with half() as (connection, peer):
            peer.frame(TEXT, b"one", fin=False)
            stream = connection.recv_fragments(50 * MS)
            with pytest.raises(TimeoutError):
                list(stream)
            peer.frame(CONTINUATION, b"two")
            assert list(stream) == ["two"]

    def test_the_time_is_for_each_piece(self) -> None:
        with half() as (connection, peer):
            stream = connection.recv_fragments(0)
            with pytest.raises(TimeoutError):
                next(stream)
            peer.frame(TEXT, b"one", fin=False)
            wait_until(lambda: connection._transport.wait(True, False, NOW)[0])
            assert next(stream) == "one"
            peer.frame(CONTINUATION, b"two")
            wait_until(lambda: connection._transport.wait(True, False, NOW)[0])
            assert list(stream) == ["two"]


class TestGivingUp:
    """The rest of the message is passed over."""

    @pytest.fixture(
        params=["close", "drop", "with", "break", "exception", "recv"],
    )
    def give_up(self, request: pytest.FixtureRequest) -> Callable[[WebSocketConnection, RawPeer], None]:
        def give_up(connection: WebSocketConnection, peer: RawPeer) -> None:
            stream = begin(connection, peer)
            if request.param == "close":
                stream.close()
                assert list(stream) == []
            elif request.param == "drop":
                del stream
            elif request.param == "with":
                with stream:
                    pass
            elif request.param == "exception":
                peer.frame(CONTINUATION, b"two", fin=False)
                with pytest.raises(ZeroDivisionError):
                    for _ in stream:
                        1 / 0  # noqa: B018
                stream.close()
            elif request.param == "break":
                peer.frame(CONTINUATION, b"two", fin=False)
                for _ in stream:
                    break
                del stream
            else:
                with pytest.raises(TimeoutError):
                    connection.recv(0)
                with pytest.raises(RuntimeError, match="given up"):
                    next(stream)

        return give_up

    def test_the_next_message_is_next(self, give_up: Any, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            give_up(connection, peer)
            peer.frame(CONTINUATION, b"rest", fin=False)
            peer.frame(CONTINUATION, b"rest")
            peer.frame(TEXT, b"next", fin=False)
            peer.frame(CONTINUATION, b"!")
            assert connection.recv(SOON) == "next!"
            peer.frame(BINARY, b"last")
            assert list(connection.recv_fragments(SOON)) == [b"last"]

    def test_the_next_stream_is_of_the_next_message(self, give_up: Any) -> None:
        with half() as (connection, peer):
            give_up(connection, peer)
            peer.frame(CONTINUATION, b"rest")
            peer.frame(TEXT, b"next", fin=False)
            stream = connection.recv_fragments(SOON)
            assert next(stream) == "next"
            peer.frame(CONTINUATION, b"!")
            assert list(stream) == ["!"]

    def test_the_rest_is_checked(self, give_up: Any) -> None:
        with half() as (connection, peer):
            give_up(connection, peer)
            peer.frame(CONTINUATION, b"\xff")
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)
            assert peer.read_close() == 1007

    @pytest.mark.parametrize("fin", [True, False])
    def test_pieces_in_the_inbox_go_and_all_else_stays(self, fin: bool) -> None:
        with half(hooks=frozenset({"ping"})) as (connection, peer):
            stream = begin(connection, peer)
            peer.frame(CONTINUATION, b"two", fin=False)
            peer.frame(PING, b"p")
            peer.frame(CONTINUATION, b"three", fin=fin)
            wait_until(lambda: connection.attend() and len(connection._inbox) == 3)
            if fin:
                peer.frame(TEXT, b"next")
                wait_until(lambda: connection.attend() and len(connection._inbox) == 4)
            stream.close()
            assert connection.next_event(SOON) == Ping(b"p")
            if not fin:
                peer.frame(CONTINUATION, b"four")
                peer.frame(TEXT, b"next")
            assert connection.next_event(SOON) == Message("next", True)
            assert connection._inbox_size == 0

    def test_a_piece_that_was_being_queued_goes_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Given up between the parsing of a piece and its way into the inbox."""
        with half() as (connection, peer):
            stream = begin(connection, peer)
            queue = connection._queue

            def queue_late(event: Any) -> None:
                stream.close()
                queue(event)

            monkeypatch.setattr(connection, "_queue", queue_late)
            peer.frame(CONTINUATION, b"two")
            peer.frame(TEXT, b"next")
            wait_until(lambda: connection.attend() and connection._inbox)
            assert connection.recv(SOON) == "next"

    def test_garbage_is_found_out_by_who_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A finalizer that runs while the lock is held cannot announce the end of the turn."""
        monkeypatch.setattr("websocketserver.fragments.LOOK_AGAIN", 5 * MS)
        with half() as (connection, peer):
            streams = [begin(connection, peer)]
            receiving = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._waiting)
            with connection._lock:
                streams.clear()
                gc.collect()
            peer.frame(CONTINUATION, b"rest")
            peer.frame(TEXT, b"next")
            assert receiving.result() == "next"


class TestTheReceivingTurn:
    def test_recv_in_another_thread_waits_for_the_end(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            receiving = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._waiting)
            peer.frame(CONTINUATION, b"two")
            peer.frame(TEXT, b"next")
            assert list(stream) == ["two"]
            assert receiving.result() == "next"

    def test_another_stream_waits_for_the_end(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            receiving = run_in_thread(lambda: list(connection.recv_fragments(SOON)))
            wait_until(lambda: connection._waiting)
            peer.frame(CONTINUATION, b"two")
            peer.frame(TEXT, b"next")
            assert list(stream) == ["two"]
            assert receiving.result() == ["next"]

    def test_a_stream_waits_for_the_recv_that_came_first(self) -> None:
        with half() as (connection, peer):
            receiving = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._pumping)
            streaming = run_in_thread(lambda: list(connection.recv_fragments(SOON)))
            wait_until(lambda: connection._waiting)
            peer.frame(TEXT, b"one")
            assert receiving.result() == "one"
            peer.frame(TEXT, b"two")
            assert streaming.result() == ["two"]

    def test_who_waits_has_its_deadline(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)

            def receive() -> str:
                with pytest.raises(TimeoutError) as caught:
                    connection.recv(20 * MS)
                return str(caught.value)

            assert "in pieces" in run_in_thread(receive).result()
            peer.frame(CONTINUATION, b"two")
            assert list(stream) == ["two"]

    def test_the_end_ends_all_who_wait_and_the_stream(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            receiving = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._waiting)
            peer.frame(CONTINUATION, b"two", fin=False)
            peer.close_frame(1001)
            assert next(stream) == "two"
            with pytest.raises(ConnectionClosedOK):
                next(stream)
            with pytest.raises(ConnectionClosedOK):
                receiving.result()

    def test_the_end_ends_who_waits_before_the_last_pieces_are_taken(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            receiving = run_in_thread(connection.recv, SOON)
            wait_until(lambda: connection._waiting)
            peer.frame(CONTINUATION, b"two", fin=False)
            peer.close_frame(1001)
            wait_until(lambda: connection.attend() and connection._input_over)
            with pytest.raises(ConnectionClosedOK):
                receiving.result()
            assert next(stream) == "two"

    def test_pieces_that_others_read_are_bounded_and_in_order(self, tls: bool) -> None:
        size = 8 * MB
        settings = Settings(max_message_size=None, max_queue_size=100_000)
        with half(Role.CLIENT, tls=tls, settings=settings) as (connection, peer):
            data = bytes(range(256)) * (size >> 8)
            peer.send(frame(BINARY, length=size) + data[:1])
            stream = connection.recv_fragments(SOON)
            assert next(stream) == data[:1]
            sending = run_in_thread(peer.send, data[1:])
            waiting = run_in_thread(connection.ping(b"p").wait)
            wait_until(lambda: connection._inbox_size >= 100_000 and connection._waiting)
            assert connection._inbox_size <= 100_000 + 2 * READ_SIZE
            assert data[:1] + b"".join(stream) == data  # type: ignore[arg-type]
            sending.result()
            peer.frame(PONG, b"p")
            waiting.result()

    def test_a_thread_may_go_on_where_another_has_begun(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            peer.frame(CONTINUATION, b"two", fin=False)
            assert run_in_thread(lambda: next(stream)).result() == "two"
            peer.frame(CONTINUATION, b"three")
            assert list(stream) == ["three"]

    def test_after_our_close_the_rest_is_dropped(self) -> None:
        with half() as (connection, peer):
            stream = begin(connection, peer)
            peer.frame(CONTINUATION, b"two", fin=False)
            wait_until(connection.attend)
            connection.start_close()
            peer.frame(CONTINUATION, b"three")
            peer.close_frame()
            assert next(stream) == "two"
            with pytest.raises(ConnectionClosedOK):
                next(stream)

    def test_limits_hold(self) -> None:
        with half(settings=Settings(max_message_size=5)) as (connection, peer):
            stream = begin(connection, peer)
            peer.frame(CONTINUATION, b"two")
            with pytest.raises(ConnectionClosed):
                list(stream)
            assert peer.read_close() == 1009

"""Messages sent in pieces, as they are made: send_fragments, whose turn it is, and both ways at once."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import pytest

from websocketserver.connection import Role, State, WebSocketConnection
from websocketserver.deadline import Deadline
from websocketserver.exceptions import ConnectionClosed
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.settings import Settings

from ..support import MS, SOON, half, pipe, run_in_thread, wait_until

CONTINUATION, TEXT, BINARY, PING, PONG = 0, 1, 2, 9, 10
NOW = Deadline(0)
COMPRESSED = Settings(compression=PerMessageDeflate(threshold=0))


class TestSending:
    def test_each_piece_is_a_frame_that_leaves_before_the_next_is_asked_for(self, role: Role, tls: bool) -> None:
        with half(role, tls=tls) as (connection, peer):

            def pieces() -> Iterator[str]:
                yield "one"
                assert peer.read_frame()[:3] == (TEXT, b"one", False)
                yield "zwö"
                assert peer.read_frame()[:3] == (CONTINUATION, "zwö".encode(), False)
                yield ""

            connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (CONTINUATION, b"", True)
            connection.send("next")
            assert peer.read_frame()[:3] == (TEXT, b"next", True)
            assert connection.stats.messages_sent == 2

    @pytest.mark.parametrize(
        ("pieces", "text", "opcode"),
        [
            (["a", "b"], None, TEXT),
            ([b"a", bytearray(b"b")], None, BINARY),
            ([memoryview(b"a"), memoryview(b"b")], True, TEXT),
            (["a", "b"], False, BINARY),
        ],
    )
    def test_kinds(self, pieces: Any, text: bool | None, opcode: int) -> None:
        with half() as (connection, peer):
            connection.send_fragments(pieces, text=text)
            assert [peer.read_frame()[:3] for _ in range(3)] == [
                (opcode, b"a", False),
                (CONTINUATION, b"b", False),
                (CONTINUATION, b"", True),
            ]

    @pytest.mark.parametrize(("text", "opcode"), [(None, BINARY), (True, TEXT)])
    def test_no_piece_is_an_empty_message(self, text: bool | None, opcode: int) -> None:
        with half() as (connection, peer):
            connection.send_fragments([], text=text)
            connection.send_fragments(["", ""])
            assert peer.read_frame()[:3] == (opcode, b"", True)
            assert peer.read_frame()[:3] == (TEXT, b"", True)

    @pytest.mark.parametrize("pieces", ["text", b"bytes", 5, None, [5], [None]])
    def test_what_is_not_pieces_is_refused(self, pieces: Any) -> None:
        with half() as (connection, peer):
            with pytest.raises(TypeError):
                connection.send_fragments(pieces)
            connection.send("next")
            assert peer.read_frame()[1] == b"next"

    @pytest.mark.parametrize("pieces", [["a", b"b"], [b"a", "b"]])
    def test_mixed_kinds_are_refused(self, pieces: Any) -> None:
        with half() as (connection, peer):
            with pytest.raises(TypeError, match=r"str and bytes|bytes and str"):
                connection.send_fragments(pieces)
            assert peer.read_frame()[1:3] == (b"a", False)
            assert peer.read_close() == 1011

    def test_a_large_piece_is_split_as_messages_are(self) -> None:
        with half(settings=Settings(fragment_size=2)) as (connection, peer):
            connection.send_fragments(["abc", "d"])
            assert [peer.read_frame()[:3] for _ in range(4)] == [
                (TEXT, b"ab", False),
                (CONTINUATION, b"c", False),
                (CONTINUATION, b"d", False),
                (CONTINUATION, b"", True),
            ]

    @pytest.mark.parametrize("compress", [None, False])
    def test_over_an_extension(self, role: Role, tls: bool, compress: bool | None) -> None:
        with pipe(tls=tls, negotiate_extensions=True, client=COMPRESSED, server=COMPRESSED) as (client, server):
            ours, theirs = (client, server) if role is Role.CLIENT else (server, client)
            pieces = [f"{number} é " * 100 for number in range(100)]
            for _ in range(2):
                sending = run_in_thread(ours.send_fragments, pieces, compress=compress)
                assert theirs.recv(SOON) == "".join(pieces)
                sending.result()

    def test_an_endless_source_is_held_back_by_the_reader(self) -> None:
        taken = 0

        def pieces() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield bytes(100_000)

        with half() as (connection, peer):
            sending = run_in_thread(connection.send_fragments, pieces(), timeout=300 * MS)
            assert len(peer.read_frame().payload) == 100_000
            with pytest.raises(TimeoutError):
                sending.result()
            assert taken < 100
            assert connection.state is State.CLOSED


class TestFailing:
    def test_an_exception_before_the_first_piece_harms_nothing(self) -> None:
        def pieces() -> Iterator[str]:
            yield ""
            raise LookupError

        with half() as (connection, peer):
            with pytest.raises(LookupError):
                connection.send_fragments(pieces())
            connection.send("next")
            assert peer.read_frame()[:3] == (TEXT, b"next", True)

    @pytest.mark.parametrize("error", [LookupError, TimeoutError, KeyboardInterrupt])
    def test_an_exception_half_way_closes(self, error: type[BaseException], tls: bool) -> None:
        def pieces() -> Iterator[str]:
            yield "one"
            raise error("mine")

        with half(tls=tls) as (connection, peer):
            with pytest.raises(error, match="mine"):
                connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (TEXT, b"one", False)
            assert peer.read_close() == 1011
            with pytest.raises(ConnectionClosed):
                connection.send("next")

    def test_a_slow_source_runs_into_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr("websocketserver.fragments.Deadline", partial(Deadline, clock=lambda: now))

        def pieces() -> Iterator[str]:
            nonlocal now
            yield "one"
            now = 51.0
            yield "two"

        with half() as (connection, peer):
            with pytest.raises(TimeoutError, match="closed"):
                connection.send_fragments(pieces(), timeout=50)
            assert peer.read_frame()[:3] == (TEXT, b"one", False)
            assert peer.read_close() == 1011

    def test_a_source_whose_first_piece_is_too_late_harms_nothing(self) -> None:
        def pieces() -> Iterator[str]:
            threading.Event().wait(30 * MS)
            yield "one"

        with half() as (connection, peer):
            with pytest.raises(TimeoutError, match="usable"):
                connection.send_fragments(pieces(), timeout=20 * MS)
            connection.send("next")
            assert peer.read_frame()[:3] == (TEXT, b"next", True)

    def test_a_source_that_sends_itself_is_told(self) -> None:
        with half() as (connection, peer):

            def pieces() -> Iterator[str]:
                yield "one"
                connection.send("two")

            with pytest.raises(RuntimeError, match="within"):
                connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (TEXT, b"one", False)
            assert peer.read_close() == 1011

    def test_a_nested_stream_is_told_and_does_not_end_the_outer(self) -> None:
        with half() as (connection, peer):

            def pieces() -> Iterator[str]:
                yield "one"
                with pytest.raises(RuntimeError, match="within"):
                    connection.send_fragments(["two"])
                yield "three"

            connection.send_fragments(pieces())
            assert [peer.read_frame()[:2] for _ in range(3)] == [
                (TEXT, b"one"),
                (CONTINUATION, b"three"),
                (CONTINUATION, b""),
            ]

    def test_the_end_of_the_connection_ends_it(self) -> None:
        with half() as (connection, peer):

            def pieces() -> Iterator[str]:
                yield "one"
                connection.start_close(1001)
                yield "two"

            with pytest.raises(ConnectionClosed):
                connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (TEXT, b"one", False)
            assert peer.read_close() == 1001

    def test_a_stream_that_is_gone_leaves_what_has_come(self, role: Role) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"one"
            for number in range(5):
                peer.frame(BINARY, bytes([number]))
            peer.close_frame(3000)
            peer.sock.close()
            yield from itertools.repeat(bytes(100_000))

        with half(role, settings=Settings(max_queue_size=1)) as (connection, peer):  # not all is read at once
            with pytest.raises(ConnectionClosed):
                connection.send_fragments(pieces())
            assert [connection.recv(SOON) for _ in range(5)] == [bytes([number]) for number in range(5)]
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(SOON)
            assert (caught.value.code, caught.value.sent) in ((3000, None), (3000, (3000, "")))


class TestTheSendingTurn:
    def test_messages_wait_and_control_frames_pass(self, role: Role, tls: bool) -> None:
        with half(role, tls=tls) as (connection, peer):
            waiting: list[Any] = []

            def pieces() -> Iterator[str]:
                yield "one"
                assert peer.read_frame()[:2] == (TEXT, b"one")
                waiting.append(run_in_thread(connection.send, "other"))
                waiting.append(run_in_thread(connection.send_fragments, ["third"]))
                wait_until(lambda: connection._waiting == 2)
                run_in_thread(connection.ping, "ours").result()
                assert peer.read_frame()[:2] == (PING, b"ours")
                connection.pong("unsolicited")
                assert peer.read_frame()[:2] == (PONG, b"unsolicited")
                peer.frame(PING, b"theirs")
                wait_until(lambda: not connection.attend() and connection._bytes_received)
                assert peer.read_frame()[:2] == (PONG, b"theirs")
                assert all(handle.running for handle in waiting)
                yield "two"
                assert peer.read_frame()[:3] == (CONTINUATION, b"two", False)

            connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (CONTINUATION, b"", True)
            texts = [peer.read_frame().payload for _ in range(3)]
            assert texts in ([b"other", b"third", b""], [b"third", b"", b"other"])
            for handle in waiting:
                handle.result()

    def test_who_waits_has_its_deadline(self) -> None:
        with half() as (connection, peer):

            def pieces() -> Iterator[str]:
                yield "one"
                other = run_in_thread(connection.send, "other", timeout=20 * MS)
                with pytest.raises(TimeoutError, match=r"in pieces.*usable"):
                    other.result()

            connection.send_fragments(pieces())
            connection.send("next")
            assert [peer.read_frame().payload for _ in range(3)] == [b"one", b"", b"next"]

    def test_who_waits_learns_of_a_failure(self) -> None:
        with half() as (connection, _):
            waiting: list[Any] = []

            def pieces() -> Iterator[str]:
                yield "one"
                waiting.append(run_in_thread(connection.send, "other"))
                wait_until(lambda: connection._waiting)
                raise LookupError

            with pytest.raises(LookupError):
                connection.send_fragments(pieces())
            with pytest.raises(ConnectionClosed):
                waiting[0].result()

    def test_what_was_gathered_goes_first_and_nothing_is_gathered_behind(self) -> None:
        with half() as (connection, peer):
            peer.frame(TEXT, b"1")
            peer.frame(TEXT, b"2")
            events = connection.events()
            wait_until(lambda: connection._transport.wait(True, False, NOW)[0])
            next(events)
            wait_until(connection.attend)

            def pieces() -> Iterator[str]:
                yield "one"
                assert peer.read_frame()[:2] == (TEXT, b"reply")
                assert peer.read_frame()[:2] == (TEXT, b"one")

            connection.send("reply")
            connection.send_fragments(pieces())
            assert peer.read_frame()[:3] == (CONTINUATION, b"", True)

    def test_both_ends_stream_at_once(self, tls: bool) -> None:
        """With nobody receiving until all has been sent: who finds the socket full reads."""
        settings = Settings(max_message_size=None, max_queue_size=None, compression=None)
        pieces = [bytes([number]) * 50_000 for number in range(100)]
        with pipe(tls=tls, client=settings, server=settings) as ends:
            sending = [run_in_thread(end.send_fragments, pieces) for end in ends]
            for handle in sending:
                handle.result()
            for end in ends:
                assert b"".join(end.recv_fragments(SOON)) == b"".join(pieces)  # type: ignore[arg-type]

    def test_many_threads(self, tls: bool) -> None:
        """Streams and messages from many threads at once: each arrives whole."""
        with pipe(tls=tls, negotiate_extensions=True, client=COMPRESSED, server=COMPRESSED) as (client, server):

            def send(name: str) -> None:
                for number in range(20):
                    if number % 2:
                        client.send(name * 1000)
                    else:
                        client.send_fragments(name * 100 for _ in range(10))

            sending = [run_in_thread(send, name) for name in "abcd"]
            received = []
            for number in range(80):
                if number % 3:
                    received.append("".join(server.recv_fragments(SOON)))  # type: ignore[arg-type]
                else:
                    received.append(server.recv(SOON))  # type: ignore[arg-type]
            assert sorted(received) == sorted(name * 1000 for name in "abcd" for _ in range(20))
            for handle in sending:
                handle.result()


class Exchange:
    """Three threads send, three receive, all by whole messages and by pieces, and some give up half way."""

    SENDERS = RECEIVERS = 3

    def __init__(self, sender: WebSocketConnection, receiver: WebSocketConnection) -> None:
        self.sender, self.receiver = sender, receiver
        self.stopping = threading.Event()
        self.lock = threading.Lock()  # guards the next three
        self.received: list[str] = []
        self.given_up = self.ended = 0

    def send(self, name: int) -> int:
        random, count = Random(name), 0
        while not self.stopping.is_set():
            text = f"{name} {count} " + "é" * random.randrange(20_000) + "$"
            if count % 2:
                self.sender.send(text)
            else:
                cuts = [0, *sorted(random.randrange(len(text)) for _ in range(5)), len(text)]
                self.sender.send_fragments(text[start:end] for start, end in itertools.pairwise(cuts))
            count += 1
        self.sender.send("end")
        return count

    def receive(self, seed: int) -> None:
        random = Random(seed)
        while self.ended < self.SENDERS:
            with contextlib.suppress(TimeoutError):
                if random.random() < 0.4:
                    self.note(str(self.receiver.recv(20 * MS)))
                else:
                    self.stream(random, 20 * MS if random.random() < 0.5 else 0)

    def stream(self, random: Random, timeout: float) -> None:
        text, patience = "", random.choice((1, 2, 1000, 1000))
        with self.receiver.recv_fragments(timeout) as stream:
            while not text.endswith(("$", "end")):
                try:
                    text += str(next(stream))
                except TimeoutError:
                    if not text:
                        raise
                patience -= 1
                if not patience and not text.endswith(("$", "end")) and text[0].isdigit():
                    with self.lock:
                        self.given_up += 1
                    return
        self.note(text)

    def note(self, text: str) -> None:
        with self.lock:
            if text == "end":
                self.ended += 1
            else:
                assert text.endswith("$")
                self.received.append(text.rpartition(" ")[0])

    def ping(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                self.receiver.ping().wait(100 * MS)


@pytest.mark.parametrize("seconds", [0.3, pytest.param(10, marks=pytest.mark.slow)])
def test_every_message_arrives_once_or_is_given_up(tls: bool, seconds: float) -> None:
    settings = Settings(compression=PerMessageDeflate(threshold=0), max_queue_size=50_000)
    with pipe(tls=tls, negotiate_extensions=True, client=settings, server=settings) as ends:
        exchange = Exchange(*ends)
        sending = [run_in_thread(exchange.send, name) for name in range(exchange.SENDERS)]
        others = [run_in_thread(exchange.receive, seed) for seed in range(exchange.RECEIVERS)]
        others.append(run_in_thread(exchange.ping))
        threading.Event().wait(seconds)
        exchange.stopping.set()
        sent = sum(handle.result() for handle in sending)
        for handle in others:
            handle.result()
        assert len(exchange.received) == len(set(exchange.received))
        assert len(exchange.received) + exchange.given_up == sent

"""Trace: every frame of one connection, told while it runs, in both roles, over plain sockets and TLS."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from typing import Any

import pytest

from websocketserver import ConnectionClosed, Settings, WebSocketClient, trace
from websocketserver.connection import Role
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.endpoint import DIRECT
from websocketserver.protocol.frames import FrameParser
from websocketserver.protocol.sender import Sender
from websocketserver.trace import TracedFrame

from .serving import OURS, Quiet, leave, serving
from .support import SOON, RawPeer, frame, half, pipe, raw_client, run_in_thread, wait_until

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@pytest.fixture(params=OURS, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


def brief(seen: TracedFrame) -> tuple[Any, ...]:
    return seen.opcode, seen.fin, seen.length, seen.payload


def incoming(frames: list[TracedFrame]) -> list[tuple[Any, ...]]:
    return [brief(frame) for frame in frames if frame.incoming]


def outgoing(frames: list[TracedFrame]) -> list[tuple[Any, ...]]:
    return [brief(frame) for frame in frames if not frame.incoming]


def wire_of(peer: RawPeer, payload: bytes) -> bytes:
    """Return the bytes of a frame as the peer would send it."""
    return frame(BINARY, payload, key=b"key!" if peer.masks else None)


class TestFrames:
    def test_that_come(self, role: Role, tls: bool) -> None:
        frames: list[TracedFrame] = []
        large = os.urandom(5 * DIRECT)
        with half(role, tls=tls, tcp=True) as (connection, peer):
            connection.trace(frames.append)
            peer.frame(TEXT, "grün".encode())
            peer.frame(TEXT, b"")
            peer.frame(TEXT, b"one ", fin=False)
            peer.frame(PING, b"ping")
            peer.frame(CONTINUATION, b"message")
            sending = run_in_thread(peer.frame, BINARY, large)
            assert [connection.recv(SOON) for _ in range(4)] == ["grün", "", "one message", large]
            sending.result()
            peer.frame(PONG, b"pong")
            peer.close_frame(1000, "over")
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)
            wait_until(lambda: len(incoming(frames)) == 8)
            assert incoming(frames) == [
                (TEXT, True, 5, "grün".encode()),
                (TEXT, True, 0, b""),
                (TEXT, False, 4, b"one "),
                (PING, True, 4, b"ping"),
                (CONTINUATION, True, 7, b"message"),
                (BINARY, True, len(large), large[:64]),
                (PONG, True, 4, b"pong"),
                (CLOSE, True, 6, b"\x03\xe8over"),
            ]
            assert all(frame.masked is (role is Role.SERVER) for frame in frames if frame.incoming)

    def test_that_go(self, role: Role, tls: bool) -> None:
        frames: list[TracedFrame] = []
        large = os.urandom(100_000)
        with half(role, tls=tls, tcp=True, settings=Settings(fragment_size=60_000)) as (connection, peer):
            connection.trace(frames.append)
            connection.send("grün")
            connection.send(b"")
            sending = run_in_thread(connection.send, large)
            got = [peer.read_frame() for _ in range(4)]
            sending.result()
            connection.send_fragments(["a", "b"])
            connection.ping("ping")
            connection.pong("pong")
            connection.start_close(1001, "over")
            got += [peer.read_frame() for _ in range(6)]
            wait_until(lambda: len(frames) == 10)
            assert outgoing(frames) == [
                (TEXT, True, 5, "grün".encode()),
                (BINARY, True, 0, b""),
                (BINARY, False, 60_000, large[:64]),
                (CONTINUATION, True, 40_000, large[60_000:60_064]),
                (TEXT, False, 1, b"a"),
                (CONTINUATION, False, 1, b"b"),
                (CONTINUATION, True, 0, b""),
                (PING, True, 4, b"ping"),
                (PONG, True, 4, b"pong"),
                (CLOSE, True, 6, b"\x03\xe9over"),
            ]
            told = [(frame.opcode, frame.fin, frame.rsv, frame.masked, frame.length) for frame in frames]
            assert told == [(frame.opcode, frame.fin, frame.rsv, frame.masked, len(frame.payload)) for frame in got]
            assert all(frame.masked is (role is Role.CLIENT) for frame in frames)

    @pytest.mark.parametrize("begun", [False, True], ids=["from the first piece", "from the last"])
    def test_that_are_read_into_their_message_to_the_end(self, role: Role, begun: bool) -> None:
        frames: list[TracedFrame] = []
        payload = os.urandom(DIRECT)
        with half(role) as (connection, peer):
            if not begun:
                connection.trace(frames.append)
            receiving = run_in_thread(lambda: [connection.recv(SOON), connection.recv(SOON)])
            wire = wire_of(peer, payload)
            peer.send(wire[:-DIRECT])
            wait_until(lambda: connection._receiver.in_frame)
            if begun:
                connection.trace(frames.append)
            peer.send(wire[-DIRECT:])
            peer.frame(TEXT, b"next")
            assert receiving.result() == [payload, "next"]
            wait_until(lambda: len(frames) == 2 - begun)
        expected = [(BINARY, True, len(payload), payload[:64]), (TEXT, True, 4, b"next")]
        assert incoming(frames) == expected[begun:]

    def test_that_are_compressed(self) -> None:
        ours: list[TracedFrame] = []
        theirs: list[TracedFrame] = []
        settings = Settings(compression=PerMessageDeflate())
        with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):
            client.trace(ours.append)
            server.trace(theirs.append)
            client.send("a" * 5000)
            assert server.recv(SOON) == "a" * 5000
            wait_until(lambda: len(ours) == len(theirs) == 1)
        assert ours[0].rsv == theirs[0].rsv == 4
        assert ours[0].length == theirs[0].length < 100
        assert ours[0].payload == theirs[0].payload

    def test_of_both_directions_are_told_in_order(self, server_class: Any) -> None:
        frames: list[TracedFrame] = []

        class Traced(Quiet):
            def on_open(self) -> None:
                self.websocket.trace(frames.append)

        with serving(Traced, server_class=server_class) as running, raw_client(running) as peer:
            for number in range(20):
                peer.frame(TEXT, b"%d" % number)
                assert peer.read_frame().payload == b"%d" % number
            leave(peer)
            assert peer.read_close() == 1000
            wait_until(lambda: len(frames) == 42)
        assert [frame.incoming for frame in frames] == [True, False] * 21
        assert incoming(frames) == outgoing(frames)
        assert [frame.time for frame in frames] == sorted(frame.time for frame in frames)

    def test_that_leave_together(self, server_class: Any) -> None:
        """Answers that are gathered are frames as others are."""
        frames: list[TracedFrame] = []

        class Traced(Quiet):
            def on_open(self) -> None:
                self.websocket.trace(frames.append)

        with serving(Traced, server_class=server_class) as running, raw_client(running) as peer:
            wire = b"".join(b"\x82\x84\0\0\0\0" + bytes([number]) * 4 for number in range(100))
            peer.send(wire)
            assert [peer.read_frame().payload for _ in range(100)] == [bytes([number]) * 4 for number in range(100)]
            wait_until(lambda: len(frames) == 200)
            assert incoming(frames) == outgoing(frames)


class TestSwitching:
    def test_while_it_runs(self, role: Role) -> None:
        frames: list[TracedFrame] = []
        with half(role) as (connection, peer):
            for number in range(6):
                if number == 2:
                    connection.trace(frames.append)
                if number == 4:
                    connection.trace(None)
                peer.frame(TEXT, b"in %d" % number)
                connection.send(f"out {connection.recv(SOON)!s}")
                peer.read_frame()
            wait_until(lambda: len(frames) == 4)
        assert [frame.payload for frame in frames] == [b"in 2", b"out in 2", b"in 3", b"out in 3"]

    def test_costs_nothing_while_it_is_off(self, role: Role) -> None:
        """Parser and sender are then the very same as if there were no traces."""
        with half(role) as (connection, _):
            before = connection._receiver.parser, connection._output.sender
            assert [type(thing) for thing in before] == [FrameParser, Sender]
            for to in (print, logging.getLogger("x"), print):
                connection.trace(to)
                assert connection._receiver.parser is not before[0]
                assert connection._output.sender is not before[1]
            connection.trace(None)
            connection.trace(None)
            assert (connection._receiver.parser, connection._output.sender) == before

    def test_while_a_thread_waits_in_recv(self, role: Role, tls: bool) -> None:
        frames: list[TracedFrame] = []
        with half(role, tls=tls, tcp=True) as (connection, peer):
            receiving = run_in_thread(lambda: [connection.recv(SOON) for _ in range(3)])
            wait_until(lambda: connection._pumping)
            connection.trace(frames.append)
            for payload in (b"one", b"two", b"three"):
                peer.frame(TEXT, payload)
            assert receiving.result() == ["one", "two", "three"]
            wait_until(lambda: len(frames) == 3)

    @pytest.mark.parametrize("size", [100, 3 * DIRECT])
    @pytest.mark.parametrize("on", [True, False])
    def test_in_the_middle_of_a_frame(self, role: Role, size: int, on: bool) -> None:
        """The message is whole, and not told of; the frames behind it are, or are not, as they should be."""
        frames: list[TracedFrame] = []
        with half(role, tcp=True) as (connection, peer):
            if not on:
                connection.trace(frames.append)
            receiving = run_in_thread(lambda: [connection.recv(SOON), connection.recv(SOON)])
            payload = os.urandom(size)
            wire = wire_of(peer, payload)
            peer.send(wire[: size // 2])
            wait_until(lambda: connection.stats.bytes_received == size // 2 and connection._receiver.in_frame)
            connection.trace(frames.append if on else None)
            peer.send(wire[size // 2 :])
            peer.frame(TEXT, b"next")
            assert receiving.result() == [payload, "next"]
            if on:
                wait_until(lambda: frames)
        assert [brief(frame) for frame in frames] == ([(TEXT, True, 4, b"next")] if on else [])

    def test_by_a_client(self) -> None:
        frames: list[TracedFrame] = []
        with serving() as running, WebSocketClient(running.url()) as client:
            client.trace(frames.append)
            client.send("m")
            assert client.recv(SOON) == "m"
            wait_until(lambda: len(frames) == 2)
            assert [(frame.incoming, frame.payload) for frame in frames] == [(False, b"m"), (True, b"m")]

    def test_of_all_connections_of_a_server(self, server_class: Any) -> None:
        frames: list[TracedFrame] = []
        with serving(server_class=server_class) as running:
            with raw_client(running) as one, raw_client(running) as other:
                wait_until(lambda: len(running.server.connections) == 2)
                for connection in running.server.connections:
                    connection.trace(frames.append)
                for peer in (one, other):
                    peer.frame(TEXT, b"m")
                    assert peer.read_frame().payload == b"m"
                wait_until(lambda: len(frames) == 4)

    @pytest.mark.parametrize("to", ["print", 1, object()])
    def test_needs_somebody_to_tell(self, to: Any) -> None:
        with half() as (connection, _):
            with pytest.raises(TypeError, match="callable"):
                connection.trace(to)


class TestTelling:
    def test_may_use_the_connection(self, tls: bool) -> None:
        """No lock is held: whoever is told may send, receive and close."""
        received = threading.Event()
        with half(tls=tls, tcp=True) as (connection, peer):

            def answer(frame: TracedFrame) -> None:
                if frame.incoming:
                    assert received.wait(SOON)  # else the message may come behind the end
                    connection.send("told")
                    connection.close(1000, timeout=0)

            connection.trace(answer)
            peer.frame(TEXT, b"m")
            assert connection.recv(SOON) == "m"
            received.set()
            assert peer.read_frame().payload == b"told"
            assert peer.read_close() == 1000

    def test_may_fail_and_only_the_trace_ends(self, caplog: pytest.LogCaptureFixture) -> None:
        calls = []

        def fail(frame: TracedFrame) -> None:
            calls.append(frame)
            raise LookupError("mine")

        with half() as (connection, peer):
            connection.trace(fail)
            peer.frame(TEXT, b"1")
            assert connection.recv(SOON) == "1"
            wait_until(lambda: "a trace has ended" in caplog.text)
            peer.frame(TEXT, b"2")
            assert connection.recv(SOON) == "2"
            again: list[TracedFrame] = []
            connection.trace(again.append)
            connection.send("3")
            wait_until(lambda: again)
        assert (len(calls), len(again)) == (1, 1)

    def test_of_more_than_it_keeps_up_with_says_how_many_are_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace, "MOST_WAITING", 3)
        frames: list[TracedFrame] = []
        inside, go = threading.Event(), threading.Event()

        def slow(frame: TracedFrame) -> None:
            inside.set()
            assert go.wait(SOON)
            frames.append(frame)

        with half() as (connection, _):
            connection.trace(slow)
            connection.send("first")
            assert inside.wait(SOON)
            for number in range(10):
                connection.send(str(number))
            go.set()
            wait_until(lambda: len(frames) == 4)
            connection.send("last")
            wait_until(lambda: len(frames) == 5)
        assert [(frame.payload, frame.lost) for frame in frames] == [
            (b"first", 0),
            (b"0", 0),
            (b"1", 0),
            (b"2", 0),
            (b"last", 7),
        ]
        assert "(behind 7 that are not shown)" in str(frames[-1])

    def test_one_slow_reader_of_traces_takes_no_room_of_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trace, "MOST_WAITING", 3)
        inside, go = threading.Event(), threading.Event()
        frames: list[TracedFrame] = []

        def slow(frame: TracedFrame) -> None:
            inside.set()
            assert go.wait(SOON)

        with half() as (one, _), half() as (other, _):
            one.trace(slow)
            other.trace(frames.append)
            one.send("m")
            assert inside.wait(SOON)
            for _ in range(5):
                one.send("m")
            for _ in range(3):
                other.send("m")
            go.set()
            wait_until(lambda: len(frames) == 3)

    def test_goes_to_a_logger(self, caplog: pytest.LogCaptureFixture) -> None:
        log = logging.getLogger("test.trace")
        with caplog.at_level(logging.DEBUG, "test.trace"), half() as (connection, peer):
            connection.trace(log)
            peer.frame(TEXT, b"\x1b[2J\n")
            assert connection.recv(SOON) == "\x1b[2J\n"
            wait_until(lambda: caplog.records)
        assert caplog.records[0].levelno == logging.DEBUG
        line = caplog.records[0].getMessage()
        assert line.isprintable()
        assert line.startswith("server ")
        assert line.endswith(r" in  TEXT masked 5 bytes: '\x1b[2J\n'")

    def test_keeps_nobody_alive_who_is_not_told_any_more(self) -> None:
        class Told:
            frames = 0

            def __call__(self, frame: TracedFrame) -> None:
                Told.frames += 1

        to = Told()
        reference = weakref.ref(to)
        with half() as (connection, _):
            connection.trace(to)
            connection.send("m")
            wait_until(lambda: Told.frames)
            connection.trace(None)
            del to
            gc.collect()
            wait_until(lambda: reference() is None)

    def test_keeps_no_connection_alive(self) -> None:
        with half() as (connection, peer):
            connection.trace(lambda frame: None)
            connection.send("m")
            reference = weakref.ref(connection)
        peer.sock.close()
        del connection, peer
        gc.collect()
        wait_until(lambda: reference() is None)

    def test_waits_for_a_thread_to_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(trace, "teller", trace._Teller())
        frames: list[TracedFrame] = []
        with half() as (connection, _):
            connection.trace(frames.append)
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                connection.send("1")
                connection.send("2")
            connection.send("3")
            wait_until(lambda: frames)
        assert [(frame.payload, frame.lost) for frame in frames] == [(b"3", 2)]


def told(opcode: int, payload: bytes, **options: Any) -> TracedFrame:
    values = {"fin": True, "rsv": 0, "masked": False, "length": len(payload), **options}
    return TracedFrame(0.25, True, opcode, values["fin"], values["rsv"], values["masked"], values["length"], payload)


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (told(TEXT, b"hello"), "TEXT 5 bytes: 'hello'"),
        (told(TEXT, "grün\x1b\u202e".encode(), masked=True), r"TEXT masked 9 bytes: 'gr\xfcn\x1b\u202e'"),
        (told(TEXT, "ü".encode() * 31 + b"x\xc3", length=99), "TEXT 99 bytes: '" + r"\xfc" * 31 + "x'..."),
        (told(TEXT, b"\xff"), r"TEXT 1 bytes: '\ufffd'"),
        (told(TEXT, b"", fin=False), "TEXT more 0 bytes"),
        (told(TEXT, b"\x00\x01", rsv=4), "TEXT RSV1 2 bytes: 00 01"),
        (told(BINARY, b"\x00\xff", rsv=3), "BINARY RSV2 RSV3 2 bytes: 00 ff"),
        (told(CLOSE, b"\x03\xe8bye\n"), r"CLOSE 6 bytes: 1000 'bye\n'"),
        (told(CLOSE, b""), "CLOSE 0 bytes"),
    ],
)
def test_lines(frame: TracedFrame, line: str) -> None:
    assert str(frame)[16:] == f"in  {line}"
    assert str(frame)[8:16] == ".250000 "


def test_a_child_process_has_a_thread_of_its_own() -> None:
    frames: list[TracedFrame] = []
    with half() as (connection, _):
        connection.trace(frames.append)
        connection.send("m")
        wait_until(lambda: frames)
        reader, writer = os.pipe()
        if not (child := os.fork()):
            try:
                trace.teller.tell(trace._Trace(lambda frame: os.write(writer, b"told")), frames[0])
                wait_until(lambda: False, SOON, fail=False)
            finally:
                os._exit(0)
        try:
            assert os.read(reader, 10) == b"told"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)

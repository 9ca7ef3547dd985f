"""Output: what was begun or promised leaves, whole, in order, and bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from websocketserver.deadline import Deadline
from websocketserver.output import CLOSE, FIN, GATHERED, PING, PONG, Broken, Output, remaining
from websocketserver.protocol.frames import serialize
from websocketserver.protocol.sender import Buffer, Sender

NEVER = Deadline(None)


class Stream:
    """A transport that takes as many bytes as there is ``room`` for; ``on_send`` is called before each send."""

    retractable = True

    def __init__(self) -> None:
        self.room = 1 << 30
        self.sent = b""
        self.more: list[bool] = []  # of each send
        self.ended = False
        self.error: OSError | None = None
        self.on_send: Callable[[], None] = lambda: None

    def send(self, buffers: Sequence[Buffer], more: bool = False) -> int:
        self.on_send()
        self.more.append(more)
        if self.error:
            raise self.error
        taken = b"".join(buffers)[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def shutdown_write(self) -> None:
        self.ended = True


class Writing:
    """An Output on a Stream; ``rooms`` is what each wait for the socket brings, after the last it times out."""

    def __init__(self, *rooms: int, stall: float | None = None) -> None:
        self.stream = Stream()
        self.rooms = list(rooms)
        self.waited: list[float | None] = []
        self.output = Output(
            self.stream,  # type: ignore[arg-type]
            Sender(None),
            state_lock=threading.Lock(),
            await_writable=self._await_writable,
            stall=stall,
        )

    def _await_writable(self, deadline: Deadline) -> bool:
        self.waited.append(deadline.left())
        if not self.rooms:
            return False
        self.stream.room += self.rooms.pop(0)
        return True


@pytest.fixture
def writing() -> Writing:
    return Writing()


def test_nothing_waits_at_first(writing: Writing) -> None:
    assert not writing.output.waits
    writing.output.flush()
    assert writing.stream.sent == b""


def test_flush_sends_what_is_queued_in_order(writing: Writing) -> None:
    writing.output.queue(PING, b"1")
    writing.output.queue(PONG, b"2")
    writing.output.queue(CLOSE, b"\x03\xe8")
    writing.output.queue(FIN)
    assert writing.output.waits
    writing.output.flush()
    assert writing.stream.sent == serialize(PING, b"1") + serialize(PONG, b"2") + serialize(CLOSE, b"\x03\xe8")
    assert writing.stream.ended
    assert not writing.output.waits
    assert writing.output.bytes_sent == len(writing.stream.sent)


def test_a_close_leaves_together_with_the_end_of_the_stream(writing: Writing) -> None:
    writing.output.queue(PING, b"1")
    writing.output.queue(CLOSE, b"\x03\xe8")
    writing.output.queue(FIN)
    writing.output.flush()
    assert writing.stream.more == [False, True]


def test_a_close_leaves_at_once_where_the_stream_goes_on(writing: Writing) -> None:
    writing.output.queue(CLOSE, b"\x03\xe8")
    writing.output.flush()
    assert writing.stream.more == [False]


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_only_the_newest_of_a_kind_waits(writing: Writing, opcode: int) -> None:
    for number in range(10_000):
        writing.output.queue(opcode, b"%d" % number)
        assert len(writing.output.queued) == 1
    writing.output.flush()
    assert writing.stream.sent == serialize(opcode, b"9999")  # 5.5.3


def test_nothing_follows_a_close(writing: Writing) -> None:
    writing.output.queue(CLOSE, b"\x03\xe8")
    writing.output.queue(PONG, b"late")
    writing.output.queue(FIN)
    writing.output.queue(PING, b"later")
    writing.output.flush()
    writing.output.queue(PONG, b"after")
    writing.output.queue(CLOSE, b"\x03\xe9")
    writing.output.flush()
    assert writing.stream.sent == serialize(CLOSE, b"\x03\xe8")  # 5.5.1: one Close, and nothing after it


def test_flush_leaves_it_to_the_holder_of_the_lock(writing: Writing) -> None:
    with writing.output.lock:
        writing.output.queue(PONG, b"x")
        writing.output.flush()
        assert writing.stream.sent == b""
    assert writing.output.waits
    writing.output.flush()
    assert writing.stream.sent == serialize(PONG, b"x")


def test_flush_looks_again_after_releasing_the_lock(writing: Writing) -> None:
    """What another queued while the lock was held does not stay behind."""

    class Lock:
        lock = threading.Lock()

        def acquire(self, blocking: bool = True) -> bool:
            return self.lock.acquire(blocking)

        def release(self) -> None:
            if not writing.output.waits and writing.stream.sent.count(b"first") == 1 and b"second" not in queued:
                queued.append(b"second")
                writing.output.queue(PONG, b"second")  # too late for the holder's loop, and the lock is taken
            self.lock.release()

    queued: list[bytes] = []
    writing.output.lock = Lock()  # type: ignore[assignment]
    writing.output.queue(PONG, b"first")
    writing.output.flush()
    assert writing.stream.sent == serialize(PONG, b"first") + serialize(PONG, b"second")


def test_flush_does_not_wait_for_room(writing: Writing) -> None:
    writing.stream.room = 3
    writing.output.queue(PONG, b"payload")
    writing.output.flush()
    assert writing.stream.sent == serialize(PONG, b"payload")[:3]
    assert writing.waited == []
    assert writing.output.waits


def test_frame_that_was_begun_goes_on_before_anything_else(writing: Writing) -> None:
    writing.stream.room = 3
    writing.output.queue(PONG, b"old")
    writing.output.flush()
    writing.output.queue(PONG, b"new")
    writing.stream.room = 100
    with writing.output.lock:
        assert writing.output.write_pending(NEVER)
    assert writing.stream.sent == serialize(PONG, b"old") + serialize(PONG, b"new")


def test_write_pending_waits_for_room() -> None:
    writing = Writing(2, 2, 100)
    writing.stream.room = 0
    writing.output.queue(PONG, b"payload")
    with writing.output.lock:
        assert writing.output.write_pending(NEVER)
    assert writing.stream.sent == serialize(PONG, b"payload")


def test_write_pending_tells_when_the_deadline_came() -> None:
    writing = Writing(2)
    writing.stream.room = 0
    writing.output.queue(PONG, b"payload")
    with writing.output.lock:
        assert not writing.output.write_pending(NEVER)
    assert writing.output.waits


class TestWrite:
    def write(self, writing: Writing, *buffers: Buffer, deadline: Deadline = NEVER) -> bool:
        with writing.output.lock:
            return writing.output.write(list(buffers), deadline)

    def test_whole_message_at_once(self, writing: Writing) -> None:
        assert self.write(writing, b"message")
        assert writing.stream.sent == b"message"
        assert writing.waited == []

    @pytest.mark.parametrize("split", range(12))
    def test_message_in_pieces_is_whole(self, split: int) -> None:
        writing = Writing(1, 2, 3, 100)
        writing.stream.room = split
        assert self.write(writing, b"head", memoryview(b"payload"), b"!")
        assert writing.stream.sent == b"headpayload!"

    def test_nothing_taken_by_the_deadline(self, writing: Writing) -> None:
        writing.stream.room = 0
        assert self.write(writing, b"message") is False
        assert writing.stream.sent == b""

    def test_deadline_in_the_middle(self, writing: Writing) -> None:
        writing.stream.room = 3
        with pytest.raises(TimeoutError):
            self.write(writing, b"message")

    def test_deadline_after_an_offer_that_cannot_be_taken_back(self, writing: Writing) -> None:
        """OpenSSL has made a record of what was offered, and waits for the same bytes."""
        writing.stream.room = 0
        writing.stream.retractable = False
        with pytest.raises(TimeoutError):
            self.write(writing, b"message")

    def test_every_progress_restarts_the_stall(self) -> None:
        writing = Writing(1, 1, 100, stall=60)
        writing.stream.room = 0
        self.write(writing, b"message")
        assert all(left is not None and 59 < left <= 60 for left in writing.waited)
        assert len(writing.waited) == 3

    def test_total_deadline_wins_over_the_stall(self) -> None:
        writing = Writing(1, 1, 100, stall=60)
        writing.stream.room = 0
        self.write(writing, b"message", deadline=Deadline(5))
        assert all(left is not None and left <= 5 for left in writing.waited)


class TestDrained:
    """What a socket takes proves nothing; what a full one takes proves that the peer reads."""

    def test_room_that_was_there_counts_for_nothing(self, writing: Writing) -> None:
        with writing.output.lock:
            writing.output.write([b"message"], NEVER)
        writing.output.queue(PING, b"x")
        writing.output.flush()
        assert writing.output.drained == 0

    def test_message_that_had_to_wait_for_room(self) -> None:
        writing = Writing(2, 100)
        writing.stream.room = 1
        with writing.output.lock:
            writing.output.write([b"message"], NEVER)
        assert writing.output.drained == len(b"essage")

    def test_control_frame_that_had_to_wait_for_room(self, writing: Writing) -> None:
        writing.stream.room = 1
        writing.output.queue(PING, b"x")
        writing.output.flush()
        writing.output.flush()
        assert writing.output.drained == 0
        writing.stream.room = 100
        writing.output.flush()
        assert writing.output.drained == len(serialize(PING, b"x")) - 1


class TestBroken:
    def break_it(self, writing: Writing) -> None:
        writing.stream.error = BrokenPipeError(32, "Broken pipe")
        with writing.output.lock, pytest.raises(Broken):
            writing.output.write([b"message"], NEVER)

    def test_writer_learns_why(self, writing: Writing) -> None:
        self.break_it(writing)
        assert writing.output.broken == "Broken pipe"

    def test_kernels_time_out_is_no_deadline_of_ours(self, writing: Writing) -> None:
        """ETIMEDOUT of TCP is a TimeoutError too."""
        writing.stream.error = TimeoutError(110, "Connection timed out")
        with writing.output.lock, pytest.raises(Broken):
            writing.output.write([b"message"], NEVER)
        assert writing.output.broken == "Connection timed out"

    def test_what_waited_is_forgotten(self, writing: Writing) -> None:
        writing.stream.room = 1
        writing.output.queue(PONG, b"begun")
        writing.output.flush()
        writing.output.queue(PING, b"x")
        writing.stream.error = BrokenPipeError(32, "Broken pipe")
        writing.output.flush()
        assert not writing.output.waits

    def test_what_is_queued_later_is_forgotten_too(self, writing: Writing) -> None:
        self.break_it(writing)
        writing.output.queue(PING, b"x")
        writing.output.flush()
        assert not writing.output.waits  # or the pump would wait for room, find it, and so on for ever

    def test_stays_broken(self, writing: Writing) -> None:
        self.break_it(writing)
        writing.stream.error = None
        with writing.output.lock, pytest.raises(Broken):
            writing.output.write([b"message"], NEVER)
        assert writing.stream.sent == b""


class TestBegin:
    def test_control_frame_leaves_beside_what_is_queued(self, writing: Writing) -> None:
        """An unsolicited Pong takes nothing away from the answer to a Ping."""
        with writing.output.lock:
            writing.output.begin(PONG, b"unsolicited")
            writing.output.queue(PONG, b"answer")
            assert writing.output.write_pending(NEVER)
        assert writing.stream.sent == serialize(PONG, b"unsolicited") + serialize(PONG, b"answer")

    def test_control_frame_leaves_behind_what_is_gathered(self, writing: Writing) -> None:
        with writing.output.lock:
            writing.output.gather([b"message"])
            writing.output.begin(PING, b"p")
            assert writing.output.write_pending(NEVER)
        assert writing.stream.sent == b"message" + serialize(PING, b"p")


class TestGather:
    def gather(self, writing: Writing, *buffers: Buffer) -> bool:
        with writing.output.lock:
            return writing.output.gather(list(buffers))

    def test_gathered_messages_wait_for_their_own_sake(self, writing: Writing) -> None:
        assert not self.gather(writing, b"one")
        assert not writing.output.waits
        writing.output.flush()
        assert writing.stream.sent == b""
        writing.output.flush(gathered=True)
        assert writing.stream.sent == b"one"

    def test_gathered_messages_leave_in_one_write(self, writing: Writing) -> None:
        sends: list[None] = []
        writing.stream.on_send = lambda: sends.append(None)
        for number in range(10):
            self.gather(writing, b"%d" % number)
        writing.output.flush(gathered=True)
        assert writing.stream.sent == b"0123456789"
        assert len(sends) == 1

    def test_gathered_messages_go_before_a_control_frame(self, writing: Writing) -> None:
        self.gather(writing, b"one")
        writing.output.queue(CLOSE, b"\x03\xe8")
        writing.output.flush()
        assert writing.stream.sent == b"one" + serialize(CLOSE, b"\x03\xe8")

    def test_gathering_is_bounded(self, writing: Writing) -> None:
        assert not self.gather(writing, bytes(GATHERED - 1))
        assert self.gather(writing, b"x")

    def test_gathered_messages_go_behind_what_was_begun(self, writing: Writing) -> None:
        writing.stream.room = 3
        writing.output.queue(PONG, b"begun")
        writing.output.flush()
        self.gather(writing, b"one")
        writing.stream.room = 100
        writing.output.flush(gathered=True)
        assert writing.stream.sent == serialize(PONG, b"begun") + b"one"


@pytest.mark.parametrize("taken", range(10))
def test_remaining_is_what_was_not_taken(taken: int) -> None:
    buffers: list[Buffer] = [b"abc", bytearray(b"de"), memoryview(b"fghi")]
    assert b"".join(remaining(buffers, taken)) == b"abcdefghi"[taken:]


def test_remaining_copies_nothing() -> None:
    large = bytes(1 << 20)
    (rest,) = remaining([large], 1)
    assert isinstance(rest, memoryview)
    assert rest.obj is large

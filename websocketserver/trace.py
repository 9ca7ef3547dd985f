"""Trace: every frame of one connection as it comes and goes, told to whoever wants to look while it runs.

Owns     the two that stand in for a connection's parser and sender while it is traced: a connection that
         is not goes through no line of this file.
Never    calls whom it tells in a thread that reads or sends: one thread of its own does, for all traces.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

from .fragments import FragmentedChannel
from .protocol.endpoint import Role
from .protocol.frames import Frame, FrameParser, Opcode
from .protocol.masking import mask
from .protocol.sender import Buffer, Sender

__all__ = ["TracedChannel", "TracedFrame"]

PREVIEW = 64  # bytes of a payload that are shown
MOST_WAITING = 10_000  # frames that wait for who is told of them; more are only counted
MOST_ENDING = 0.5  # seconds that the end of the interpreter waits for the last frames to be told
THREAD_NAME = "websocketserver-trace"

logger = logging.getLogger("websocketserver")

CLOSE, TEXT = int(Opcode.CLOSE), int(Opcode.TEXT)
T = TypeVar("T")


class TracedFrame(NamedTuple):
    """One frame as it was on the wire, told by ``WebSocketConnection.trace``; ``str()`` makes a line of it.

    ``time`` is when it was parsed, or made to be sent (``time.time()``), ``incoming`` whether it came from the peer,
    ``opcode`` an int, ``rsv`` the reserved bits (0 to 7; 4 for a compressed message), ``length`` the payload's
    bytes, ``payload`` the first 64 of them, unmasked but not decompressed; ``lost`` how many frames before this
    one were not told, because whoever is told was too slow.
    """

    time: float
    incoming: bool
    opcode: int
    fin: bool
    rsv: int
    masked: bool
    length: int
    payload: bytes
    lost: int = 0

    @property
    def preview(self) -> str:
        """What can be shown of the payload: text and reasons escaped, anything else in hexadecimal."""
        if self.opcode == CLOSE and self.length:
            return f"{int.from_bytes(self.payload[:2], 'big')} {self.payload[2:].decode(errors='replace')!a}"
        more = self.length > len(self.payload)
        if self.opcode == TEXT and not self.rsv:
            text = self.payload.decode(errors="replace")
            shown = ascii(text.rstrip("\ufffd") if more else text)  # the cut may be within a character
        else:
            shown = self.payload.hex(" ")
        return shown + ("..." if more else "")

    def __str__(self) -> str:
        flags = [name for name, bit in (("RSV1", 4), ("RSV2", 2), ("RSV3", 1)) if self.rsv & bit]
        flags += [] if self.fin else ["more"]
        flags += ["masked"] if self.masked else []
        moment = time.strftime("%H:%M:%S", time.localtime(self.time)) + f"{self.time % 1:.6f}"[1:]
        words = [moment, "in " if self.incoming else "out", Opcode(self.opcode).name, *flags, f"{self.length} bytes"]
        lost = f" (behind {self.lost} that are not shown)" if self.lost else ""
        return " ".join(words) + (f": {self.preview}" if self.length else "") + lost


Told = Callable[[TracedFrame], object]


class TracedChannel(FragmentedChannel):
    """A channel whose frames can be looked at."""

    __slots__ = ()

    def trace(self, to: Told | logging.Logger | None) -> None:
        """Tell of every frame that comes or goes from now on, until the connection ends or None is given.

        ``to`` is called with each as a TracedFrame (``print`` will do), in order, in a thread of its own. It may take
        its time, but more than 10,000 frames are not kept for it. A logger gets lines at level DEBUG. Frames hold
        what is private: tell nobody who should not read it. A new ``to`` takes the place of the one before.
        """
        if isinstance(to, logging.Logger):
            to = _Logged(to, f"{self.role.value} {getattr(self, 'remote_address', '')}")
        if to is not None and not callable(to):
            raise TypeError(f"a trace is told to a callable, a Logger or None, not to {to!r}")
        receiver, output = self._receiver, self._output
        with self._lock:
            parser, sender = _plain(receiver.parser), _plain(output.sender)
            if to is not None:
                trace = _Trace(to)
                incoming = _TracedParser(parser, trace, masked=self.role is Role.SERVER)
                parser, sender = cast(FrameParser, incoming), cast(Sender, _TracedSender(sender, trace))
            receiver.parser, output.sender = parser, sender


def _plain(traced: T) -> T:
    """Return what is behind a stand-in; anything else as it is."""
    return traced._traced if isinstance(traced, _StandIn) else traced


class _Logged:
    """Writes frames to a logger."""

    def __init__(self, to: logging.Logger, who: str) -> None:
        self._to = to
        self._who = who

    def __call__(self, frame: TracedFrame) -> None:
        self._to.debug("%s: %s", self._who, frame)


class _Trace:
    """Whom one trace tells, and how many frames it could not tell of: guarded by the teller's lock."""

    def __init__(self, to: Told) -> None:
        self.to = to
        self.waiting = 0
        self.lost = 0
        self.over = False


class _StandIn:
    """Does what the one that it stands in for does, unless a subclass says otherwise."""

    def __init__(self, traced: Any, trace: _Trace) -> None:
        self._traced = traced
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._traced, name)


class _TracedParser(_StandIn):
    """Stands in for a FrameParser. The pump's, as that is."""

    def __init__(self, parser: FrameParser, trace: _Trace, *, masked: bool) -> None:
        super().__init__(parser, trace)
        self._masked = masked
        self._frame: Frame | None = None  # the one under way, as its first piece told it, if that was seen
        self._payload = b""

    def next_message(self, *limits: Any) -> None:
        """Leave all to next_frame, which may always be asked instead."""

    def next_messages(self, *limits: Any) -> list[Any]:
        """Leave all to next_frame."""
        return []

    def next_frame(self) -> Frame | None:
        begins = not self._traced.remaining
        frame: Frame | None = self._traced.next_frame()
        if frame is not None:
            if begins:
                self._frame = frame
            self._add(frame.payload, frame.complete)
        return frame

    def unmask(self, view: memoryview) -> None:
        self._traced.unmask(view)
        self._add(view, not self._traced.remaining)

    def _add(self, payload: Buffer, complete: bool) -> None:
        if self._frame is None:  # it began before the trace
            return
        if len(self._payload) < PREVIEW:
            self._payload += payload[: PREVIEW - len(self._payload)]
        if complete:
            frame, payload = self._frame, self._payload
            self._frame, self._payload = None, b""
            values = frame.opcode, frame.fin, frame.rsv, self._masked, frame.length, payload
            teller.tell(self._trace, TracedFrame(time.time(), True, *values))


class _TracedSender(_StandIn):
    """Stands in for a Sender. The write lock's holder's, as that is."""

    sharing = None  # what is broadcast is to be seen too

    def message(self, *args: Any, **options: Any) -> list[Buffer]:
        return self._tell(self._traced.message(*args, **options))

    def piece(self, *args: Any, **options: Any) -> list[Buffer]:
        return self._tell(self._traced.piece(*args, **options))

    def control(self, *args: Any, **options: Any) -> bytes:
        frame: bytes = self._traced.control(*args, **options)
        self._tell([frame])
        return frame

    def _tell(self, buffers: list[Buffer]) -> list[Buffer]:
        for frame in _frames(buffers):
            teller.tell(self._trace, frame)
        return buffers


def _frames(buffers: list[Buffer]) -> Iterator[TracedFrame]:
    """Read the frames that buffers hold, whole ones and ours (RFC 6455, section 5.2)."""
    reader = _Reader(buffers)
    now = time.time()
    while head := reader.take(2):
        first, second = head
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(reader.take(2 if length == 126 else 8), "big")
        key = reader.take(4) if second & 0x80 else b""
        payload = reader.take(min(length, PREVIEW))
        reader.skip(length - len(payload))
        payload = mask(payload, key) if key else payload
        yield TracedFrame(now, False, first & 0x0F, first >= 0x80, first >> 4 & 7, bool(key), length, payload)


class _Reader:
    """Reads on and on through buffers as if they were one."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers = deque(memoryview(buffer).cast("B") for buffer in buffers if len(buffer))

    def take(self, size: int) -> bytes:
        """Return the next bytes, as many as there are up to the size."""
        taken = b""
        while size and self._buffers:
            some = bytes(self._buffers[0][:size])
            self.skip(len(some))
            size -= len(some)
            taken += some
        return taken

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        while size and self._buffers:
            buffer = self._buffers.popleft()
            if size < len(buffer):
                self._buffers.appendleft(buffer[size:])
            size -= min(size, len(buffer))


class _Teller:
    """The thread that tells, started with the first frame. ``tell`` never blocks, and may be called from any thread."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()  # guards all below and every _Trace; a signal handler may come back to it
        self._frames: deque[tuple[_Trace, TracedFrame]] = deque()
        self._thread: threading.Thread | None = None

    def tell(self, trace: _Trace, frame: TracedFrame) -> None:
        """Have a trace told of a frame, in a moment."""
        with self._changed:
            if trace.over:
                return
            if trace.waiting >= MOST_WAITING or not (self._thread or self._start_locked()):
                trace.lost += 1
                return
            trace.waiting += 1
            self._frames.append((trace, frame._replace(lost=trace.lost) if trace.lost else frame))
            trace.lost = 0
            self._changed.notify()

    def end(self) -> None:
        """At the end of the interpreter: end the thread once it has told all; see keepalive.py."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(MOST_ENDING)

    def _start_locked(self) -> bool:
        try:
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()
        except (RuntimeError, MemoryError):  # none to be had now: the next frame tries again
            self._thread = None
        return self._thread is not None

    def _run(self) -> None:
        thread = threading.current_thread()
        while True:
            with self._changed:
                while not self._frames:
                    if self._thread is not thread:
                        return
                    self._changed.wait()
                trace, frame = self._frames.popleft()
                trace.waiting -= 1
                over = trace.over
            try:
                if not over:
                    trace.to(frame)
            except Exception:
                logger.exception("a trace has ended: who was told of the frames failed")
                with self._changed:
                    trace.over = True
            del trace, frame  # or what they hold would live until the next one


teller = _Teller()
atexit.register(teller.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=teller._reset)  # the child has not got the thread

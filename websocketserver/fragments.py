"""Fragments: one message received in pieces as they arrive, or sent in pieces as they are made (RFC 6455, section 5.4).

Owns     the two turns: whose message in pieces is being received, and whose is being sent. Whole
         messages wait for its end in either direction; control frames pass.
Never    runs the code that makes pieces, or takes them, with a lock held.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from threading import get_ident
from types import TracebackType
from typing import Any

from .attendance import AttendedChannel
from .deadline import Deadline
from .exceptions import ConnectionClosed
from .protocol.closecodes import CloseCode
from .protocol.events import AppEvent, Fragment, Message
from .protocol.sender import Buffer
from .protocol.utf8 import decode, encode
from .pump import NEVER, Turn, cost

__all__ = ["FragmentStream", "FragmentedChannel", "as_payload"]

LOOK_AGAIN = 1.0  # seconds after which who waits for a turn finds out that its holder was garbage


class FragmentStream:
    """The pieces of one message as they arrive: what ``WebSocketConnection.recv_fragments`` returns.

    Iterate over it: str for text, no character ever split, bytes for binary, and never an empty piece.
    From the first piece to the last, ``recv`` in other threads waits. A TimeoutError loses nothing: go on iterating.
    Raises ConnectionClosed where the connection ends before the message.

    To give up half way, call ``close``, leave a ``with`` block, or drop the object; ``recv`` in the thread that took
    the last piece does so too, and whoever goes on iterating then gets a RuntimeError. The rest of the message
    is checked and forgotten, and the next ``recv`` returns the next message.

    For one thread at a time.
    """

    def __init__(self, connection: FragmentedChannel, timeout: float | None) -> None:
        self.text: bool | None = None  #: whether the message is text; None before the first piece
        self._connection = connection
        self._timeout = timeout
        self._turn = Turn()
        self._ended = False

    def __iter__(self) -> Iterator[str | bytes]:
        return self

    def __next__(self) -> str | bytes:
        if self._ended:
            raise StopIteration
        turn = self._turn
        turn.thread = get_ident()
        try:
            event = self._connection._next_piece(turn, self._timeout)
        except BaseException as error:
            if not turn.begun or isinstance(error, ConnectionClosed):
                self._connection._end_turn(turn)
            raise
        self.text = event.text
        turn.begun = isinstance(event, Fragment) and not event.fin
        if not turn.begun:
            self._ended = True
            self._connection._end_turn(turn)
        piece = event.data
        if event.text and isinstance(piece, bytes):  # read while another thread asked for text as bytes
            piece = decode(piece)
        if not piece:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Take no more pieces: what is left of the message is passed over. Never blocks."""
        self._ended = True
        self._connection._end_turn(self._turn)

    def __enter__(self) -> FragmentStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._connection._forget_turn(self._turn)


class FragmentedChannel(AttendedChannel):
    """A channel whose messages may come and go in pieces."""

    __slots__ = ("_speaker",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._speaker: Turn | None = None  # who sends in pieces; set with the write lock, cleared with the state lock

    # Receiving

    def recv_fragments(self, timeout: float | None = None) -> FragmentStream:
        """Return an iterator over the pieces of the next message as they arrive, also of one huge frame.

        What has already been assembled of it is the first piece. ``timeout`` (seconds, None: for ever) is for each
        piece, and a TimeoutError loses nothing. Pieces that other threads read meanwhile are kept, up to
        ``max_queue_size`` bytes. ``max_message_size`` and ``max_fragments`` hold for this message too: set them
        to None for one without end. See FragmentStream for how to give up half way.
        """
        return FragmentStream(self, timeout)

    def _next_piece(self, turn: Turn, timeout: float | None) -> Message | Fragment:
        """Return the next piece of the turn's message: all of it, if it came whole."""
        deadline = Deadline(timeout) if timeout is not None else NEVER
        while True:
            event = self._next(deadline, turn=turn)
            if isinstance(event, (Message, Fragment)):
                return event

    def _await_turn_locked(self, turn: Turn | None, deadline: Deadline) -> None:
        while (holder := self._turn) is not turn:
            if turn is not None and turn.given_up:
                raise RuntimeError("this message was given up half way, by recv in the same thread")
            if holder is None:
                self._turn = turn
            elif holder.given_up or holder.thread == get_ident():  # nobody can go on with it, or will
                holder.given_up = True
                self._end_turn_locked(holder)
            elif self._input_over and not any(isinstance(event, Message) for event in self._inbox):
                raise self._closed_error()
            elif deadline.passed():
                raise TimeoutError("another thread is still receiving a message in pieces")
            else:
                self._wait_locked(deadline.sooner(LOOK_AGAIN))

    def _end_turn(self, turn: Turn) -> None:
        """The message in pieces is over, or given up: the next may have its turn."""
        with self._lock:
            self._end_turn_locked(turn)
        announce = self._announce
        if announce is not None and self.is_ready():
            announce()

    def _end_turn_locked(self, turn: Turn) -> None:
        if self._turn is not turn:
            return
        self._turn = None
        if turn.begun:
            self._skip_locked()
        if self._waiting:
            self._notify_locked()

    def _forget_turn(self, turn: Turn) -> None:
        """The same from a finalizer, which may have interrupted any thread anywhere: it must not wait for a lock."""
        if self._turn is turn:
            turn.given_up = True
            if self._lock.acquire(False):
                try:
                    self._end_turn_locked(turn)
                finally:
                    self._lock.release()

    def _skip_locked(self) -> None:
        """Drop the pieces that are here, and those that are still to come of the same message."""
        self._skipping = True
        kept: deque[AppEvent] = deque()
        for event in self._inbox:
            if self._skipping and isinstance(event, Fragment):
                self._skipping = not event.fin
                self._inbox_size -= cost(event)
            else:
                kept.append(event)
        self._inbox = kept

    # Sending

    @abstractmethod
    def _begin_sending(self, deadline: Deadline) -> None:
        """Take the write lock and send what is pending before us; on any failure leave the lock."""

    @abstractmethod
    def _write_or_gather(self, buffers: list[Buffer], deadline: Deadline) -> bool:
        """Send frames behind what was gathered; False if nothing has left by the deadline."""

    @abstractmethod
    def _not_sent(self, encoded: bool) -> None:
        """Raise TimeoutError for a message of which nothing has left; abort where that cannot be undone."""

    def send_fragments(
        self,
        pieces: Iterable[str | bytes | bytearray | memoryview],
        *,
        text: bool | None = None,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Send a message in pieces, each as a frame that leaves before the next piece is asked for.

        The pieces are all str (a text message) or all bytes-like (a binary one, or with ``text=True`` text, which
        must be UTF-8 and is not checked); empty ones send nothing, and none at all an empty message. ``compress``
        is as for ``send``. The iterable may take its time: no lock is held meanwhile. Messages of other threads
        wait for the end of this one, within their own time-outs; Pings, Pongs and the Close pass between the pieces.

        ``timeout`` (seconds) is for the whole, and noticed when there is a piece; ``send_timeout`` holds as for
        ``send``. Once a piece has left, half a message cannot be taken back: an exception of the iterable, a piece of
        another kind (TypeError) and a TimeoutError then close the connection with 1011, or cut it where the peer does
        not read, and are raised. Before, they leave it usable. Raises ConnectionClosed, and RuntimeError where
        the iterable itself sends a message.
        """
        deadline = Deadline(timeout) if timeout is not None else NEVER
        turn = Turn()
        turn.thread = get_ident()
        is_text = bool(text)
        self._stop_gathering(deadline)
        try:
            for data, is_text in _payloads(pieces, text):
                if data:
                    self._send_piece(turn, data, False, is_text, compress, deadline)
            self._send_piece(turn, b"", True, is_text, compress, deadline)
        except BaseException:
            if turn.begun and not self._output.broken:  # else nobody would hear it, and what has come may be read
                self.start_close(CloseCode.INTERNAL_ERROR, "the message could not be completed")
            raise
        finally:
            self._stop_speaking(turn)

    def _send_piece(
        self, turn: Turn, data: Buffer, fin: bool, text: bool, compress: bool | None, deadline: Deadline
    ) -> None:
        try:
            if deadline.passed():
                self._not_sent(False)
            self._begin_sending(deadline)
            if not turn.begun:
                if self._speaker is not None:
                    self._await_speaker(deadline)
                self._speaker = turn
            try:
                self._write_piece(turn, data, fin, text, compress, deadline)
            finally:
                self._unlock_output()
        except TimeoutError:
            if not turn.begun:
                raise
            raise TimeoutError("the message could not be sent in time; the connection is closed") from None

    def _write_piece(
        self, turn: Turn, data: Buffer, fin: bool, text: bool, compress: bool | None, deadline: Deadline
    ) -> None:
        """Send one piece, holding the write lock."""
        sender = self._output.sender
        try:
            if not turn.begun:
                sender.begin(text=text, compress=compress)
            buffers = sender.piece(data, fin)
            whole = not buffers or self._write_or_gather(buffers, deadline)
        except BaseException as error:
            raise self._sending_failed(error) from None
        if not whole:
            self._not_sent(turn.begun or sender.encoded)
        turn.begun = True
        self._messages_sent += fin

    def _await_speaker(self, deadline: Deadline) -> None:
        """With the write lock, wait until nobody sends in pieces: without it, then take it again."""
        while (speaker := self._speaker) is not None:
            self._unlock_output()
            if speaker.thread == get_ident():
                raise RuntimeError("this thread is sending a message in pieces: no other can be sent within it")
            with self._lock:
                while self._speaker is speaker and self._sent is None and not self._input_over:
                    if not self._wait_locked(deadline):
                        raise TimeoutError(
                            "another thread is still sending a message in pieces; "
                            "nothing was sent, and the connection is usable"
                        )
            self._begin_sending(deadline)

    def _stop_speaking(self, turn: Turn) -> None:
        with self._lock:
            if self._speaker is turn:
                self._speaker = None
                if self._waiting:
                    self._notify_locked()


def _payloads(pieces: Iterable[object], text: bool | None) -> Iterator[tuple[Buffer, bool]]:
    """Yield pieces as bytes, and whether they are text; they must be of one kind."""
    if isinstance(pieces, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"pieces must be an iterable of them, not one {type(pieces).__name__}: send() takes that")
    first: object = None
    for piece in pieces:
        first = piece if first is None else first
        if isinstance(piece, str) is not isinstance(first, str):
            names = f"{type(first).__name__} and {type(piece).__name__}"
            raise TypeError(f"the pieces of a message must all be str or all be bytes-like, not {names}")
        yield as_payload(piece, text)


def as_payload(message: object, text: bool | None) -> tuple[Buffer, bool]:
    """Return a message, or a piece of one, as bytes, and whether it is text."""
    if isinstance(message, str):
        return encode(message), text is None or text
    if isinstance(message, (bytes, bytearray)):
        return message, bool(text)
    if isinstance(message, memoryview):
        return message.cast("B") if message.c_contiguous else bytes(message), bool(text)
    raise TypeError(f"a message must be str, bytes, bytearray or memoryview, not {type(message).__name__}")

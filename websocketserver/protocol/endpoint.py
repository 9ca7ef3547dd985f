"""Endpoint: one side of a connection as a state machine (RFC 6455, sections 5.4, 5.5 and 7).

A receiving half turns bytes into events, a sending half (sender.py) turns messages into bytes. The two share
nothing, so each may be used by one thread while another uses the other; neither is thread-safe
in itself. No socket, clock or randomness: the masking keys of a client come in as an argument.
"""

from __future__ import annotations

import codecs as text_codecs
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from ..exceptions import Close, ProtocolError
from .closecodes import CloseCode, parse_close
from .events import Closed, Event, Fragment, Message, Ping, Pong
from .extensions import Codec, Decoder
from .frames import Frame, FrameParser, Opcode
from .payload import PayloadBuffer
from .sender import Buffer, Sender
from .utf8 import Utf8Validator

__all__ = ["Endpoint", "Receiver", "Role"]

DIRECT = 16 * 1024  # a payload with at least this much to come is read straight into its message

TEXT = int(Opcode.TEXT)  # plain ints: an enum's members are slow to compare
CLOSE, PING, PONG = int(Opcode.CLOSE), int(Opcode.PING), int(Opcode.PONG)
CharacterDecoder = text_codecs.getincrementaldecoder("utf-8")


class Role(Enum):
    """Which side of the connection an endpoint is: a client masks, a server does not (section 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class Receiver:
    """The receiving half: feed bytes, ask for events, None means that it takes more bytes.

    ``max_message_size`` (bytes, after decoding), ``max_frame_size`` (bytes on the wire) and
    ``max_fragments`` (frames of one message) are limits, None for no limit. With ``fragments``
    messages come as Fragment events, in pieces as they arrive.
    """

    __slots__ = (
        "_active",
        "_always_fragments",
        "_as_fragments",
        "_characters",
        "_decoders",
        "_filled",
        "_fin",
        "_fragmented",
        "_frames",
        "_in_message",
        "_max_fragments",
        "_max_size",
        "_next_too",
        "_payload",
        "_size",
        "_text",
        "_utf8",
        "closed",
        "decode_text",
        "in_frame",
        "parser",
    )

    def __init__(
        self,
        role: Role,
        *,
        max_message_size: int | None = None,
        max_frame_size: int | None = None,
        max_fragments: int | None = None,
        codecs: Sequence[Codec] = (),
        fragments: bool = False,
    ) -> None:
        rsv = 0
        for codec in codecs:
            rsv |= codec.rsv
        self.parser = FrameParser(masked=role is Role.SERVER, max_size=max_frame_size, rsv=rsv)  # what was fed
        self._decoders: Sequence[Decoder] = [codec.decoder for codec in reversed(codecs)] if codecs else ()
        self._max_size = max_message_size
        self._max_fragments = max_fragments
        self._always_fragments = fragments
        self._as_fragments = fragments  # also of the message under way alone: begin_fragments
        self._fragmented = False  # of that message a Fragment has come
        self._next_too = False  # the message behind that one, too
        self.decode_text = True  # whether whole text messages come as str: saves a pass over them
        self.closed = False  # a Close was received: nothing after it counts (5.5.1)
        self.in_frame = False  # the first piece of a frame was seen, its last not yet
        self._fin = False  # of that frame
        self._filled: Frame | None = None  # the last, empty piece of a frame whose payload was read directly
        self._in_message = False
        self._text = False
        self._size = 0
        self._frames = 0
        self._active: Sequence[Decoder] = ()  # what the message under way was encoded with
        self._payload = PayloadBuffer()
        self._utf8 = Utf8Validator()
        self._characters: text_codecs.IncrementalDecoder | None = None  # made for the first Fragment of a text

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet used."""
        return self.parser.buffered

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; behind its Close they are forgotten."""
        if not self.closed:
            self.parser.feed(data)

    def next_event(self) -> Event | None:
        """Return what the bytes fed so far say next; None if that takes more of them.

        Raises ProtocolError at the first byte that breaks the protocol; the half is useless then.
        """
        if not (self._in_message or self._as_fragments or self.closed):  # the common case: one frame, and all there
            message = self.parser.next_message(self._max_size, self.decode_text)
            if message is not None:
                return message
        next_frame = self.parser.next_frame
        while not self.closed:
            frame = self._filled or next_frame()
            if frame is None:
                return None
            if frame.opcode >= CLOSE:
                return self._on_control(frame)
            if not self.in_frame:
                if frame.rsv and frame.fin and frame.complete and not (self._in_message or self._as_fragments):
                    return self._decode_message(frame)
                self._begin_frame(frame)
            event = self._on_piece(frame)
            if event is not None:
                return event
        return None

    def next_messages(self, room: int, each: int) -> list[Message]:
        """Return messages that ``next_event`` would return next, none of another kind between them; maybe none.

        There are no more than use up ``room`` bytes of what was fed; each counts ``each`` bytes more.
        """
        if self._in_message or self._as_fragments or self.closed:
            return []
        return self.parser.next_messages(self._max_size, self.decode_text, room, each)

    def begin_fragments(self) -> Fragment | None:
        """Have the message under way, or else the next, come in Fragments; return what there is of it so far.

        Where a Fragment of it has come before, the next message does too.
        """
        self._as_fragments = True
        self._next_too = self._fragmented
        return self._fragment(self._payload.take(), False) if len(self._payload) else None

    def end_fragments(self) -> None:
        """Take ``begin_fragments`` back, unless a Fragment has come of it: then the rest of the message does too."""
        self._next_too = False
        if self._always_fragments or self._fragmented:
            return
        self._as_fragments = False
        if self._characters and (unfinished := self._characters.getstate()[0]):  # of its first character
            self._payload.append(unfinished)
            self._characters.reset()

    def get_buffer(self) -> memoryview | None:
        """Return where the bytes that follow may be written directly, or None to have them fed.

        Only inside a large payload that needs no decoding; ``buffer_updated`` says what was written.
        """
        parser = self.parser
        if parser.remaining < DIRECT or parser.buffered or self._active or self._as_fragments:
            return None
        return self._payload.reserve(parser.remaining, self._fin)

    def buffer_updated(self, buffer: memoryview, size: int) -> None:
        """Take the first ``size`` bytes of ``get_buffer``'s buffer; raises ProtocolError as next_event does."""
        with buffer[:size] as view:
            self.parser.unmask(view)
            if self._text:
                self._utf8.feed(view)
        buffer.release()
        self._payload.commit(size)
        self._size += size
        if not self.parser.remaining:
            self._filled = Frame(0, self._fin, 0, 0, b"", True)

    def _on_control(self, frame: Frame) -> Event:
        payload = frame.payload
        if frame.opcode == PING:
            return Ping(payload)
        if frame.opcode == PONG:
            return Pong(payload)
        self.closed = True
        code, reason = parse_close(payload)
        return Closed(code, reason)

    def _begin_frame(self, frame: Frame) -> None:
        """Check a data frame before its payload is awaited (5.4)."""
        if frame.opcode:
            if self._in_message:
                raise ProtocolError("new message before the fragmented one has ended")  # 5.4
            self._begin_message(frame)
        else:
            if not self._in_message:
                raise ProtocolError("continuation frame without a message to continue")  # 5.4
        self._frames += 1
        if self._max_fragments is not None and self._frames > self._max_fragments:
            raise ProtocolError(
                f"message of more than {self._max_fragments} frames (max_fragments)", CloseCode.POLICY_VIOLATION
            )
        size = self._size + frame.length
        if self._max_size is not None and size > self._max_size and not self._active:
            raise self._too_big(size)
        self.in_frame = True
        self._fin = frame.fin

    def _begin_message(self, frame: Frame) -> None:
        self._in_message = True
        self._text = frame.opcode == TEXT
        self._size = self._frames = 0
        self._active = [decoder for decoder in self._decoders if decoder.begin(frame.rsv)] if frame.rsv else ()
        if frame.rsv and not self._active:
            raise ProtocolError("RSV bits that no extension gives a meaning")  # 5.2

    def _on_piece(self, frame: Frame) -> Event | None:
        fin = frame.complete and frame.fin
        self.in_frame = not frame.complete
        self._filled = None
        data: bytes = frame.payload
        if data or fin:
            for decoder in self._active:
                left = None if self._max_size is None else self._max_size - self._size
                data = decoder.decode(data, fin, left)
        self._size += len(data)
        if self._max_size is not None and self._size > self._max_size:
            raise self._too_big(self._size)
        if fin:
            self._in_message = False
        if self._text:
            self._utf8.feed(data, fin)
        if self._as_fragments:
            if fin:
                self._as_fragments, self._next_too = self._always_fragments or self._next_too, False
            return self._fragment(data, fin)
        self._payload.append(data)
        return Message(self._payload.take(), self._text) if fin else None

    def _decode_message(self, frame: Frame) -> Message:
        """Return an encoded message that is one whole frame: what the three above do, without a detour."""
        data, text = frame.payload, frame.opcode == TEXT
        active = False
        for decoder in self._decoders:
            if decoder.begin(frame.rsv):
                data = decoder.decode(data, True, self._max_size)
                active = True
        if not active:
            raise ProtocolError("RSV bits that no extension gives a meaning")  # 5.2
        if self._max_size is not None and len(data) > self._max_size:
            raise self._too_big(len(data))
        if text:
            self._utf8.feed(data, True)
        return Message(bytes(data), text)

    def _fragment(self, data: bytes, fin: bool) -> Fragment | None:
        piece = self._decode(data, fin) if self._text else data
        if not (piece or fin):
            return None
        self._fragmented = not fin
        return Fragment(piece, self._text, fin)

    def _decode(self, data: bytes, fin: bool) -> str:
        if self._characters is None:
            self._characters = CharacterDecoder()
        return self._characters.decode(data, fin)

    def _too_big(self, size: int) -> ProtocolError:
        return ProtocolError(
            f"message of at least {size} bytes, the limit is {self._max_size} (max_message_size)",
            CloseCode.MESSAGE_TOO_BIG,
        )


class Endpoint:
    """Both halves of one side, for use without a socket: bytes in, events out; messages in, bytes out.

    Not thread-safe. Whoever uses it answers Pings and Closes; once the Close was sent, sending
    anything raises RuntimeError.
    """

    def __init__(
        self,
        role: Role,
        *,
        new_key: Callable[[], bytes],
        max_message_size: int | None = 1 << 20,
        max_frame_size: int | None = None,
        max_fragments: int | None = 4096,
        fragment_size: int | None = None,
        codecs: Sequence[Codec] = (),
        fragments: bool = False,
    ) -> None:
        self.role = role
        self.receiver = Receiver(
            role,
            max_message_size=max_message_size,
            max_frame_size=max_frame_size,
            max_fragments=max_fragments,
            codecs=codecs,
            fragments=fragments,
        )
        self.sender = Sender(new_key if role is Role.CLIENT else None, codecs=codecs, fragment_size=fragment_size)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes and iterate over the events they complete; text comes as str.

        Iterating raises ProtocolError behind the last event that came before a violation.
        """
        self.receiver.feed(data)
        return self._events()

    def send_message(self, message: str | Buffer, *, compress: bool | None = None) -> bytes:
        """Return the bytes of one message: text for str, binary otherwise."""
        data = message.encode() if isinstance(message, str) else memoryview(message).cast("B")
        return b"".join(self._open.message(data, text=isinstance(message, str), compress=compress))

    def send_ping(self, payload: bytes = b"") -> bytes:
        """Return the bytes of a Ping; raises ValueError for a payload of more than 125 bytes."""
        return self._open.control(PING, payload)

    def send_pong(self, payload: bytes = b"") -> bytes:
        """Return the bytes of a Pong; raises ValueError for a payload of more than 125 bytes."""
        return self._open.control(PONG, payload)

    def send_close(self, code: int = 1000, reason: str = "") -> bytes:
        """Return the bytes of a Close; raises ValueError for one that may not be sent."""
        return self._open.close(Close(code, reason))

    @property
    def _open(self) -> Sender:
        """The sending half, as long as it may be used: nothing follows a Close (5.5.1)."""
        if self.sender.close_sent:
            raise RuntimeError("the Close was sent: nothing may follow it")
        return self.sender

    def _events(self) -> Iterator[Event]:
        while (event := self.receiver.next_event()) is not None:
            if isinstance(event, Message) and event.text and isinstance(event.data, bytes):
                event = Message(event.data.decode(), True)
            yield event

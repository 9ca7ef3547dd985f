"""Frames: one WebSocket frame from and to bytes (RFC 6455, section 5.2).

Owns     header layout, unmasking, the checks that need only one frame.
Imports  exceptions, events, masking, and the C twins where those are built.
Never    looks across frames: fragmentation, UTF-8 and message limits belong to the endpoint.
"""

from __future__ import annotations

import os
import struct
import sys
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ..exceptions import ProtocolError
from .events import Message
from .masking import mask, mask_in_place

__all__ = ["Frame", "FrameParser", "Opcode", "serialize", "serialize_header"]


class Opcode(IntEnum):
    """What a frame is (RFC 6455, section 11.8); 8 and above are control frames."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Frame(NamedTuple):
    """A frame, or a piece of a data frame of which more is to come.

    ``opcode`` is a plain int, ``rsv`` the reserved bits (0 to 7, RSV1 is 4), ``length`` the payload's
    declared length (bytes), ``payload`` what this piece holds of it, unmasked; ``complete`` marks the last piece.
    """

    opcode: int
    fin: bool
    rsv: int
    length: int
    payload: bytes
    complete: bool


_OPCODES = frozenset(int(opcode) for opcode in Opcode)
_MESSAGE_BEGINS = frozenset((1, 2))  # the opcodes of a message's first frame, the only one to carry reserved bits
_CONTROL = 0x8  # the bit that control opcodes have in common (5.5)
_MAX_CONTROL = 125  # bytes in a control frame (5.5)
_MAX_LENGTH = (1 << 63) - 1  # bytes in a frame (5.2)
_TEXT, _BINARY = 0x81, 0x82  # the first byte of a whole message: FIN, no reserved bits


@cache
def _openings(rsv: int) -> tuple[tuple[int, bool, int] | None, ...]:
    """Return the opcode, FIN and RSV bits for each first byte of a frame; None for one that is against the rules."""

    def opening(first: int) -> tuple[int, bool, int] | None:
        opcode, fin, bits = first & 0x0F, first >= 0x80, first >> 4 & 7
        allowed = rsv if opcode in _MESSAGE_BEGINS else 0
        lawful = opcode in _OPCODES and not bits & ~allowed and (fin or not opcode & _CONTROL)
        return (opcode, fin, bits) if lawful else None

    return tuple(opening(first) for first in range(256))


class FrameParser:
    """Feed bytes, ask for frames; None means that more bytes are needed. Not thread-safe.

    ``masked`` says whether frames must be masked (we are the server) or must not be; ``max_size`` is the longest
    payload of a data frame (bytes, None: no limit); ``rsv`` are the reserved bits that extensions use, which a
    message's first frame may carry. ``remaining`` is how many payload bytes of the current frame are still
    to come, 0 between frames.

    What has arrived is kept as it came: a position moves through it, and what is used up is let go of.
    """

    __slots__ = (
        "_at",
        "_data",
        "_key",
        "_length",
        "_mask_bit",
        "_max_size",
        "_opening",
        "_openings",
        "_rsv",
        "_short",
        "remaining",
    )

    def __init__(self, *, masked: bool, max_size: int | None = None, rsv: int = 0) -> None:
        _check_range("rsv", rsv, 7)
        self._mask_bit = 0x80 if masked else 0
        self._max_size = max_size
        self._rsv = rsv
        self._openings = _openings(rsv)
        self._short = 125 if max_size is None else min(125, max_size)
        self._data: bytes | bytearray = b""  # as it was fed, or all that was fed since, if it was not used up
        self._at = 0
        self.remaining = 0
        self._opening = (0, False, 0)  # of the current frame, as _length and _key (turned to the next payload byte)
        self._length = 0
        self._key = bytes(4)

    @property
    def buffered(self) -> int:
        """Bytes fed and not yet given out."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Take bytes as they came from the peer."""
        if self._at == len(self._data):
            self._data = bytes(data)
            self._at = 0
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data)
        del self._data[: self._at]  # moves nothing: a bytearray knows where it begins
        self._at = 0
        self._data += data

    def next_frame(self) -> Frame | None:
        """Return the next frame, or the next piece of a data frame, or None until more is fed.

        A data frame that is not here as a whole comes in pieces: the first as soon as its header is complete, maybe
        without payload, the following with what has arrived since. Control frames come whole.

        Raises ProtocolError (1002; 1009 beyond ``max_size``) as soon as the header shows it; there is
        nothing more to be had from the parser then.
        """
        if self.remaining:
            return self._take_piece() if self._at < len(self._data) else None
        data, at = self._data, self._at
        body = at + 6 if self._mask_bit else at + 2
        if body <= len(data):
            lawful = self._openings[data[at]]
            length = data[at + 1] - self._mask_bit
            end = body + length
            if lawful and 0 <= length <= self._short and end <= len(data):  # the common case, without a detour
                payload = mask(data[body:end], data[at + 2 : body]) if self._mask_bit else bytes(data[body:end])
                if end < len(data):
                    self._at = end
                else:
                    self._data, self._at = b"", 0
                opcode, fin, rsv = lawful
                return tuple.__new__(Frame, (opcode, fin, rsv, length, payload, True))  # faster than Frame(...)
        return self._take_piece() if self._take_header() else None

    def next_message(self, max_size: int | None, decode: bool, /) -> Message | None:
        """Return the next message, if it is here and needs no second look; whoever calls knows of none under way.

        It is one frame without reserved bits, with up to ``max_size`` and less than 65536 bytes; text is UTF-8 and
        comes as str, without ``decode`` as bytes. What is anything else is left, whole, to ``next_frame``.
        """
        data, at = self._data, self._at
        body = at + 6 if self._mask_bit else at + 2
        if self.remaining or body > len(data) or data[at] not in (_TEXT, _BINARY):
            return None
        length = data[at + 1] - self._mask_bit
        if length == 126:
            body += 2
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if length < 126:
                return None
        elif not 0 <= length < 126:
            return None
        end = body + length
        if end > len(data) or self._max_size is not None and length > self._max_size:
            return None
        if max_size is not None and length > max_size:
            return None
        payload = bytes(data[body:end])
        if self._mask_bit:
            payload = mask(payload, data[body - 4 : body])
        text = None
        if data[at] == _TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                return None
        if end < len(data):
            self._at = end
        else:
            self._data, self._at = b"", 0
        return Message(text if decode and text is not None else payload, text is not None)

    def next_messages(self, max_size: int | None, decode: bool, room: int, each: int, /) -> list[Message]:
        """Return what ``next_message`` would, again and again, until that has used up ``room`` bytes of what was fed.

        A message counts ``each`` bytes more. Raises ValueError for a negative number.
        """
        _check_range("room", room, sys.maxsize)
        _check_range("each", each, sys.maxsize)
        messages = []
        while room > 0:
            room -= self.buffered + each
            message = self.next_message(max_size, decode)
            if message is None:
                break
            room += self.buffered
            messages.append(message)
        return messages

    def unmask(self, view: memoryview) -> None:
        """Unmask the next payload bytes of the current frame in place, and count them.

        For bytes that went from the socket straight to where they are wanted. Raises ValueError where that cannot
        be: while fed bytes are still to be given out, or for more bytes than the frame has ``remaining``.
        """
        size = view.nbytes
        if self.buffered or size > self.remaining:
            raise ValueError(f"{size} bytes to unmask, {self.buffered} buffered and {self.remaining} remaining")
        self.remaining -= size
        if self._mask_bit:
            mask_in_place(view, self._key)
            self._turn_key(size)

    def _take_header(self) -> bool:
        """Check what there is of a header and take it, if it is complete; a control frame's only with its payload."""
        data, at = self._data, self._at
        if len(data) < at + 2:
            return self._wait()
        first, second = data[at], data[at + 1]
        self._check_header(first, second)
        length = second & 0x7F
        body = at + 2
        if length > 125:
            size = 2 if length == 126 else 8
            if len(data) < body + size:
                return self._wait()
            length = int.from_bytes(data[body : body + size], "big")
            _check_length(length, size)
            body += size
        control = first & _CONTROL
        if not control and self._max_size is not None and length > self._max_size:
            raise ProtocolError(
                f"frame of {length} bytes, the limit is {self._max_size} (max_frame_size)", 1009
            )  # 7.4.1, 10.4
        if self._mask_bit:
            body += 4
        if len(data) < (body + length if control else body):
            return self._wait()
        self._opening = (first & 0x0F, first >= 0x80, first >> 4 & 7)
        self._length = self.remaining = length
        self._key = bytes(data[body - 4 : body])
        self._at = body
        return True

    def _check_header(self, first: int, second: int) -> None:
        """Check the two bytes that every frame begins with."""
        opcode, rsv = first & 0x0F, first >> 4 & 7
        if rsv & ~self._rsv or rsv and opcode not in _MESSAGE_BEGINS:
            raise ProtocolError("reserved bits set")  # 5.2; RFC 7692, 6
        if opcode not in _OPCODES:
            raise ProtocolError(f"unknown opcode {opcode:#x}")  # 5.2
        if second & 0x80 != self._mask_bit:
            raise ProtocolError("frame is not masked" if self._mask_bit else "frame is masked")  # 5.1
        if opcode & _CONTROL and second & 0x7F > _MAX_CONTROL:
            raise ProtocolError("control frame of more than 125 bytes")  # 5.5
        if opcode & _CONTROL and not first & 0x80:
            raise ProtocolError("fragmented control frame")  # 5.5

    def _take_piece(self) -> Frame:
        """Take what there is of the current frame's payload."""
        at = self._at
        payload = bytes(self._data[at : at + self.remaining])
        self.remaining -= len(payload)
        self._at = at + len(payload)
        if self._at == len(self._data):
            self._data, self._at = b"", 0
        if self._mask_bit:
            payload = mask(payload, self._key)
            self._turn_key(len(payload))
        return Frame(*self._opening, self._length, payload, not self.remaining)

    def _turn_key(self, size: int) -> None:
        turn = size % 4
        self._key = self._key[turn:] + self._key[:turn]

    def _wait(self) -> bool:
        """Let go of what was used up: the beginning of a frame may have to wait for long."""
        if self._at:
            self._data, self._at = bytes(self._data[self._at :]), 0
        return False


def _check_length(length: int, size: int) -> None:
    """Check a payload length that came in ``size`` bytes of its own."""
    if length < (126 if size == 2 else 65536):
        raise ProtocolError("payload length not in its shortest form")  # 5.2
    if length >> 63:
        raise ProtocolError("payload length with its highest bit set")  # 5.2


def _check_range(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ValueError(f"{name} {value} out of its range")


def serialize_header(opcode: int, length: int, fin: bool = True, rsv: int = 0, key: bytes | None = None) -> bytes:
    """Return the header of a frame whose payload has ``length`` bytes, with ``key`` at its end if it is to be masked.

    Raises ValueError for an opcode, length or reserved bits beyond their fields, and for a key that is not 4 bytes.
    """
    if not (0 <= length <= _MAX_LENGTH and 0 <= opcode <= 15 and 0 <= rsv <= 7):
        _check_range("length", length, _MAX_LENGTH)
        _check_range("opcode", opcode, 15)
        _check_range("rsv", rsv, 7)
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    masked = 0 if key is None else 0x80
    if length < 126:
        header = bytes((first, masked | length))
    elif length < 65536:
        header = struct.pack("!BBH", first, masked | 126, length)
    else:
        header = struct.pack("!BBQ", first, masked | 127, length)
    if key is None:
        return header
    if len(key) != 4:
        raise ValueError(f"masking key of {len(key)} bytes, not 4")
    return header + key


def serialize(
    opcode: int,
    payload: bytes | bytearray | memoryview,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
) -> bytes:
    """Return one whole frame, masked with ``key`` if that is given (RFC 6455, section 5.2).

    Raises ValueError for an opcode, length or reserved bits beyond their fields, and for a key that is not 4 bytes.
    """
    length = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    header = serialize_header(opcode, length, fin, rsv, key)
    return header + (payload if key is None else mask(payload, key))


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._speedups import FrameParser, serialize, serialize_header
    except ImportError:
        pass

"""Payload: the bytes of a message, gathered from its frames (RFC 6455, section 5.4).

Owns     the room that they are read into, straight from the socket where they need no second look.
Never    makes room for what was announced and has not arrived.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import TYPE_CHECKING

__all__ = ["PayloadBuffer"]

_LEAST_ROOM = 4096  # bytes worth a read
_FIRST_ROOM = 16384  # bytes made for a payload of which nothing has arrived
_LARGEST_READ = 1 << 20


class PayloadBuffer:
    """The bytes of one message under way. Not thread-safe.

    It grows with what has arrived, never with what was announced. Appended to, or read into straight from the
    socket: ``reserve``, fill the beginning of the view, release it, ``commit``.
    """

    __slots__ = ("_capacity", "_content", "_length")

    def __init__(self) -> None:
        self._content = BytesIO()  # hands its bytes over without copying them
        self._length = 0
        self._capacity = 0

    def __len__(self) -> int:
        return self._length

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises BufferError while a view of ``reserve`` is alive."""
        self._content.seek(self._length)
        self._length += self._content.write(data)
        self._capacity = max(self._capacity, self._length)

    def reserve(self, size: int, last: bool = False, /) -> memoryview:
        """Return writable room right behind the end: at least 1 byte, at most ``size`` and 1 MiB.

        With ``last`` nothing will come behind these ``size`` bytes: no more room is made than they take, so that
        nothing is left to be given back. Raises ValueError for a size below 1, BufferError where room must be made
        while an earlier view is alive.
        """
        if size < 1:
            raise ValueError(f"room for {size} bytes")
        room = self._capacity - self._length
        if room < min(size, _LEAST_ROOM):
            room = max(self._length, _FIRST_ROOM)
            if size <= 2 * room:  # as much again, or all the rest
                room = size
            if not last:
                room = max(room, self._length // 2)
            self._content.seek(self._length + room - 1)
            self._content.write(b"\0")
            self._capacity = self._length + room
        return self._content.getbuffer()[self._length : self._length + min(size, room, _LARGEST_READ)]

    def commit(self, size: int) -> None:
        """Count bytes that were written into the reserved room. Raises ValueError for more than there is."""
        if not 0 <= size <= self._capacity - self._length:
            raise ValueError(f"{size} bytes in room for {self._capacity - self._length}")
        self._length += size

    def take(self) -> bytes:
        """Return all bytes and be empty again. Raises BufferError while a view of ``reserve`` is alive."""
        self._content.truncate(self._length)
        content = self._content.getvalue()
        self._content = BytesIO()
        self._length = self._capacity = 0
        return content


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._speedups import PayloadBuffer
    except ImportError:
        pass

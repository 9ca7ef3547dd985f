"""Masking: XOR with a 4-byte key (RFC 6455, section 5.3).

Owns     mask, mask_in_place.
Imports  nothing of ours, but their C twins where those are built.
Never    chooses a key: keys come in as arguments.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

__all__ = ["mask", "mask_in_place"]

_LANES_FROM = 2048  # bytes; below, one big integer is faster than four table look-ups (measured on CPython 3.11)


def mask(data: bytes | bytearray | memoryview, key: bytes | bytearray, /) -> bytes:
    """Return ``data`` masked, or unmasked, with the 4-byte ``key``.

    Raises ValueError for a key of another length. ``data`` may be any C-contiguous buffer.
    """
    if len(key) != 4:
        raise ValueError(f"masking key of {len(key)} bytes, not 4")
    if type(data) is not bytes:
        data = memoryview(data).cast("B")
    length = len(data)
    if length < _LANES_FROM:
        pad = int.from_bytes((key * (length // 4 + 1))[:length], "little")
        return (int.from_bytes(data, "little") ^ pad).to_bytes(length, "little")
    masked = bytearray(data)
    for lane in range(4):
        masked[lane::4] = masked[lane::4].translate(_xor_table(key[lane]))
    return bytes(masked)


def mask_in_place(buffer: bytearray | memoryview, key: bytes | bytearray, offset: int = 0, /) -> None:
    """Mask, or unmask, a writable ``buffer`` with the 4-byte ``key``.

    ``offset`` is where in the payload the buffer begins (bytes). Raises ValueError for a key of
    another length, TypeError or BufferError where the buffer is not writable or not C-contiguous.
    """
    turn = offset % 4
    view = memoryview(buffer).cast("B")
    view[:] = mask(view, key[turn:] + key[:turn])


@cache
def _xor_table(byte: int) -> bytes:
    return bytes(byte ^ other for other in range(256))


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._speedups import mask, mask_in_place
    except ImportError:
        pass

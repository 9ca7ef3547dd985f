"""UTF-8: an incremental check that fails at the first bad byte (RFC 6455, section 8.1; RFC 3629).

Owns     Utf8Validator, decode, encode.
Imports  exceptions, and the C twins where they are built.
Never    keeps more of the text than the bytes of one unfinished character.
"""

from __future__ import annotations

import os
from codecs import utf_8_decode
from typing import TYPE_CHECKING

from ..exceptions import ProtocolError

__all__ = ["Utf8Validator", "decode", "encode"]


class Utf8Validator:
    """Checks one text after the other, each in pieces of any length. Not thread-safe."""

    __slots__ = ("_unfinished",)

    def __init__(self) -> None:
        self._unfinished = b""

    def feed(self, data: bytes | bytearray | memoryview, final: bool = False) -> None:
        """Check the next piece of a text; ``final`` ends it, and the next piece begins another.

        Raises ProtocolError (1007) as soon as a byte cannot be part of valid UTF-8: surrogates, overlong
        forms and code points beyond U+10FFFF included; with ``final`` also for an unfinished character.
        The validator then stands at the beginning of a text.
        """
        if self._unfinished:
            data = self._unfinished + data
            self._unfinished = b""
        elif isinstance(data, bytes) and data.isascii():
            return
        try:
            _, end = utf_8_decode(data, "strict", final)
        except UnicodeDecodeError:
            raise ProtocolError("text is not valid UTF-8", 1007) from None
        unfinished = bytes(memoryview(data).cast("B")[end:])
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":  # a surrogate; CPython waits for its third byte
            raise ProtocolError("text is not valid UTF-8", 1007)
        self._unfinished = unfinished

    def reset(self) -> None:
        """Forget an unfinished text."""
        self._unfinished = b""


def decode(data: bytes | bytearray | memoryview, /) -> str:
    """Return UTF-8 as str. Raises UnicodeDecodeError.

    The C twin is faster than CPython where characters of all lengths are mixed.
    """
    return str(data, "utf-8")


def encode(text: str, /) -> bytes:
    """Return str as UTF-8. Raises UnicodeEncodeError for a lone surrogate."""
    return str.encode(text)


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._speedups import Utf8Validator, decode, encode
    except ImportError:
        pass

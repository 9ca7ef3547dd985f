"""Sender: the sending half of an endpoint (RFC 6455, sections 5.2 to 5.5): messages in, bytes out.

Not thread-safe. No socket, and no randomness: the masking keys of a client come in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from ..exceptions import Close
from .closecodes import pack_close
from .extensions import Codec, Encoder
from .frames import Opcode, serialize, serialize_header

__all__ = ["Buffer", "Sender"]

Buffer = bytes | bytearray | memoryview

JOINED = 16 * 1024  # up to this many bytes, copying a payload behind its header beats a second buffer
MAX_CONTROL = 125  # bytes in a control frame (5.5)

TEXT, BINARY, CONTINUATION = int(Opcode.TEXT), int(Opcode.BINARY), int(Opcode.CONTINUATION)
CLOSE = int(Opcode.CLOSE)
PLAIN = "plain"  # the sharing of a server's senders that neither encode nor split


class Sender:
    """The sending half: messages and control frames in, buffers to write in that order out.

    ``new_key`` gives a fresh random masking key of 4 bytes for each frame (section 5.3); None for a server, which
    does not mask. ``fragment_size`` (bytes) splits messages into frames, None leaves them whole.
    """

    __slots__ = (
        "_active",
        "_encoders",
        "_fragment_size",
        "_new_key",
        "_opcode",
        "_rsv",
        "close_sent",
        "encoded",
        "plain",
        "sharing",
    )

    def __init__(
        self,
        new_key: Callable[[], bytes] | None,
        *,
        codecs: Sequence[Codec] = (),
        fragment_size: int | None = None,
    ) -> None:
        self._new_key = new_key
        self._encoders: Sequence[Encoder] = [codec.encoder for codec in codecs] if codecs else ()
        self._fragment_size = fragment_size
        self.sharing = self._sharing()  # what others must have too to send the same bytes; None: nobody ever does
        self.plain = not codecs and fragment_size is None  # a message is one frame with its bytes as they are
        self.close_sent = False  # a Close was serialised: nothing may follow it (5.5.1)
        self.encoded = False  # whether the last message went through an encoder, which has gone on since
        self._opcode, self._rsv = 0, 0  # of the next frame of a message in pieces
        self._active: Sequence[Encoder] = ()  # what that message goes through

    def message(self, data: Buffer, *, text: bool, compress: bool | None = None) -> list[Buffer]:
        """Return the buffers of one message: one, unless it is large or split into frames."""
        opcode = TEXT if text else BINARY
        step = self._fragment_size
        if self.plain:  # the common case
            if self._new_key is None and len(data) <= JOINED:
                return [serialize(opcode, data)]
            return self._frame(opcode, data, True, 0)
        rsv = 0
        for encoder in self._encoders:
            bits = encoder.begin(text=text, size=len(data), compress=compress)
            if bits:
                data = encoder.encode(data, True)
                rsv |= bits
        self.encoded = rsv != 0
        if step is None or len(data) <= step:
            return self._frame(opcode, data, True, rsv)
        return self._fragments(opcode, memoryview(data), step, rsv, True)

    def _sharing(self) -> Hashable | None:
        if self._new_key is not None:
            return None
        if not self._encoders and self._fragment_size is None:
            return PLAIN
        shares = [encoder.sharing for encoder in self._encoders]
        return None if None in shares else (self._fragment_size, *shares)

    def forget(self) -> None:
        """Let the next message refer to none that came before, or the peer has been sent one from another sender."""
        for encoder in self._encoders:
            encoder.release()

    def begin(self, *, text: bool, compress: bool | None = None) -> None:
        """Begin a message in pieces: ``piece`` gives its frames, and nothing but control frames may come between."""
        bits = [encoder.begin(text=text, size=None, compress=compress) for encoder in self._encoders]
        self._active = [encoder for encoder, rsv in zip(self._encoders, bits, strict=True) if rsv]
        self._opcode, self._rsv = TEXT if text else BINARY, sum(bits)  # no two extensions share a bit (9.1)
        self.encoded = self._rsv != 0

    def piece(self, data: Buffer, fin: bool) -> list[Buffer]:
        """Return the buffers of the next piece of the message, maybe none; ``fin`` with the last one."""
        for encoder in self._active:
            data = encoder.encode(data, fin)
        if not (data or fin):
            return []
        opcode, rsv = self._opcode, self._rsv
        self._opcode, self._rsv = CONTINUATION, 0
        step = self._fragment_size
        if step is None or len(data) <= step:
            return self._frame(opcode, data, fin, rsv)
        return self._fragments(opcode, memoryview(data), step, rsv, fin)

    def control(self, opcode: int, payload: bytes) -> bytes:
        """Return one Ping, Pong or Close frame; after a Close nothing else may be asked for."""
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"control frame of {len(payload)} bytes, {MAX_CONTROL} at most")  # 5.5
        if opcode == CLOSE:
            self.close_sent = True
        return serialize(opcode, payload, True, 0, self._new_key() if self._new_key else None)

    def close(self, close: Close) -> bytes:
        """Return the Close frame that says so."""
        return self.control(CLOSE, pack_close(close.code, close.reason))

    def _fragments(self, opcode: int, data: memoryview, step: int, rsv: int, fin: bool) -> list[Buffer]:
        buffers = self._frame(opcode, data[:step], False, rsv)
        for start in range(step, len(data), step):
            last = start + step >= len(data)
            buffers += self._frame(CONTINUATION, data[start : start + step], fin and last, 0)
        return buffers

    def _frame(self, opcode: int, data: Buffer, fin: bool, rsv: int) -> list[Buffer]:
        if self._new_key:
            return [serialize(opcode, data, fin, rsv, self._new_key())]
        if len(data) <= JOINED:
            return [serialize(opcode, data, fin, rsv)]
        return [serialize_header(opcode, len(data), fin, rsv), data]

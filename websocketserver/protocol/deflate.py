"""permessage-deflate: messages compressed one by one (RFC 7692).

Owns     its negotiation on both sides (7.1), compressing (7.2.1) and inflating (7.2.2).
Imports  exceptions, closecodes, extensions; a zlib.
Never    tracks time: the connection says when it has been idle.

Two choices shape this file. The decompressor lives no longer than a message: between two messages only the
window is kept, as bytes, from which the next one starts. Thus an idle connection costs a window and no more,
a final block of the peer's (7.2.3.4) is nothing special, and a final block of our own, behind each message,
shows whether it was whole. And a compressor may be dropped between any two messages, because the peer cannot
tell: the next one merely looks back less far.
"""

from __future__ import annotations

import zlib as standard_zlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from ..exceptions import HandshakeError, ProtocolError
from .closecodes import CloseCode
from .extensions import RSV1, Codec, Decoder, Encoder, Extension, Params

__all__ = ["PerMessageDeflate"]

MAX_BITS = 15  # the window of a peer that promised nothing (7.1.2)
MIN_BITS = 9  # zlib makes no raw streams for a window of 8 bits, which RFC 7692 knows too

# What a flush ends with, and what is left out on the wire (7.2.1).
TAIL = b"\x00\x00\xff\xff"
# A final block without content. Behind a message and the tail it ends the stream at once; where a message was cut
# short it does not, or inflates to something as bits of the block that was left open.
FINAL = b"\x03\x00"

INPUT_CHUNK = 16 * 1024  # zlib copies what it could not take yet: this bounds the copy
# By how much inflating may go beyond a limit before it is noticed; what Python allocates first, so that it need
# not put blocks together.
OUTPUT_CHUNK = 32 * 1024

BITS = {str(bits): bits for bits in range(8, MAX_BITS + 1)}  # 7.1.2: decimal, without leading zeros


class Terms(NamedTuple):
    """The parameters of an offer or an answer (7.1); None: not there."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None

    @classmethod
    def read(cls, params: Params, *, offer: bool) -> Terms:
        """Return what the parameters say; raise ValueError where section 7 wants them refused."""
        terms: dict[str, Any] = {}
        for name, value in params:
            if name in terms:
                raise ValueError(f"parameter {name} is there twice")
            if name.endswith("_no_context_takeover") and name in cls._fields:
                if value is not None:
                    raise ValueError(f"parameter {name} takes no value")  # 7.1.1
                terms[name] = True
            elif name == "client_max_window_bits" and value is None and offer:
                terms[name] = MAX_BITS  # 7.1.2.2: without a value it says that the client obeys an answer
            elif name in cls._fields and value in BITS:
                terms[name] = BITS[value]
            else:
                raise ValueError(f"parameter {name}" + ("" if value is None else f"={value}") + " is not valid")
        return cls(**terms)

    def params(self) -> Params:
        """Return the parameters that say this, in an answer or (but for a bare one) in an offer."""
        return [
            (name, None if value is True else str(value))
            for name, value in self._asdict().items()
            if value is not False and value is not None
        ]


@dataclass(frozen=True, kw_only=True)
class PerMessageDeflate(Extension):
    """permessage-deflate and its settings, for servers and clients alike. Immutable, hence safe in any thread.

    The first four are the parameters of RFC 7692, section 7.1: what a server uses for its own messages and
    asks of clients, and what a client uses for its own messages and asks of servers.

    ``server_max_window_bits``, ``client_max_window_bits``
        the base-2 logarithm of the window in bytes, 9 to 15, that the messages of this side are compressed with.
        A peer that cannot limit its own is still talked to, with its 15 bits.
    ``server_no_context_takeover``, ``client_no_context_takeover``
        True: each message of this side is compressed on its own, without reference to earlier ones.
    ``threshold``
        bytes; smaller messages are sent as they are, unless ``send`` is told otherwise.
    ``level``
        of compression, as ``zlib.compressobj`` has it; None: 4, or the default of another ``zlib``.
    ``memory_level``
        1 to 9: a compressor's memory beside its window is 2 ** (memory_level + 9) bytes.
    ``release_after``
        seconds without a message after which a connection's compressor is dropped, to be made anew when it is
        needed; None: never.
    ``zlib``
        a module to use in place of the standard ``zlib``.

    Raises ValueError or TypeError for settings that cannot work.
    """

    name = "permessage-deflate"
    rsv = RSV1  # section 6

    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    threshold: int = 1024
    level: int | None = None
    memory_level: int = 5
    release_after: float | None = 60
    zlib: ModuleType = field(default=standard_zlib, repr=False)

    def __post_init__(self) -> None:
        _check_int("server_max_window_bits", self.server_max_window_bits, MIN_BITS, MAX_BITS)
        _check_int("client_max_window_bits", self.client_max_window_bits, MIN_BITS, MAX_BITS)
        _check_int("memory_level", self.memory_level, 1, 9)
        _check_int("threshold", self.threshold, 0, None)
        if self.level is not None:
            _check_int("level", self.level, -1, 9)
        if self.release_after is not None and not self.release_after >= 0:
            raise ValueError(f"release_after must be 0 or more seconds, or None, not {self.release_after!r}")
        try:
            self._compressor_settings(self.server_max_window_bits).new()
        except AttributeError as error:
            raise TypeError(f"zlib must be a module like zlib: {error}") from None
        except (ValueError, self.zlib.error) as error:
            raise ValueError(f"level {self.level} is not accepted by {self.zlib.__name__}: {error}") from None

    def offer(self) -> list[Params]:
        """Client: what it wishes of the server, then, for servers that cannot grant it, no more than it must."""
        wishes = Terms(
            server_no_context_takeover=self.server_no_context_takeover,
            client_no_context_takeover=self.client_no_context_takeover,
            server_max_window_bits=_unless_15(self.server_max_window_bits),
        ).params()
        # Without a value: a server may then name any window, and this side keeps to its own if that is smaller.
        obeys: Params = [("client_max_window_bits", None)]
        return [wishes + obeys, obeys] if wishes else [obeys]

    def answer(self, params: Params) -> Codec | None:
        """Server: what was offered, limited by what it has been set to; None for what section 7 has it decline."""
        try:
            offered = Terms.read(params, offer=True)
        except ValueError:
            return None
        if offered.server_max_window_bits is not None and offered.server_max_window_bits < MIN_BITS:
            return None  # another offer may ask for less
        terms = self._answer_to(offered)
        return self._codec(
            terms,
            own=(terms.server_max_window_bits, terms.server_no_context_takeover),
            peer=(terms.client_max_window_bits, terms.client_no_context_takeover),
        )

    def accept(self, params: Params) -> Codec:
        """Client: obey the answer, in which a server may ask for more than was offered (7.1.1.2, 7.1.2.1)."""
        try:
            terms = Terms.read(params, offer=False)
        except ValueError as error:
            raise HandshakeError(f"the server's answer to {self.name} is not acceptable: {error}") from None
        return self._codec(
            terms,
            own=(
                min(terms.client_max_window_bits or MAX_BITS, self.client_max_window_bits),
                terms.client_no_context_takeover or self.client_no_context_takeover,
            ),
            peer=(terms.server_max_window_bits, terms.server_no_context_takeover),
        )

    def _answer_to(self, offered: Terms) -> Terms:
        server_bits = min(offered.server_max_window_bits or MAX_BITS, self.server_max_window_bits)
        if offered.client_max_window_bits is None:
            client_bits = None  # 7.1.2.2: must not be answered
        else:
            client_bits = _unless_15(min(offered.client_max_window_bits, self.client_max_window_bits))
        return Terms(
            server_no_context_takeover=offered.server_no_context_takeover or self.server_no_context_takeover,
            client_no_context_takeover=offered.client_no_context_takeover or self.client_no_context_takeover,
            # 7.1.2.1: may be answered unasked, must be answered if offered
            server_max_window_bits=server_bits if offered.server_max_window_bits else _unless_15(server_bits),
            client_max_window_bits=client_bits,
        )

    def _codec(self, terms: Terms, *, own: tuple[int | None, bool], peer: tuple[int | None, bool]) -> Codec:
        own_bits, own_alone = own
        peer_bits, peer_alone = peer
        settings = self._compressor_settings(own_bits or MAX_BITS)
        return Codec(
            self,
            terms.params(),
            Compressor(settings, take_over=not own_alone, threshold=self.threshold),
            Decompressor(peer_bits or MAX_BITS, take_over=not peer_alone, zlib=self.zlib),
        )

    def _compressor_settings(self, bits: int) -> CompressorSettings:
        level = self.level
        if level is None:
            level = 4 if self.zlib is standard_zlib else self.zlib.Z_DEFAULT_COMPRESSION
        return CompressorSettings(bits, level, self.memory_level, self.zlib)


class CompressorSettings(NamedTuple):
    """What a compressor is made with."""

    bits: int
    level: int
    memory_level: int
    zlib: Any

    def new(self) -> Any:
        return self.zlib.compressobj(self.level, self.zlib.DEFLATED, -self.bits, self.memory_level)


class Compressor(Encoder):
    """The sending half: each piece is flushed, so that what was sent can be read."""

    def __init__(self, settings: CompressorSettings, *, take_over: bool, threshold: int) -> None:
        self._settings = settings
        self._take_over = take_over
        # A server may ask a client for a window of 8 bits. To refuse would end the connection; to send every
        # message uncompressed is always allowed (section 6), and right with any zlib.
        self._able = settings.bits >= MIN_BITS
        self._threshold = threshold
        self.sharing = settings, threshold  # nothing in a message that begins a stream refers to others
        self._sync_flush = settings.zlib.Z_SYNC_FLUSH
        self._stream: Any = None
        self._under_way = False

    def begin(self, *, text: bool, size: int | None, compress: bool | None) -> int:
        """Decide by ``compress``, else by the size; a message of unknown size is compressed.

        A message that goes as it is enters neither side's window: the context is that of compressed messages
        only, and stays in step whatever is decided here.
        """
        if compress is None:
            compress = size is None or size >= self._threshold
        if not compress or not self._able:
            return 0
        if self._stream is None:
            self._stream = self._settings.new()
        self._under_way = True
        return RSV1

    def encode(self, data: bytes | bytearray | memoryview, fin: bool) -> bytes:
        """Compress the next piece (7.2.1)."""
        stream = self._stream
        compressed: bytes = stream.compress(data) + stream.flush(self._sync_flush)
        if not fin:
            return compressed
        self._under_way = False
        if not self._take_over:
            self._stream = None
        return compressed[: -len(TAIL)]

    def release(self) -> None:
        """Drop the compressor."""
        if not self._under_way:
            self._stream = None


class Decompressor(Decoder):
    """The receiving half, limited while it inflates."""

    def __init__(self, bits: int, *, take_over: bool, zlib: Any) -> None:
        self._bits = max(bits, MIN_BITS)
        self._window_size = 1 << self._bits
        self._take_over = take_over
        self._zlib = zlib
        self._window = b""  # the end of what was inflated, as far as the peer may look back
        self._stream: Any = None  # None: the next byte begins a stream

    def begin(self, rsv: int) -> bool:
        """Return whether the message is compressed: RSV1 says so (section 6)."""
        self._stream = None
        return bool(rsv & RSV1)

    def decode(self, data: bytes | bytearray | memoryview, fin: bool, max_size: int | None) -> bytes:
        """Inflate the next piece (7.2.2)."""
        try:
            if fin and len(data) < INPUT_CHUNK:
                content = self._inflate(bytes(data) + TAIL, True, max_size)
            else:
                content = self._inflate(data, False, max_size)
                if fin:
                    content += self._inflate(TAIL, True, None if max_size is None else max_size - len(content))
            if fin:
                self._end()
        except self._zlib.error as error:
            # RFC 7692 names no code; data that are not what they say are 1007's (RFC 6455, 7.4.1).
            raise ProtocolError(f"compressed message is corrupt: {error}", CloseCode.INVALID_PAYLOAD_DATA) from None
        return content

    def _inflate(self, data: bytes | bytearray | memoryview, fin: bool, max_size: int | None) -> bytes:
        """Return what the piece inflates to; raise zlib.error where it is no DEFLATE."""
        max_chunk = OUTPUT_CHUNK if max_size is None else min(OUTPUT_CHUNK, max_size + 1)
        chunks, size, more = [], 0, False  # more: zlib may hold output back
        rest = data if len(data) <= INPUT_CHUNK else memoryview(data)
        while rest or more:
            if self._stream is None:
                if fin and rest == TAIL:
                    break  # the peer ended the stream itself, or there was none at all
                self._stream = self._new_stream()
            stream, piece = self._stream, rest[:INPUT_CHUNK]
            chunk: bytes = stream.decompress(piece, max_chunk)
            size += len(chunk)
            if max_size is not None and size > max_size:
                raise ProtocolError(
                    f"compressed message inflates to more than the {max_size} bytes left of max_message_size",
                    CloseCode.MESSAGE_TOO_BIG,
                )
            window = chunk if len(chunk) >= self._window_size else self._window + chunk
            self._window = window[-self._window_size :]
            chunks.append(chunk)
            rest = rest[len(piece) - len(stream.unused_data if stream.eof else stream.unconsumed_tail) :]
            more = len(chunk) == max_chunk and not stream.eof
            if stream.eof:
                self._stream = None  # 7.2.3.4: the peer may go on behind a final block
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _end(self) -> None:
        """End the message; raise zlib.error where it was cut short."""
        stream, self._stream = self._stream, None
        if stream is not None and (stream.decompress(FINAL) or not stream.eof or stream.unused_data):
            raise self._zlib.error("it ends in the middle of a block")
        if not self._take_over:
            self._window = b""

    def _new_stream(self) -> Any:
        if self._window:
            return self._zlib.decompressobj(-self._bits, zdict=self._window)
        return self._zlib.decompressobj(-self._bits)


def _unless_15(bits: int) -> int | None:
    """Return the bits, or None for the window that needs no saying."""
    return None if bits == MAX_BITS else bits


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be " + (f"{low} to {high}" if high else f"{low} or more") + f", not {value}")

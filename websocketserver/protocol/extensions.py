"""Extensions: what one is, and how the two sides agree on some (RFC 6455, section 9).

An Extension is a user's or our own description of an extension: what to offer, what to answer. Agreeing
on one gives a Codec, which belongs to one connection and has two halves that share nothing: the sending
half is used under the connection's write lock, the receiving half by whoever reads, so neither needs a
lock of its own. Messages pass the encoders in the order of the server's answer, and the decoders in
reverse (9.1).

To write an extension: subclass Extension, Encoder and Decoder. permessage-deflate, in deflate.py, is one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from ..exceptions import HandshakeError
from .grammar import format_extension

__all__ = [
    "RSV1",
    "RSV2",
    "RSV3",
    "Codec",
    "Decoder",
    "Encoder",
    "Extension",
    "Params",
    "accept_answer",
    "format_offers",
    "negotiate",
]

RSV1, RSV2, RSV3 = 4, 2, 1  # the reserved bits of a frame's first byte (5.2)

Params = list[tuple[str, "str | None"]]  # in order, as they stand in the header; None: no value


class Encoder:
    """The sending half of an extension on one connection; this one leaves every message as it is.

    Called under the connection's write lock, one message at a time: ``begin`` once, then ``encode`` for
    each piece. A message whose ``begin`` returned 0 is not given to ``encode``.

    ``sharing`` is for broadcasts: two encoders with equal ones make the same of a message if ``release`` was called
    before it, and the peer of either may be sent what the other has made, if ``release`` is called then. None, the
    default: a message is encoded for each connection.
    """

    sharing: Hashable | None = None

    def begin(self, *, text: bool, size: int | None, compress: bool | None) -> int:
        """Begin a message; return the RSV bits of its first frame, or 0 to let it pass as it is.

        ``size`` is the length of the whole message in bytes, None if it is not known yet; ``compress`` is
        what the caller of ``send`` asked for: True, False, or None to leave it to the extension.
        """
        return 0

    def encode(self, data: bytes | bytearray | memoryview, fin: bool) -> bytes:
        """Return what goes over the wire for the next piece of the message; ``fin`` with the last one.

        A piece may come to nothing (b""). Pieces become frames, but not necessarily one each.
        """
        return bytes(data)

    def release(self) -> None:
        """Give back memory that can be made again; called when the connection has been idle for a while.

        Must cost next to nothing when there is nothing to give back, and change nothing while a message is
        under way.
        """


class Decoder:
    """The receiving half of an extension on one connection; this one leaves every message as it is.

    Called by whoever reads from the connection, one message at a time: ``begin`` once, then ``decode`` for
    each piece as it arrives. A message whose ``begin`` returned False is not given to ``decode``, and one
    without RSV bits passes without a question.
    """

    def begin(self, rsv: int) -> bool:
        """Begin a message whose first frame has these RSV bits; return whether it is encoded."""
        return False

    def decode(self, data: bytes | bytearray | memoryview, fin: bool, max_size: int | None) -> bytes:
        """Return the message's next bytes; ``fin`` with the last piece.

        ``max_size`` is by how many bytes the message may still grow (0: none), None without limit. Raises
        ProtocolError: close code 1009 for more than that, before much more has been allocated; 1007 for data
        that this extension cannot have made.
        """
        return bytes(data)

    def release(self) -> None:
        """Give back memory that can be made again, as Encoder.release; not while a thread waits for a message."""


class Extension:
    """An extension that a side supports, and on what terms: subclass it to write your own.

    ``name`` is its token in Sec-WebSocket-Extensions; ``rsv`` the RSV bits that its messages may have set.
    Two extensions that use the same bit are never agreed on together. ``release_after`` is after how many
    seconds without a message the codec's halves are asked to give back memory; None: never.

    One object serves many connections in many threads: keep the state of a connection in its Codec.
    """

    name: str
    rsv: int = 0
    release_after: float | None = None

    def offer(self) -> list[Params]:
        """Client: return the parameters to offer, the most preferred first; [[]] for none but the name."""
        return [[]]

    def answer(self, params: Params) -> Codec | None:
        """Server: return the codec for an offer with these parameters, or None to decline the offer.

        The codec's ``params`` are what is answered. Decline what is not understood: another offer may follow.
        """
        return None

    def accept(self, params: Params) -> Codec:
        """Client: return the codec for the server's answer; raise HandshakeError if it is not acceptable."""
        raise HandshakeError(f"extension {self.name} cannot be used by a client")


class Codec:
    """One extension as agreed on for one connection.

    ``name`` and ``params`` are what the server's answer says, ``rsv`` the bits that its messages may have
    set, ``encoder`` and ``decoder`` the two halves; ``release_after`` as in Extension.
    """

    __slots__ = ("decoder", "encoder", "name", "params", "release_after", "rsv")

    def __init__(self, extension: Extension, params: Params, encoder: Encoder, decoder: Decoder) -> None:
        self.name = extension.name
        self.rsv = extension.rsv
        self.release_after = extension.release_after
        self.params = params
        self.encoder = encoder
        self.decoder = decoder

    def __str__(self) -> str:
        return format_extension(self.name, self.params)

    def __repr__(self) -> str:
        return f"<Codec {self}>"


def format_offers(extensions: Iterable[Extension]) -> str:
    """Return a client's Sec-WebSocket-Extensions; "" if there is nothing to offer."""
    offers = [(extension.name, params) for extension in extensions for params in extension.offer()]
    return ", ".join(format_extension(name, params) for name, params in offers)


def negotiate(offers: Iterable[tuple[str, Params]], extensions: Sequence[Extension]) -> tuple[str, list[Codec]]:
    """Return a server's Sec-WebSocket-Extensions ("" for none) and the codecs, in that order.

    The client's order decides, in which it states its preference (9.1): of several offers of one extension the
    first acceptable one is taken, and of two extensions that need the same RSV bit the one offered first.
    Offers of unknown extensions are declined by not answering them.
    """
    codecs: list[Codec] = []
    for name, params in offers:
        for extension in extensions:
            if extension.name != name or not _combines(extension, codecs):
                continue
            codec = extension.answer(params)
            if codec is not None:
                codecs.append(codec)
                break
    return ", ".join(map(str, codecs)), codecs


def accept_answer(answers: Iterable[tuple[str, Params]], extensions: Sequence[Extension]) -> list[Codec]:
    """Return the codecs that a server's answer to ``format_offers(extensions)`` asks for, in its order.

    Raises HandshakeError for an extension that was not offered or is answered twice, for two that need the
    same RSV bit, and for parameters that are not acceptable: the client must fail the connection (4.1, 9.1).
    """
    codecs: list[Codec] = []
    for name, params in answers:
        extension = next((extension for extension in extensions if extension.name == name), None)
        if extension is None:
            raise HandshakeError(f"the server answered the extension {name}, which was not offered")
        if not _combines(extension, codecs):
            agreed = ", ".join(codec.name for codec in codecs)
            raise HandshakeError(f"the server answered the extension {name}, which does not go with {agreed}")
        codecs.append(extension.accept(params))
    return codecs


def _combines(extension: Extension, codecs: list[Codec]) -> bool:
    """Return whether the extension can be used beside those agreed on: once only, no RSV bit twice (5.2, 9.1)."""
    return all(codec.name != extension.name and not codec.rsv & extension.rsv for codec in codecs)

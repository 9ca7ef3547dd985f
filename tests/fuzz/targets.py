"""What is fuzzed: functions of bytes that raise AssertionError where something is not as it must be.

Each gives the same bytes to both twins, whole and in pieces, and holds the outcomes against each other: the same
values, or the same documented exception. Any other exception is a finding too.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from websocketserver.exceptions import HandshakeError, ProtocolError
from websocketserver.protocol import endpoint
from websocketserver.protocol.asking import check_response
from websocketserver.protocol.cookies import format_cookies, parse_cookies
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.endpoint import Receiver, Role
from websocketserver.protocol.extensions import accept_answer, format_offers, negotiate
from websocketserver.protocol.grammar import format_extension, parse_extensions, parse_host, tokens
from websocketserver.protocol.handshake import check_request, is_upgrade, response_fields, same_origin
from websocketserver.protocol.headers import (
    MAX_HEAD,
    MAX_HEADERS,
    RequestHead,
    RequestParser,
    ResponseHead,
    read_request_head,
    read_response_head,
    take_request_head,
    take_response_head,
)

from ..protocol.twins import CHOSEN, HAVE_C, PYTHON

__all__ = ["TARGETS"]

SEAM = (("frames", "FrameParser"), ("payload", "PayloadBuffer"), ("utf8", "Utf8Validator"))
TWINS = [PYTHON, CHOSEN] if HAVE_C else [PYTHON]
SIZES = (None, 0, 5, 125, 126, 1000, 65536)
LIMIT = 20_000  # bytes that a message may inflate to
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = PerMessageDeflate()
TAIL = b"\x00\x00\xff\xff"


def pieces(data: bytes, step: int) -> Iterator[bytes]:
    """Cut the data; 0 leaves it whole."""
    step = step or max(1, len(data))
    return (data[at : at + step] for at in range(0, len(data), step))


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call gives, or how it is documented to fail."""
    try:
        return function(*args)
    except ProtocolError as error:
        assert error.close_code in (1002, 1007, 1008, 1009)
        return "ProtocolError", str(error), error.close_code
    except HandshakeError as error:
        assert error.status in (None, 400, 405, 414, 426, 431, 505)
        return "HandshakeError", str(error), error.status
    except ValueError as error:
        return "ValueError", str(error)


def same(outcomes: list[Any], what: str) -> Any:
    """Return the outcome that all share."""
    for other in outcomes[1:]:
        assert other == outcomes[0], f"{what} differ:\n  {outcomes[0]!r:.2000}\n  {other!r:.2000}"
    return outcomes[0]


# Frames and messages


def parser(data: bytes) -> None:
    """Frames, and whole messages, of both twins' parsers."""
    if len(data) < 2:
        return
    first, step, wire = data[0], data[1], data[2:]
    options = {"masked": bool(first & 1), "max_size": SIZES[(first >> 1) % len(SIZES)], "rsv": first >> 5}

    def frames(twin: Any, wire: bytes, step: int, messages: bool) -> list[Any]:
        reader = twin["frames"].FrameParser(**options)
        seen: list[Any] = []
        for piece in pieces(wire, step):
            reader.feed(piece)
            while True:
                found = outcome(reader.next_message, 70_000, bool(first & 16)) if messages else None
                found = outcome(reader.next_frame) if found is None else found
                if found is None:
                    break
                seen.append(found)
                if found[0] == "ProtocolError":
                    return seen
            seen.append((reader.buffered, reader.remaining))
        return seen

    for messages in (False, True):
        for size in {0, step % 16}:
            same([frames(twin, wire, size, messages) for twin in TWINS], f"twins' frames in pieces of {size}")


def messages(data: bytes) -> None:
    """Events of a whole receiving half, with and without extension, of both twins, in pieces and as a whole."""
    if len(data) < 2:
        return
    first, step, wire = data[0], data[1], data[2:]

    def events(twin: Any, size: int) -> list[Any]:
        with patch.multiple(endpoint, **{name: getattr(twin[source], name) for source, name in SEAM}):
            return events_here(size)

    def events_here(size: int) -> list[Any]:
        codecs = negotiate(parse_extensions(format_offers([DEFLATE])), [DEFLATE])[1] if first & 2 else []
        receiver = Receiver(
            Role.SERVER if first & 1 else Role.CLIENT,
            max_message_size=LIMIT,
            max_fragments=50,
            codecs=codecs,
        )
        seen: list[Any] = []
        for piece in pieces(wire, size):
            receiver.feed(piece)
            while (event := outcome(receiver.next_event)) is not None:
                if event[0] == "ProtocolError":
                    return [*seen, event]
                text = getattr(event, "text", False)
                content = event[0].encode() if text and isinstance(event[0], str) else event[0]
                assert len(content) <= LIMIT if isinstance(content, bytes) else 1000 <= content <= 4999
                seen.append((type(event).__name__, content))
        return seen

    runs = {size: same([events(twin, size) for twin in TWINS], "twins' events") for size in {0, 1, step % 16}}
    # Of an error only what is known at that byte may differ: the words, and the code where two faults meet.
    kinds = [[event[:2] if event[0] != "ProtocolError" else "ProtocolError" for event in run] for run in runs.values()]
    same(kinds, "events in other pieces")


def text(data: bytes) -> None:
    """UTF-8 in pieces, of both twins, against Python's own decoder."""
    if not data:
        return
    step, content = data[0], data[1:]

    def verdict(twin: Any, size: int) -> bool:
        validator = twin["utf8"].Utf8Validator()
        for piece in pieces(content, size):
            if isinstance(outcome(validator.feed, piece, False), tuple):
                return False
        return not isinstance(outcome(validator.feed, b"", True), tuple)

    verdicts = [verdict(twin, size) for twin in TWINS for size in {0, 1, step}]
    try:
        content.decode()
        verdicts.append(True)
    except UnicodeDecodeError:
        verdicts.append(False)
    same(verdicts, "verdicts")


def inflater(data: bytes) -> None:
    """A compressed message in pieces: the same in any, never more than the limit, and what zlib says of it."""
    if len(data) < 2:
        return
    first, step, content = data[0], data[1], data[2:]

    def inflate(size: int) -> Any:
        (codec,) = negotiate(parse_extensions("permessage-deflate"), [DEFLATE])[1]
        found = []
        for _ in range(1 + (first & 1)):  # twice: the second looks back into the first
            codec.decoder.begin(4)
            message = b""
            for piece in [*pieces(content, size), b""]:
                part = outcome(codec.decoder.decode, piece, False, LIMIT - len(message))
                if isinstance(part, tuple):
                    return [*found, part[2]]
                message += part
                assert len(message) <= LIMIT, "more than the limit"
            last = outcome(codec.decoder.decode, b"", True, LIMIT - len(message))
            if isinstance(last, tuple):
                return [*found, last[2]]
            found.append(message + last)
            assert len(found[-1]) <= LIMIT
        return found

    found = same([inflate(size) for size in {0, 1, 1 + step}], "inflated messages")
    if isinstance(found[0], bytes) and not first & 1:
        reference = zlib.decompressobj(-15)
        try:
            plain = reference.decompress(content + TAIL)
        except zlib.error:
            raise AssertionError("zlib refuses what was inflated") from None
        assert reference.eof or plain == found[0], "zlib inflates to something else"


# The opening handshake


def request(data: bytes) -> None:
    """A request: read by line, as it comes and in one step; checked, answered."""
    if not data:
        return
    step, wire = data[0], data[1:]
    stream = io.BytesIO(wire)
    head = outcome(read_request_head, stream.readline)

    def as_it_comes(size: int) -> Any:
        reader, buffer, fed = RequestParser(), bytearray(), 0
        for piece in pieces(wire, size):
            buffer += piece
            fed += len(piece)
            found = outcome(reader.feed, buffer)
            if found is not None:
                return (found, fed - len(buffer)) if isinstance(found, RequestHead) else (found, None)
        return None, None

    found, end = same([as_it_comes(size) for size in {0, 1, step}], "heads in other pieces")
    if found is None:  # there is more to come, and by line that is an error
        assert head is None or "the input ended" in head[1], "a head, or half of one"
        assert take_request_head(wire) is None
        return
    assert found == head, "two readers read two heads"
    quick = take_request_head(wire)
    if not isinstance(head, RequestHead):
        assert quick is None, "a head that is refused was taken"
        return
    assert end == stream.tell() and quick in (None, (head, end)), "where a head ends is in doubt"
    _check_fields(head, wire)
    is_upgrade(head)
    checked = outcome(check_request, head)
    if isinstance(checked, tuple):
        return
    assert isinstance(checked.cookies, dict) and checked.path and isinstance(checked.query, str)
    same_origin(checked.host, checked.origin or "null")
    answer, codecs = negotiate(checked.extensions, [DEFLATE])
    assert bool(answer) == bool(codecs)
    response_fields(checked, extensions=answer)


def response(data: bytes) -> None:
    """A server's answer: read by line and in one step, and checked."""
    stream = io.BytesIO(data)
    head = outcome(read_response_head, stream.readline)
    quick = take_response_head(data)
    if not isinstance(head, ResponseHead):
        assert quick is None, "a head that is refused was taken"
        return
    assert quick in (None, (head, stream.tell())), "two readers read two heads"
    _check_fields(head, data)
    offer = format_offers([DEFLATE])
    try:
        subprotocol, answered = check_response(head, key=KEY, subprotocols=["chat", "superchat"], extensions=offer)
        assert subprotocol in (None, "chat", "superchat")
        accept_answer(answered, [DEFLATE])
    except HandshakeError:
        pass


def _check_fields(head: RequestHead | ResponseHead, wire: bytes) -> None:
    """Nothing is lost between the two ways of looking at headers, and nothing there that nobody has sent."""
    assert len(head.pairs) == sum(map(len, head.fields.values())) <= MAX_HEADERS
    assert sum(len(name) + len(value) for name, value in head.pairs) <= MAX_HEAD
    assert head.headers.items() == head.pairs
    for name, value in head.pairs:
        assert value in head.fields[name.lower()]
        assert name.encode("latin-1") in wire and value.encode("latin-1") in wire, "a header that nobody has sent"


def values(data: bytes) -> None:
    """Values of headers: extensions, tokens, hosts, cookies; what is read can be written, and be read again."""
    value = data.decode("latin-1")
    extensions = outcome(parse_extensions, value)
    if isinstance(extensions, list):
        written = ", ".join(format_extension(name, params) for name, params in extensions)
        assert parse_extensions(written) == extensions
        answer, codecs = negotiate(extensions, [DEFLATE])
        assert len(codecs) <= 1
        for name, params in extensions:
            try:
                accept_answer([(name, params)], [DEFLATE])
            except HandshakeError:
                pass
        if answer:
            parse_extensions(answer)
    listed = outcome(tokens, value)
    assert listed[0] == "ValueError" or tokens(", ".join(listed)) == listed
    host = parse_host(value)
    assert host is None or host[1] is None or 0 <= host[1] <= 65535
    pairs = parse_cookies(value)
    try:
        written = format_cookies(pairs)
    except ValueError:
        pass  # read leniently, written strictly
    else:  # quotes within quotes: they are taken off once more
        assert parse_cookies(written) == pairs or any('"' in content for _, content in pairs)
    assert same_origin("localhost", value) in (True, False)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (parser, messages, text, inflater, request, response, values)
}

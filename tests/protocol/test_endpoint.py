"""Endpoint: from frames to messages and back (RFC 6455, sections 5.4 to 5.7, 7 and 8.1)."""

from __future__ import annotations

import itertools
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.exceptions import ProtocolError
from websocketserver.protocol import endpoint as endpoint_module
from websocketserver.protocol import sender as sender_module
from websocketserver.protocol.closecodes import CloseCode
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.endpoint import DIRECT, Endpoint, Receiver, Role
from websocketserver.protocol.events import Closed, Event, Fragment, Message, Ping, Pong
from websocketserver.protocol.extensions import Codec, Decoder, Encoder, Extension
from websocketserver.protocol.masking import mask

from ..support import RawFrame, frame
from .twins import TWINS

KEY = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SEAM = {
    "frames": ("FrameParser", "serialize", "serialize_header"),
    "payload": ("PayloadBuffer",),
    "utf8": ("Utf8Validator",),
}


@pytest.fixture(params=TWINS, scope="module", autouse=True)
def twins(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here runs with the Python and with the C twins of what an endpoint is built of."""
    twin: dict[str, ModuleType] = TWINS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for source, names in SEAM.items():
            for name in names:
                for user in (endpoint_module, sender_module):
                    if hasattr(user, name):
                        patch.setattr(user, name, getattr(twin[source], name))
        yield


def no_key() -> bytes:
    raise AssertionError("a server masks nothing (5.1)")


def masked(opcode: int, payload: bytes = b"", **options: Any) -> bytes:
    """A client's frame."""
    return frame(opcode, payload, key=KEY, **options)


def server(**options: Any) -> Endpoint:
    return Endpoint(Role.SERVER, new_key=no_key, **options)


def client(**options: Any) -> Endpoint:
    return Endpoint(Role.CLIENT, new_key=lambda: KEY, **options)


def drip(data: bytes, size: int = 1) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def receive(*feeds: bytes, **options: Any) -> list[Event]:
    """What a server makes of these bytes."""
    endpoint = server(**options)
    return [event for feed in feeds for event in endpoint.receive(feed)]


def receive_three_ways(data: bytes, **options: Any) -> list[Event]:
    """Whole, byte by byte, and with the next frame glued on: the same events."""
    events = receive(data, **options)
    assert receive(*drip(data), **options) == events
    after = [] if events and isinstance(events[-1], Closed) else [Ping(b"next")]
    assert receive(data + masked(PING, b"next"), **options) == events + after
    return events


def refuse(data: bytes, close_code: int = 1002, match: str | None = None, **options: Any) -> str:
    """Refused whole, byte by byte (only with the last byte), and with more behind."""
    for feeds in ([data], drip(data), [data + masked(BINARY, b"more")]):
        endpoint = server(**options)
        for feed in feeds[:-1]:
            list(endpoint.receive(feed))
        with pytest.raises(ProtocolError, match=match) as caught:
            list(endpoint.receive(feeds[-1]))
        assert caught.value.close_code == close_code
    return str(caught.value)


def read_frames(data: bytes) -> list[RawFrame]:
    """Read frames by hand (5.2)."""
    frames = []
    while data:
        first, second = data[:2]
        size, at = second & 0x7F, 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
        key = b"\0\0\0\0"
        if second & 0x80:
            key, at = data[at : at + 4], at + 4
        payload = bytes(octet ^ key[i % 4] for i, octet in enumerate(data[at : at + size]))
        assert len(payload) == size
        frames.append(RawFrame(first & 15, payload, first >= 128, first >> 4 & 7, second >= 128))
        data = data[at + size :]
    return frames


class Reverse(Encoder, Decoder):
    """A toy extension, both halves: what it encodes goes backwards, marked by its bit."""

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.begun: list[int] = []
        self.held = b""

    def begin(self, rsv: int = 0, *, text: bool = False, size: int | None = 0, compress: bool | None = None) -> int:  # type: ignore[override]
        self.begun.append(rsv)
        self.held = b""
        return self.bit if compress is not False else 0

    def encode(self, data: Any, fin: bool) -> bytes:
        return bytes(data)[::-1]

    def decode(self, data: Any, fin: bool, max_size: int | None) -> bytes:
        self.held += data
        if max_size is not None and len(self.held) > max_size:
            raise ProtocolError("too much to reverse", 1009)
        return self.held[::-1] if fin else b""


class ReverseDecoder(Reverse):
    def begin(self, rsv: int) -> bool:  # type: ignore[override]
        super().begin(rsv)
        return bool(rsv & self.bit)


class Toy(Extension):
    def __init__(self, name: str = "x-reverse", rsv: int = 4) -> None:
        self.name = name
        self.rsv = rsv


def toy(rsv: int = 4) -> Codec:
    return Codec(Toy(rsv=rsv), [], Reverse(rsv), ReverseDecoder(rsv))


def deflate() -> tuple[Codec, Codec]:
    """Codecs of permessage-deflate for both sides."""
    extension = PerMessageDeflate(threshold=0)
    theirs = extension.answer([])
    assert theirs is not None
    return theirs, extension.accept([])


class TestExamples:
    """Section 5.7."""

    def test_unmasked_text(self) -> None:
        assert list(client().receive(b"\x81\x05Hello")) == [Message("Hello", True)]

    def test_masked_text(self) -> None:
        wire = b"\x81\x85" + KEY + b"\x7f\x9f\x4d\x51\x58"
        assert receive_three_ways(wire) == [Message("Hello", True)]
        assert client().send_message("Hello") == wire

    def test_fragmented_unmasked_text(self) -> None:
        wire = b"\x01\x03Hel\x80\x02lo"
        assert list(client().receive(wire)) == [Message("Hello", True)]
        assert server(fragment_size=3).send_message("Hello") == wire

    def test_ping_and_its_answer(self) -> None:
        assert list(client().receive(b"\x89\x05Hello")) == [Ping(b"Hello")]
        assert list(server().receive(b"\x8a\x85" + KEY + b"\x7f\x9f\x4d\x51\x58")) == [Pong(b"Hello")]
        assert client().send_pong(b"Hello") == b"\x8a\x85" + KEY + b"\x7f\x9f\x4d\x51\x58"

    def test_lengths_of_two_and_of_eight_bytes(self) -> None:
        for size, head in ((256, b"\x82\x7e\x01\x00"), (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00")):
            assert list(client().receive(head + bytes(size))) == [Message(bytes(size), False)]
            assert server().send_message(bytes(size)) == head + bytes(size)


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
    def test_messages_of_one_frame(self, size: int) -> None:
        data = bytes(i % 127 for i in range(size))
        wire = masked(TEXT, data) + masked(BINARY, data)
        expected = [Message(data.decode(), True), Message(data, False)]
        assert receive(wire) == receive(wire[:-1], wire[-1:]) == receive(*drip(wire, 1000)) == expected

    def test_fragments_of_any_size_make_one_message(self) -> None:
        wire = masked(TEXT, b"He", fin=False) + masked(CONTINUATION, fin=False) + masked(CONTINUATION, b"llo")
        assert receive_three_ways(wire) == [Message("Hello", True)]
        assert receive_three_ways(masked(BINARY, fin=False) + masked(CONTINUATION)) == [Message(b"", False)]
        assert receive_three_ways(masked(TEXT, fin=False) + masked(CONTINUATION)) == [Message("", True)]

    def test_control_frames_come_between_fragments(self) -> None:
        wire = masked(TEXT, b"Hel", fin=False) + masked(PING, b"?") + masked(PONG) + masked(CONTINUATION, b"lo")
        assert receive_three_ways(wire) == [Ping(b"?"), Pong(b""), Message("Hello", True)]

    def test_a_control_frame_between_is_reported_before_the_message_ends(self) -> None:
        assert receive(masked(TEXT, b"Hel", fin=False) + masked(PING, b"?")) == [Ping(b"?")]

    def test_a_close_between_fragments_ends_it(self) -> None:
        wire = masked(TEXT, b"Hel", fin=False) + masked(CLOSE, b"\x03\xe8") + masked(CONTINUATION, b"lo")
        assert receive(wire) == receive(*drip(wire)) == [Closed(1000, "")]

    def test_the_next_message_begins_anew(self) -> None:
        wire = masked(TEXT, b"a", fin=False) + masked(CONTINUATION, b"b") + masked(BINARY, b"\xff") + masked(TEXT, b"c")
        assert receive_three_ways(wire) == [Message("ab", True), Message(b"\xff", False), Message("c", True)]

    def test_whole_text_comes_as_checked_bytes_where_wanted(self) -> None:
        receiver = Receiver(Role.SERVER)
        receiver.decode_text = False
        receiver.feed(masked(TEXT, "é".encode()) + masked(TEXT, b"\xff"))
        assert receiver.next_event() == Message("é".encode(), True)
        with pytest.raises(ProtocolError) as caught:
            receiver.next_event()
        assert caught.value.close_code == 1007

    def test_bytes_not_used_yet_are_counted(self) -> None:
        receiver = Receiver(Role.SERVER)
        assert receiver.buffered == 0
        receiver.feed(masked(TEXT, b"ab") + masked(TEXT, b"cd"))
        assert receiver.next_event() == Message("ab", True)
        assert receiver.buffered == len(masked(TEXT, b"cd"))


class TestFragmentation:
    """Section 5.4: what may follow what."""

    @pytest.mark.parametrize("fin", [True, False])
    def test_nothing_to_continue(self, fin: bool) -> None:
        refuse(masked(CONTINUATION, fin=fin), match="continuation")
        refuse(masked(CONTINUATION, b"?", fin=fin)[:-1], match="continuation")  # payload is not awaited

    def test_nothing_to_continue_behind_a_whole_message(self) -> None:
        endpoint = server()
        assert list(endpoint.receive(masked(TEXT, b"a", fin=False) + masked(CONTINUATION)))
        with pytest.raises(ProtocolError, match="continuation"):
            list(endpoint.receive(masked(CONTINUATION)))

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    @pytest.mark.parametrize("first", [TEXT, BINARY])
    @pytest.mark.parametrize("fin", [True, False])
    def test_a_new_message_before_the_end(self, first: int, opcode: int, fin: bool) -> None:
        refuse(masked(first, b"a", fin=False) + masked(opcode, fin=fin), match="new message")
        refuse(masked(first, b"a", fin=False) + masked(opcode, b"?", fin=fin)[:-1], match="new message")

    def test_a_frame_that_breaks_the_rules_of_one_frame(self) -> None:
        refuse(masked(3)[:2], match="opcode")
        refuse(frame(TEXT)[:2], match="not masked")
        with pytest.raises(ProtocolError, match="is masked"):
            list(client().receive(masked(TEXT)[:2]))

    @pytest.mark.parametrize("rsv", range(1, 8))
    def test_reserved_bits_without_extension(self, rsv: int) -> None:
        refuse(masked(TEXT, rsv=rsv)[:2])


class TestLimits:
    def test_a_message_of_exactly_the_limit_passes(self) -> None:
        assert receive_three_ways(masked(BINARY, bytes(10)), max_message_size=10) == [Message(bytes(10), False)]
        assert receive_three_ways(masked(BINARY), max_message_size=0) == [Message(b"", False)]
        halves = masked(BINARY, bytes(5), fin=False) + masked(CONTINUATION, bytes(5))
        assert receive_three_ways(halves, max_message_size=10) == [Message(bytes(10), False)]

    @pytest.mark.parametrize("length", [11, 125, 126, 65535, 65536, 1 << 40, (1 << 63) - 1])
    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_larger_one_is_refused_from_its_header(self, opcode: int, length: int) -> None:
        header = masked(opcode, length=length)
        assert "max_message_size" in refuse(header, 1009, max_message_size=10)
        assert receive(header, max_message_size=length) == []

    def test_a_larger_one_that_is_all_there(self) -> None:
        for endpoint in (server(max_message_size=10), server(max_message_size=10, fragments=True)):
            with pytest.raises(ProtocolError, match="max_message_size") as caught:
                list(endpoint.receive(masked(BINARY, bytes(11))))
            assert caught.value.close_code == CloseCode.MESSAGE_TOO_BIG

    @pytest.mark.parametrize("length", [6, 125, 126, 65536, (1 << 63) - 1])
    def test_fragments_are_summed_up(self, length: int) -> None:
        begun = masked(BINARY, bytes(3), fin=False) + masked(CONTINUATION, bytes(2), fin=False)
        refuse(begun + masked(CONTINUATION, length=length), 1009, max_message_size=10)
        refuse(begun + masked(CONTINUATION, length=length, fin=False), 1009, max_message_size=10)
        refuse(begun + masked(CONTINUATION, length=length), 1009, max_message_size=10, fragments=True)

    def test_the_sum_begins_anew_with_each_message(self) -> None:
        message = masked(BINARY, bytes(4), fin=False) + masked(CONTINUATION, bytes(4))
        assert receive_three_ways(3 * message, max_message_size=8) == 3 * [Message(bytes(8), False)]

    def test_frames_have_a_limit_of_their_own(self) -> None:
        options: dict[str, Any] = {"max_frame_size": 10, "max_message_size": None}
        message = masked(BINARY, bytes(10), fin=False) + masked(CONTINUATION, bytes(10))
        assert receive_three_ways(message, **options) == [Message(bytes(20), False)]
        refuse(masked(BINARY, length=11)[:2], 1009, **options)
        refuse(masked(BINARY, bytes(10), fin=False) + masked(CONTINUATION, length=11)[:2], 1009, **options)
        assert receive(masked(PING, bytes(125)), **options) == [Ping(bytes(125))]

    def test_without_limits_anything_may_be_announced(self) -> None:
        limits: dict[str, Any] = {"max_message_size": None, "max_fragments": None}
        assert receive(masked(BINARY, length=(1 << 63) - 1), **limits) == []
        many = masked(BINARY, fin=False) + 5000 * masked(CONTINUATION, fin=False) + masked(CONTINUATION)
        assert receive(many, **limits) == [Message(b"", False)]

    def test_what_is_announced_costs_nothing(self) -> None:
        endpoints = [server(max_message_size=None) for _ in range(50)]
        tracemalloc.start()
        try:
            for endpoint in endpoints:
                assert list(endpoint.receive(masked(BINARY, b"some", length=1 << 30))) == []
                receiver = endpoint.receiver
                buffer = receiver.get_buffer()
                assert buffer is not None
                buffer.release()
            assert tracemalloc.get_traced_memory()[1] < 50 * 64 * 1024
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("payload", [b"", b"x"])
    def test_fragments_are_counted_empty_ones_too(self, payload: bytes) -> None:
        begun = masked(TEXT, payload, fin=False) + masked(CONTINUATION, payload, fin=False)
        whole = begun + masked(CONTINUATION, payload)
        assert receive_three_ways(whole + whole, max_fragments=3) == 2 * [Message(3 * payload.decode(), True)]
        more = begun + masked(CONTINUATION, payload, fin=False) + masked(CONTINUATION, length=5)
        assert "max_fragments" in refuse(more, 1008, max_fragments=3)

    def test_by_default_4096_fragments_pass(self) -> None:
        begun = masked(BINARY, fin=False) + 4094 * masked(CONTINUATION, fin=False)
        assert receive(begun + masked(CONTINUATION)) == [Message(b"", False)]
        with pytest.raises(ProtocolError) as caught:
            receive(begun + 2 * masked(CONTINUATION, fin=False))
        assert caught.value.close_code == CloseCode.POLICY_VIOLATION

    def test_by_default_a_mebibyte_passes(self) -> None:
        assert receive(masked(BINARY, bytes(1 << 20))) == [Message(bytes(1 << 20), False)]
        refuse(masked(BINARY, length=(1 << 20) + 1), 1009)

    def test_control_frames_count_for_nothing(self) -> None:
        wire = masked(BINARY, b"a", fin=False) + 9 * masked(PING, b"?") + masked(CONTINUATION, b"b")
        assert receive(wire, max_message_size=2, max_fragments=2)[-1] == Message(b"ab", False)


BAD_TEXT = [
    b"\x80",
    b"ab\xff",
    b"\xc0",  # overlong
    b"\xe0\x80",
    b"\xf0\x80",
    b"\xed\xa0",  # a surrogate
    b"\xf4\x90",  # beyond U+10FFFF
    b"\xf5",
    "κόσμε".encode() + b"\xed\xa0",
]


class TestText:
    """Section 8.1."""

    @pytest.mark.parametrize("text", ["", "é", "κόσμε", "\U0010ffff", "\0\x7f\u0080\ud7ff\ue000\uffff"])
    def test_valid_text_in_any_pieces(self, text: str) -> None:
        data = text.encode()
        assert receive_three_ways(masked(TEXT, data)) == [Message(text, True)]
        for at in range(len(data) + 1):
            wire = masked(TEXT, data[:at], fin=False) + masked(CONTINUATION, data[at:])
            assert receive_three_ways(wire) == [Message(text, True)]

    @pytest.mark.parametrize("bad", BAD_TEXT)
    def test_the_first_bad_byte_fails_inside_a_frame(self, bad: bytes) -> None:
        refuse(masked(TEXT, bad + bytes(100))[:-100], 1007)

    @pytest.mark.parametrize("bad", BAD_TEXT)
    def test_the_first_bad_byte_fails_across_fragments(self, bad: bytes) -> None:
        for at in range(len(bad)):
            begun = masked(TEXT, bad[:at], fin=False)
            refuse(begun + masked(CONTINUATION, bad[at:] + bytes(100))[:-100], 1007)

    @pytest.mark.parametrize("bad", [*BAD_TEXT, b"\xc3", b"\xe2\x82", "é".encode()[:1]])
    def test_a_whole_frame(self, bad: bytes) -> None:
        with pytest.raises(ProtocolError) as caught:
            receive(masked(TEXT, bad))
        assert caught.value.close_code == CloseCode.INVALID_PAYLOAD_DATA

    def test_an_unfinished_character_at_the_end(self) -> None:
        refuse(masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"\x82"), 1007)
        refuse(masked(TEXT, b"\xe2\x82", fin=False) + masked(CONTINUATION), 1007)

    def test_binary_is_anything(self) -> None:
        assert receive_three_ways(masked(BINARY, b"\xff\x80")) == [Message(b"\xff\x80", False)]
        wire = masked(BINARY, b"\xff", fin=False) + masked(CONTINUATION, b"\x80")
        assert receive_three_ways(wire) == [Message(b"\xff\x80", False)]

    def test_an_unfinished_text_leaves_no_trace(self) -> None:
        """What a message leaves behind must not spoil the next."""
        wire = masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"\x82\xac") + masked(TEXT, b"ok", fin=False)
        assert receive_three_ways(wire + masked(CONTINUATION)) == [Message("€", True), Message("ok", True)]


class TestPieces:
    """Messages as Fragment events."""

    def test_pieces_come_as_they_arrive(self) -> None:
        wire = masked(BINARY, b"abcd")
        endpoint = server(fragments=True)
        assert list(endpoint.receive(wire[:-2])) == [Fragment(b"ab", False, False)]
        assert list(endpoint.receive(wire[-2:])) == [Fragment(b"cd", False, True)]

    def test_empty_pieces_are_passed_over_but_for_the_last(self) -> None:
        wire = masked(BINARY, fin=False) + masked(CONTINUATION, b"a", fin=False) + masked(CONTINUATION)
        assert receive(wire, fragments=True) == [Fragment(b"a", False, False), Fragment(b"", False, True)]
        assert receive(masked(TEXT), fragments=True) == [Fragment("", True, True)]

    def test_no_character_is_split(self) -> None:
        text = "aé€\U0001f600"
        data = text.encode()
        for at, size in itertools.product(range(len(data) + 1), (1, 2, 3, 1000)):
            wire = masked(TEXT, data[:at], fin=False) + masked(PING) + masked(CONTINUATION, data[at:])
            pieces = [event for event in receive(*drip(wire, size), fragments=True) if isinstance(event, Fragment)]
            assert "".join(str(piece.data) for piece in pieces) == text
            assert [piece.fin for piece in pieces] == [False] * (len(pieces) - 1) + [True]
            assert all(piece.data or piece.fin for piece in pieces)

    def test_an_unfinished_character_at_the_end(self) -> None:
        refuse(masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION), 1007, fragments=True)

    @pytest.mark.parametrize("bad", BAD_TEXT)
    def test_the_first_bad_byte_fails(self, bad: bytes) -> None:
        refuse(masked(TEXT, bad + bytes(100))[:-100], 1007, fragments=True)

    def test_they_are_not_read_directly(self) -> None:
        receiver = Receiver(Role.SERVER, fragments=True)
        receiver.feed(masked(BINARY, length=10 * DIRECT))
        assert receiver.next_event() is None
        assert receiver.get_buffer() is None


class TestPiecesOfOneMessage:
    """begin_fragments and end_fragments: of one message, from the middle on if need be."""

    def test_of_the_next_message_alone(self) -> None:
        endpoint = server()
        assert endpoint.receiver.begin_fragments() is None
        wire = masked(TEXT, b"ab", fin=False) + masked(CONTINUATION, b"c")
        assert list(endpoint.receive(wire)) == [Fragment("ab", True, False), Fragment("c", True, True)]
        assert list(endpoint.receive(wire)) == [Message("abc", True)]

    def test_a_whole_message_is_the_one(self) -> None:
        endpoint = server()
        endpoint.receiver.begin_fragments()
        assert list(endpoint.receive(2 * masked(TEXT, b"a"))) == [Fragment("a", True, True), Message("a", True)]

    @pytest.mark.parametrize("size", [3, 3 * DIRECT])
    def test_of_the_message_under_way(self, size: int) -> None:
        endpoint = server()
        wire = masked(BINARY, bytes(size), fin=False) + masked(CONTINUATION, b"rest")
        assert list(endpoint.receive(wire[:-2])) == []
        assert endpoint.receiver.begin_fragments() == Fragment(bytes(size) + b"re", False, False)
        assert endpoint.receiver.get_buffer() is None
        assert list(endpoint.receive(wire[-2:])) == [Fragment(b"st", False, True)]

    def test_from_within_what_was_read_directly(self) -> None:
        receiver = Receiver(Role.SERVER)
        receiver.feed(masked(BINARY, length=2 * DIRECT))
        assert receiver.next_event() is None
        buffer = receiver.get_buffer()
        assert buffer is not None
        buffer[:DIRECT] = bytes(DIRECT)
        receiver.buffer_updated(buffer, DIRECT)
        assert receiver.begin_fragments() == Fragment(mask(bytes(DIRECT), KEY), False, False)
        receiver.feed(bytes(DIRECT))
        assert receiver.next_event() == Fragment(mask(bytes(DIRECT), KEY), False, True)

    @given(st.text(min_size=1), st.data())
    def test_from_any_byte_on(self, text: str, data: st.DataObject) -> None:
        wire = masked(TEXT, text.encode(), fin=False) + masked(CONTINUATION, text.encode())
        at = data.draw(st.integers(0, len(wire) - 1))
        endpoint = server(max_message_size=None)
        assert list(endpoint.receive(wire[:at])) == []
        first = endpoint.receiver.begin_fragments()
        pieces = [*([first] if first else []), *endpoint.receive(wire[at:])]
        assert all(isinstance(piece, Fragment) for piece in pieces)
        assert "".join(piece.data for piece in pieces) == 2 * text  # type: ignore[union-attr, misc]
        assert list(endpoint.receive(masked(TEXT, b"next"))) == [Message("next", True)]

    @given(st.text(min_size=1), st.data())
    def test_taken_back_before_a_piece_has_come(self, text: str, data: st.DataObject) -> None:
        """Not one byte of the message is lost, nor of a character of which the beginning came meanwhile."""
        wire = masked(TEXT, text.encode())
        at = data.draw(st.integers(0, len(wire) - 1))
        endpoint = server()
        endpoint.receiver.begin_fragments()
        pieces = list(endpoint.receive(wire[:at]))
        endpoint.receiver.end_fragments()
        rest = list(endpoint.receive(wire[at:] + masked(TEXT, b"next")))
        if pieces:
            assert "".join(piece.data for piece in (*pieces, *rest[:-1])) == text  # type: ignore[union-attr, misc]
        else:
            assert rest[:-1] == [Message(text, True)]
        assert rest[-1] == Message("next", True)

    def test_asked_for_again_within_the_message_it_holds_for_the_next(self) -> None:
        endpoint = server()
        endpoint.receiver.begin_fragments()
        assert len(list(endpoint.receive(masked(TEXT, b"a", fin=False)))) == 1
        endpoint.receiver.begin_fragments()
        rest = masked(CONTINUATION, b"b")
        assert list(endpoint.receive(rest + masked(TEXT, b"c"))) == [
            Fragment("b", True, True),
            Fragment("c", True, True),
        ]
        assert list(endpoint.receive(masked(TEXT, b"d"))) == [Message("d", True)]

    def test_asked_for_again_and_taken_back_it_does_not(self) -> None:
        endpoint = server()
        endpoint.receiver.begin_fragments()
        assert len(list(endpoint.receive(masked(TEXT, b"a", fin=False)))) == 1
        endpoint.receiver.begin_fragments()
        endpoint.receiver.end_fragments()
        rest = masked(CONTINUATION, b"b")
        assert list(endpoint.receive(rest + masked(TEXT, b"c"))) == [Fragment("b", True, True), Message("c", True)]

    def test_where_all_messages_come_so_nothing_changes(self) -> None:
        endpoint = server(fragments=True)
        assert list(endpoint.receive(masked(TEXT, b"a\xe2", fin=False))) == [Fragment("a", True, False)]
        assert endpoint.receiver.begin_fragments() is None
        endpoint.receiver.end_fragments()
        assert list(endpoint.receive(masked(CONTINUATION, b"\x82\xac"))) == [Fragment("\u20ac", True, True)]


class TestClose:
    @pytest.mark.parametrize(
        ("payload", "code", "reason"),
        [
            (b"", 1005, ""),
            (b"\x03\xe8", 1000, ""),
            (b"\x03\xe9bye", 1001, "bye"),
            (b"\x0b\xb8" + "é".encode(), 3000, "é"),
            (b"\x13\x87" + bytes(123), 4999, 123 * "\0"),
        ],
    )
    def test_what_it_says(self, payload: bytes, code: int, reason: str) -> None:
        assert receive_three_ways(masked(CLOSE, payload)) == [Closed(code, reason)]

    @pytest.mark.parametrize("payload", [b"\x03", b"\x00\x00", b"\x03\xe7", b"\x03\xed", b"\x03\xee", b"\x13\x88"])
    def test_what_it_may_not_say(self, payload: bytes) -> None:
        refuse(masked(CLOSE, payload), 1002)

    def test_its_reason_is_text(self) -> None:
        refuse(masked(CLOSE, b"\x03\xe8\xff"), 1007)

    def test_nothing_after_it_counts(self) -> None:
        endpoint = server()
        bad = masked(3) + masked(TEXT, b"\xff") + masked(CLOSE, b"\x03")
        assert list(endpoint.receive(masked(TEXT, b"a") + masked(CLOSE) + masked(TEXT, b"b") + bad)) == [
            Message("a", True),
            Closed(1005, ""),
        ]
        buffered = endpoint.receiver.buffered
        assert list(endpoint.receive(masked(TEXT, b"c") + bad)) == []
        assert endpoint.receiver.buffered == buffered  # nor is it kept
        assert endpoint.receiver.closed


class TestExtensions:
    """Section 9.2: extensions between frames and messages."""

    def test_a_message_is_decoded_where_its_bit_says_so(self) -> None:
        wire = masked(TEXT, b"olleH", rsv=4) + masked(TEXT, b"Hello")
        for _ in range(2):
            codecs = [toy()]
            assert receive_three_ways(wire, codecs=codecs) == 2 * [Message("Hello", True)]

    def test_over_fragments_and_with_control_frames_between(self) -> None:
        wire = masked(TEXT, b"ol", rsv=4, fin=False) + masked(PING) + masked(CONTINUATION, b"leH")
        assert receive_three_ways(wire, codecs=[toy()]) == [Ping(b""), Message("Hello", True)]
        assert receive(wire, codecs=[toy()], fragments=True) == [Ping(b""), Fragment("Hello", True, True)]
        wire = masked(TEXT, b"olleH", rsv=4, fin=False) + masked(CONTINUATION)  # the decoder is told of the end
        assert receive_three_ways(wire, codecs=[toy()]) == [Message("Hello", True)]

    def test_several_decode_in_reverse_order(self) -> None:
        theirs, ours = deflate()
        for codecs, mine in (([theirs, toy(2)], [ours, toy(2)]), ([toy(2), theirs], [toy(2), ours])):
            sender, receiver = client(codecs=mine, fragment_size=3), server(codecs=codecs)
            wire = sender.send_message("Hello Hello Hello")
            assert read_frames(wire)[0].rsv == 6
            assert list(receiver.receive(wire)) == [Message("Hello Hello Hello", True)]

    def test_a_bit_that_its_extension_does_not_claim(self) -> None:
        class Shy(Decoder):
            pass

        codec = Codec(Toy(), [], Encoder(), Shy())
        refuse(masked(TEXT, b"?", rsv=4)[:-1], match="RSV", codecs=[codec])

    def test_decoders_are_asked_about_marked_messages_only(self) -> None:
        """However the others arrive: as a whole, in fragments or in pieces."""
        codec = toy()
        wire = masked(TEXT, b"a") + masked(TEXT, b"b", fin=False) + masked(CONTINUATION, b"c")
        assert receive(wire, *drip(wire), codecs=[codec]) == 2 * [Message("a", True), Message("bc", True)]
        assert isinstance(codec.decoder, Reverse)
        assert codec.decoder.begun == []
        assert receive(masked(TEXT, b"ba", rsv=4), codecs=[codec]) == [Message("ab", True)]
        assert codec.decoder.begun == [4]

    def test_bits_on_continuations_and_control_frames(self) -> None:
        refuse(masked(TEXT, b"a", fin=False) + masked(CONTINUATION, rsv=4)[:2], codecs=[toy()])
        refuse(masked(PING, rsv=4)[:2], codecs=[toy()])

    def test_the_limit_is_for_what_was_decoded(self) -> None:
        theirs, ours = deflate()
        wire = client(codecs=[ours]).send_message(bytes(1000))
        assert len(wire) < 50
        assert list(server(codecs=[theirs], max_message_size=1000).receive(wire)) == [Message(bytes(1000), False)]
        theirs, ours = deflate()
        wire = client(codecs=[ours], fragment_size=5).send_message(bytes(1001))
        with pytest.raises(ProtocolError) as caught:
            list(server(codecs=[theirs], max_message_size=1000).receive(wire))
        assert caught.value.close_code == CloseCode.MESSAGE_TOO_BIG

    def test_what_goes_over_the_wire_may_be_longer(self) -> None:
        theirs, ours = deflate()
        noise = Random(0).randbytes(1000)
        wire = client(codecs=[ours]).send_message(noise)
        assert len(read_frames(wire)[0].payload) > 1000
        assert receive(*drip(wire, 100), codecs=[theirs], max_message_size=1000) == [Message(noise, False)]

    def test_the_limit_holds_for_a_decoder_that_forgets_it(self) -> None:
        class Tenfold(Decoder):
            def begin(self, rsv: int) -> bool:
                return True

            def decode(self, data: Any, fin: bool, max_size: int | None) -> bytes:
                return 10 * bytes(data)

        codecs = [Codec(Toy(), [], Encoder(), Tenfold())]
        assert receive(masked(BINARY, b"ab", rsv=4), codecs=codecs, max_message_size=20) == [Message(b"ab" * 10, False)]
        with pytest.raises(ProtocolError, match="max_message_size") as caught:
            receive(masked(BINARY, b"abc", rsv=4), codecs=codecs, max_message_size=20)
        assert caught.value.close_code == CloseCode.MESSAGE_TOO_BIG

    def test_decoded_text_is_checked(self) -> None:
        refuse(masked(TEXT, b"\xa0\xed", rsv=4), 1007, codecs=[toy()])

    def test_encoded_messages_are_not_read_directly(self) -> None:
        receiver = Receiver(Role.SERVER, codecs=[toy()])
        receiver.feed(masked(BINARY, rsv=4, length=10 * DIRECT))
        assert receiver.next_event() is None
        assert receiver.get_buffer() is None

    def test_the_encoder_learns_what_it_may_know(self) -> None:
        class Curious(Encoder):
            def begin(self, *, text: bool, size: int | None, compress: bool | None) -> int:
                learnt.append((text, size, compress))
                return 0

        learnt: list[tuple[bool, int | None, bool | None]] = []
        endpoint = server(codecs=[Codec(Toy(), [], Curious(), Decoder())])
        endpoint.send_message("é")
        endpoint.send_message(b"abc", compress=True)
        assert learnt == [(True, 2, None), (False, 3, True)]


def plain(events: list[Event]) -> list[Event]:
    """Text as str, however the receiver gave it."""
    return [
        Message(event.data.decode(), True) if isinstance(event, Message) and event.text and type(event.data) is bytes
        else event
        for event in events
    ]  # fmt: skip


def read_directly(wire: bytes, cuts: list[int], receiver: Receiver) -> tuple[list[Event], str, int]:
    """Feed the pieces, directly where the receiver offers it; return events, error, and how often it did."""
    events: list[Event] = []
    direct = 0
    try:
        for start, end in itertools.pairwise([0, *sorted(cuts), len(wire)]):
            piece = wire[start:end]
            while piece:
                buffer = receiver.get_buffer()
                if buffer is None:
                    receiver.feed(piece)
                    size = len(piece)
                else:
                    with buffer:
                        size = min(len(buffer), len(piece))
                        buffer[:size] = piece[:size]
                        receiver.buffer_updated(buffer, size)
                    direct += 1
                piece = piece[size:]
                while (event := receiver.next_event()) is not None:
                    events.append(event)
    except ProtocolError as error:
        return plain(events), str(error.close_code), direct
    return plain(events), "", direct


LARGE = 3 * DIRECT


class TestDirectReads:
    """Bytes that go from the socket straight into their message."""

    def begin(self, wire: bytes, role: Role = Role.SERVER, **options: Any) -> Receiver:
        receiver = Receiver(role, **options)
        receiver.feed(wire)
        assert receiver.next_event() is None
        return receiver

    def test_offered_only_inside_a_large_payload(self) -> None:
        receiver = Receiver(Role.SERVER)
        assert receiver.get_buffer() is None
        receiver.feed(masked(BINARY, length=LARGE)[:5])
        assert receiver.next_event() is None
        assert receiver.get_buffer() is None  # the header is not complete
        receiver.feed(masked(BINARY, length=LARGE)[5:] + b"x")
        assert receiver.get_buffer() is None  # there are bytes to be taken first
        assert receiver.next_event() is None
        buffer = receiver.get_buffer()
        assert buffer is not None
        buffer.release()
        assert self.begin(masked(BINARY, length=DIRECT - 1)).get_buffer() is None

    def test_not_before_what_was_fed_is_taken(self) -> None:
        receiver = self.begin(masked(BINARY, length=LARGE))
        receiver.feed(b"x")
        assert receiver.get_buffer() is None
        assert receiver.next_event() is None
        buffer = receiver.get_buffer()
        assert buffer is not None
        buffer.release()

    def test_it_counts_for_the_limit(self) -> None:
        receiver = self.begin(masked(BINARY, fin=False, length=DIRECT), max_message_size=DIRECT + 5)
        buffer = receiver.get_buffer()
        assert buffer is not None
        receiver.buffer_updated(buffer, DIRECT)
        assert receiver.next_event() is None
        receiver.feed(masked(CONTINUATION, length=6))
        with pytest.raises(ProtocolError, match="max_message_size"):
            receiver.next_event()

    def test_one_read_is_bounded(self) -> None:
        receiver = self.begin(masked(BINARY, length=1 << 40), max_message_size=None)
        got = 0
        while got < 4 << 20:
            buffer = receiver.get_buffer()
            assert buffer is not None
            with buffer:
                size = len(buffer)
                assert 0 < size <= 1 << 20
                receiver.buffer_updated(buffer, size)
            got += size
            assert receiver.next_event() is None

    def test_nothing_is_read_past_the_frame(self) -> None:
        receiver = self.begin(masked(BINARY, length=DIRECT))
        buffer = receiver.get_buffer()
        assert buffer is not None
        with buffer:
            assert len(buffer) <= DIRECT

    def test_the_buffer_is_given_back(self) -> None:
        receiver = self.begin(masked(BINARY, length=LARGE))
        for _ in range(2):
            buffer = receiver.get_buffer()
            assert buffer is not None
            receiver.buffer_updated(buffer, 1)
            with pytest.raises(ValueError, match="released"):
                len(buffer)

    def test_what_is_fed_behind_it_comes_behind_it(self) -> None:
        receiver = self.begin(masked(BINARY, length=DIRECT))
        buffer = receiver.get_buffer()
        assert buffer is not None
        receiver.buffer_updated(buffer, DIRECT)
        receiver.feed(masked(PING, b"behind"))
        assert isinstance(receiver.next_event(), Message)
        assert receiver.next_event() == Ping(b"behind")
        assert receiver.next_event() is None

    @pytest.mark.parametrize("bad", BAD_TEXT)
    def test_text_fails_at_the_first_bad_byte(self, bad: bytes) -> None:
        for data in (bad, 1000 * b"a" + bad):
            receiver = self.begin(masked(TEXT, data + bytes(LARGE))[:8])
            assert receiver.next_event() is None
            wire = masked(TEXT, data + bytes(LARGE))
            head = len(wire) - LARGE - len(data)
            receiver = self.begin(wire[:head])
            buffer = receiver.get_buffer()
            assert buffer is not None
            with buffer:
                buffer[: len(data)] = wire[head : head + len(data)]
                with pytest.raises(ProtocolError) as caught:
                    receiver.buffer_updated(buffer, len(data))
            assert caught.value.close_code == CloseCode.INVALID_PAYLOAD_DATA

    def test_text_that_ends_in_the_middle_of_a_character(self) -> None:
        whole = masked(TEXT, bytes(LARGE) + b"\xe2\x82")
        for wire in (whole, masked(TEXT, bytes(LARGE) + b"\xe2", fin=False) + masked(CONTINUATION)):
            events, error, direct = read_directly(wire, [100], Receiver(Role.SERVER))
            assert (events, error) == ([], "1007")
            assert direct

    @given(st.data())
    def test_any_split_gives_what_feeding_gives(self, data: st.DataObject) -> None:
        sizes = st.sampled_from([0, 5, DIRECT - 1, DIRECT, DIRECT + 1, LARGE])
        wire, expected = b"", []
        for text, size, parts in data.draw(st.lists(st.tuples(st.booleans(), sizes, st.integers(1, 3)), max_size=3)):
            payload = ("é" * (size // 2 + 1)).encode()[:-2] if text else bytes(i % 251 for i in range(size))
            expected.append(Message(payload.decode() if text else payload, text))
            step = max(1, -(-len(payload) // parts))
            pieces = drip(payload, step) or [b""]
            for i, piece in enumerate(pieces):
                opcode = CONTINUATION if i else TEXT if text else BINARY
                wire += masked(opcode, piece, fin=i == len(pieces) - 1)
        cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8))
        events, error, _ = read_directly(wire, cuts, Receiver(Role.SERVER, max_message_size=LARGE))
        assert (events, error) == (expected, "")

    def test_most_of_a_large_message_goes_this_way(self) -> None:
        wire = masked(BINARY, bytes(1 << 20))
        _, _, direct = read_directly(wire, list(range(0, len(wire), 1 << 16)), Receiver(Role.SERVER))
        assert direct > 10

    def test_unmasked_too(self) -> None:
        wire = frame(BINARY, bytes(range(256)) * 256)
        events, _, direct = read_directly(wire, [100, 1000], Receiver(Role.CLIENT))
        assert events == [Message(bytes(range(256)) * 256, False)]
        assert direct


MESSAGES = st.one_of(
    st.text(max_size=300), st.binary(max_size=300), st.binary(max_size=3).map(lambda seed: seed * 20_000)
)
STEPS = st.lists(st.one_of(MESSAGES, st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))), max_size=6)


class TestEndpoint:
    """What it adds to its halves."""

    def test_what_came_before_a_violation_is_not_lost(self) -> None:
        events = server().receive(masked(TEXT, b"a") + masked(PING) + masked(3))
        assert [next(events), next(events)] == [Message("a", True), Ping(b"")]
        with pytest.raises(ProtocolError, match="opcode"):
            next(events)

    def test_bytes_are_taken_though_nobody_iterates(self) -> None:
        endpoint = server()
        endpoint.receive(masked(TEXT, b"a")[:3])
        assert list(endpoint.receive(masked(TEXT, b"a")[3:])) == [Message("a", True)]

    def test_text_is_str_however_it_came(self) -> None:
        wire = masked(TEXT, "é".encode())
        for feeds in ([wire], drip(wire), [masked(TEXT, fin=False), masked(CONTINUATION, "é".encode())]):
            assert receive(*feeds) == [Message("é", True)]

    def test_a_memoryview_of_other_items_is_its_bytes(self) -> None:
        view = memoryview(array("I", range(20_000)))
        for role in Role:
            sender = Endpoint(role, new_key=lambda: KEY)
            [got] = read_frames(sender.send_message(view))
            assert got.payload == view.tobytes()

    @pytest.mark.parametrize("message", [5, None, ["a"], 1.5])
    def test_anything_else_is_no_message(self, message: Any) -> None:
        with pytest.raises(TypeError):
            server().send_message(message)

    @pytest.mark.parametrize("endpoint", [server, client])
    def test_a_control_frame_holds_125_bytes(self, endpoint: Callable[[], Endpoint]) -> None:
        assert read_frames(endpoint().send_ping(bytes(125)))[0].payload == bytes(125)
        for send in (endpoint().send_ping, endpoint().send_pong):
            with pytest.raises(ValueError, match="125"):
                send(bytes(126))

    def test_nothing_is_sent_after_a_close(self) -> None:
        endpoint = server()
        endpoint.send_close()
        for send in (endpoint.send_ping, endpoint.send_pong, endpoint.send_close, lambda: endpoint.send_message("a")):
            with pytest.raises(RuntimeError, match="Close"):
                send()
        assert list(endpoint.receive(masked(TEXT, b"still heard"))) == [Message("still heard", True)]


class TestBothSides:
    """What one endpoint sends, the other receives."""

    @given(STEPS, st.sampled_from([None, 1, 7, 20_000]), st.booleans(), st.sampled_from(Role), st.data())
    def test_any_conversation(
        self, steps: list[Any], fragment_size: int | None, compress: bool, role: Role, data: st.DataObject
    ) -> None:
        if fragment_size == 1:
            steps = [step[:100] if isinstance(step, (str, bytes)) else step for step in steps]
        theirs, ours = deflate()
        sender = Endpoint(role, new_key=lambda: KEY, fragment_size=fragment_size, codecs=[ours] if compress else [])
        other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        options: dict[str, Any] = {"max_message_size": 60_000, "max_fragments": 60_000}
        receiver = Endpoint(other, new_key=lambda: KEY, codecs=[theirs] if compress else [], **options)
        wire, expected = b"", []
        for step in steps:
            if isinstance(step, (str, bytes)):
                wire += sender.send_message(step)
                expected.append(Message(step, isinstance(step, str)))
            else:
                opcode, payload = step
                wire += sender.send_ping(payload) if opcode == PING else sender.send_pong(payload)
                expected.append(Ping(payload) if opcode == PING else Pong(payload))
        wire += sender.send_close(4000, "bye")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
        events: list[Event] = []
        for start, end in itertools.pairwise([0, *cuts, len(wire)]):
            events += receiver.receive(wire[start:end])
        assert events == [*expected, Closed(4000, "bye")]

    @given(st.binary(max_size=200), st.booleans())
    def test_whatever_comes_gives_events_or_a_protocol_error(self, wire: bytes, fragments: bool) -> None:
        outcomes = []
        for feeds in ([wire], drip(wire)):
            endpoint = client(fragments=fragments, max_message_size=100)
            events: list[Event] = []
            outcome = "open"
            try:
                for feed in feeds:
                    endpoint.receiver.feed(feed)
                    while (event := endpoint.receiver.next_event()) is not None:
                        events.append(event)
            except ProtocolError as error:
                assert error.close_code in (1002, 1007, 1008, 1009)
                outcome = "failed"
            messages = [event for event in plain(events) if not isinstance(event, Fragment)]
            outcomes.append((messages, outcome))
        assert outcomes[0] == outcomes[1]

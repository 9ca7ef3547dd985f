"""One frame from and to bytes (RFC 6455, sections 5.2 to 5.7)."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from websocketserver.exceptions import ProtocolError

KEY = b"\x37\xfa\x21\x3d"
OPCODES = [0, 1, 2, 8, 9, 10]
DATA, CONTROL = OPCODES[:3], OPCODES[3:]
BOUNDS = [0, 1, 125, 126, 127, 65535, 65536, 70000]


def raw(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, key: bytes | None = None) -> bytes:
    """Build a frame by the book (5.2)."""
    size = len(payload)
    short, extended = (size, 0) if size < 126 else (126, 2) if size < 65536 else (127, 8)
    head = bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
    head += size.to_bytes(8, "big")[8 - extended :]
    if key is None:
        return head + payload
    pad = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return head + key + (int.from_bytes(payload, "big") ^ pad).to_bytes(size, "big")


def header(first: int, second: int, length: bytes = b"", key: bytes = b"") -> bytes:
    return bytes([first, second]) + length + key


def join(pieces: list) -> list[tuple]:
    """Join the pieces of data frames to (opcode, fin, rsv, length, payload); the last may be incomplete."""
    joined, payloads = [], []
    for piece in pieces:
        payloads.append(piece.payload)
        if piece.complete:
            payload = b"".join(payloads)
            assert len(payload) == piece.length
            joined.append((piece.opcode, piece.fin, piece.rsv, piece.length, payload))
            payloads.clear()
    assert not any(payloads)
    return joined


def drain(parser) -> list:
    return list(iter(parser.next_frame, None))


def drip(data: bytes) -> Iterator[bytes]:
    """Yield it byte by byte, but what lies far from both ends of much in pieces of 29."""
    start = 0
    while start < len(data):
        size = 29 if 500 <= start < len(data) - 500 else 1
        yield data[start : start + size]
        start += size


class Side:
    """One role: a server wants masked frames, a client unmasked ones."""

    def __init__(self, frames, masked: bool) -> None:
        self.frames = frames
        self.masked = masked
        self.key = KEY if masked else None

    def parser(self, **options):
        return self.frames.FrameParser(masked=self.masked, **options)

    def raw(self, opcode: int, payload: bytes, **options) -> bytes:
        return raw(opcode, payload, key=self.key, **options)

    def header(self, first: int, second: int, length: bytes = b"") -> bytes:
        return header(first, second | (0x80 if self.masked else 0), length, self.key or b"")

    def parse_three_ways(self, data: bytes, **options) -> list[tuple]:
        """Parse whole, byte by byte, and with the next frame glued on; return the frames, which must be the same."""
        whole = self.parser(**options)
        whole.feed(data)
        result = join(drain(whole))
        assert whole.buffered == whole.remaining == 0

        dripped, pieces = self.parser(**options), []
        for piece in drip(data):
            dripped.feed(piece)
            pieces += drain(dripped)
        assert join(pieces) == result

        glued = self.parser(**options)
        glued.feed(data + self.raw(9, b"next"))
        assert join(drain(glued)) == [*result, (9, True, 0, 4, b"next")]
        return result

    def refuse_three_ways(self, data: bytes, message: str, close_code: int = 1002, **options) -> None:
        """Refuse whole, byte by byte (not before the last byte) and with more behind."""
        whole = self.parser(**options)
        whole.feed(data)
        dripped = self.parser(**options)
        for i in range(len(data) - 1):
            dripped.feed(data[i : i + 1])
            assert dripped.next_frame() is None
        dripped.feed(data[-1:])
        glued = self.parser(**options)
        glued.feed(self.raw(9, b"before") + data + bytes(200))
        assert glued.next_frame() == (9, True, 0, 6, b"before", True)
        for parser in (whole, dripped, glued):
            for _ in range(2):  # it stays refused
                with pytest.raises(ProtocolError) as caught:
                    parser.next_frame()
                assert (str(caught.value), caught.value.close_code) == (message, close_code)


@pytest.fixture(params=[True, False], ids=["server", "client"])
def side(request, frames) -> Side:
    return Side(frames, request.param)


class TestFrames:
    """What the parser accepts."""

    def test_rfc_examples(self, frames):  # 5.7
        server, client = Side(frames, True), Side(frames, False)
        assert client.parse_three_ways(b"\x81\x05Hello") == [(1, True, 0, 5, b"Hello")]
        assert server.parse_three_ways(b"\x81\x85" + KEY + b"\x7f\x9f\x4d\x51\x58") == [(1, True, 0, 5, b"Hello")]
        fragments = client.parse_three_ways(b"\x01\x03Hel\x80\x02lo")
        assert fragments == [(1, False, 0, 3, b"Hel"), (0, True, 0, 2, b"lo")]
        assert client.parse_three_ways(b"\x89\x05Hello") == [(9, True, 0, 5, b"Hello")]
        assert server.parse_three_ways(b"\x8a\x85" + KEY + b"\x7f\x9f\x4d\x51\x58") == [(10, True, 0, 5, b"Hello")]
        assert client.parse_three_ways(b"\x82\x7e\x01\x00" + bytes(256)) == [(2, True, 0, 256, bytes(256))]
        assert client.parse_three_ways(b"\x82\x7f" + (65536).to_bytes(8, "big") + bytes(65536))[0][3] == 65536

    @pytest.mark.parametrize("opcode", OPCODES)
    @pytest.mark.parametrize("payload", [b"", b"x", b"payload", bytes(range(125))])
    def test_every_opcode(self, side, opcode, payload):
        assert side.parse_three_ways(side.raw(opcode, payload)) == [(opcode, True, 0, len(payload), payload)]

    @pytest.mark.parametrize("opcode", DATA)
    def test_unfinished_data_frames(self, side, opcode):
        assert side.parse_three_ways(side.raw(opcode, b"part", fin=False)) == [(opcode, False, 0, 4, b"part")]

    @pytest.mark.parametrize("size", BOUNDS)
    def test_every_length_encoding(self, side, size):
        payload = bytes(i % 251 for i in range(size))
        assert side.parse_three_ways(side.raw(2, payload)) == [(2, True, 0, size, payload)]

    @pytest.mark.parametrize("rsv", range(8))
    def test_reserved_bits_that_extensions_use(self, side, rsv):
        assert side.parse_three_ways(side.raw(1, b"x", rsv=rsv), rsv=rsv) == [(1, True, rsv, 1, b"x")]
        assert side.parse_three_ways(side.raw(2, b"x" * 200, rsv=rsv, fin=False), rsv=7)[0][:3] == (2, False, rsv)

    def test_control_frames_between_fragments(self, side):
        data = side.raw(1, b"a" * 300, fin=False) + side.raw(9, b"ping") + side.raw(0, b"b") + side.raw(8, b"\x03\xe8")
        assert [frame[0] for frame in side.parse_three_ways(data)] == [1, 9, 0, 8]

    def test_opcode_is_an_int_that_equals_its_name(self, side):
        parser = side.parser()
        parser.feed(side.raw(9, b"") + side.raw(2, b"x" * 300))
        for name in (side.frames.Opcode.PING, side.frames.Opcode.BINARY):
            frame = parser.next_frame()
            assert frame.opcode == name
            assert [type(value) for value in frame] == [int, bool, int, int, bytes, bool]

    def test_fields_have_names(self, side):
        parser = side.parser(rsv=4)
        parser.feed(side.raw(1, b"abc", rsv=4))
        frame = parser.next_frame()
        assert (frame.opcode, frame.fin, frame.rsv, frame.length, frame.payload, frame.complete) == frame
        assert frame == (1, True, 4, 3, b"abc", True)
        assert repr(frame).startswith("Frame(opcode=1, fin=True")
        assert hash(frame) == hash((1, True, 4, 3, b"abc", True))


class TestPieces:
    """Data frames that are not here as a whole."""

    @pytest.mark.parametrize("size", [2, 125, 126, 70000])
    def test_the_first_piece_comes_with_the_header(self, side, size):
        data = side.raw(2, b"x" * size, fin=False)
        start = len(data) - size
        parser = side.parser()
        parser.feed(data[:start])
        assert parser.next_frame() == (2, False, 0, size, b"", False)
        assert (parser.remaining, parser.buffered) == (size, 0)
        assert parser.next_frame() is None
        parser.feed(data[start : start + 1])
        assert parser.buffered == 1
        assert parser.next_frame() == (2, False, 0, size, b"x", False)
        assert parser.next_frame() is None
        parser.feed(data[start + 1 :])
        assert parser.next_frame() == (2, False, 0, size, b"x" * (size - 1), True)
        assert (parser.remaining, parser.buffered) == (0, 0)
        assert parser.next_frame() is None

    def test_no_piece_before_the_header_is_complete(self, side):
        data = side.raw(2, b"x" * 70000)
        parser = side.parser()
        parser.feed(data[: len(data) - 70001])
        assert parser.next_frame() is None
        assert (parser.remaining, parser.buffered) == (0, len(data) - 70001)

    def test_an_empty_frame_is_one_complete_piece(self, side):
        parser = side.parser()
        parser.feed(side.raw(0, b"", fin=False))
        assert parser.next_frame() == (0, False, 0, 0, b"", True)

    def test_control_frames_come_whole_only(self, side):
        data = side.raw(9, b"x" * 125)
        parser = side.parser()
        for i in range(len(data) - 1):
            parser.feed(data[i : i + 1])
            assert parser.next_frame() is None
            assert parser.remaining == 0
            assert parser.buffered == i + 1
        parser.feed(data[-1:])
        assert parser.next_frame() == (9, True, 0, 125, b"x" * 125, True)

    @pytest.mark.parametrize("cuts", [(1, 2), (3, 4), (5, 11), (17, 1000)])
    def test_pieces_of_any_size_are_unmasked_right(self, side, cuts):
        payload = bytes(i % 251 for i in range(5000))
        data = side.raw(2, payload) + side.raw(1, b"next")
        sizes, at, pieces, parser = itertools.cycle(cuts), 0, [], side.parser()
        while at < len(data):
            size = next(sizes)
            parser.feed(data[at : at + size])
            pieces += drain(parser)
            at += size
        assert join(pieces) == [(2, True, 0, 5000, payload), (1, True, 0, 4, b"next")]

    def test_fed_many_times_before_it_is_asked(self, side):
        data = b"".join(side.raw(1, b"%d" % i) for i in range(2000))
        parser = side.parser()
        for i in range(len(data)):
            parser.feed(data[i : i + 1])
        assert parser.buffered == len(data)
        assert [frame.payload for frame in drain(parser)] == [b"%d" % i for i in range(2000)]

    def test_fed_faster_than_it_is_asked(self, side):
        parser, got = side.parser(), []
        for i in range(0, 3000, 3):
            parser.feed(b"".join(side.raw(1, b"%d" % n) for n in range(i, i + 3)))
            got.append(parser.next_frame().payload)
        got += [frame.payload for frame in drain(parser)]
        assert got == [b"%d" % i for i in range(3000)]


class TestUnmask:
    """Payload that was read straight into its final place."""

    def test_the_rest_of_a_frame(self, side):
        payload = bytes(i % 251 for i in range(70000))
        data = side.raw(2, payload)
        start = len(data) - 70000
        parser = side.parser()
        parser.feed(data[: start + 5])
        assert parser.next_frame().payload == payload[:5]
        place = bytearray(data[start + 5 :])
        for begin, end in ((0, 1), (1, 4099), (4099, len(place))):
            assert parser.remaining == len(place) - begin
            with memoryview(place)[begin:end] as view:
                parser.unmask(view)
        assert bytes(place) == payload[5:]
        assert parser.remaining == 0
        parser.feed(side.raw(1, b"next"))
        assert parser.next_frame() == (1, True, 0, 4, b"next", True)

    def test_in_turns_with_feeding(self, side):
        payload = bytes(range(100))
        data = side.raw(2, payload)
        start = len(data) - 100
        parser = side.parser()
        parser.feed(data[: start + 10])
        parser.next_frame()
        place = bytearray(data[start + 10 : start + 31])
        parser.unmask(memoryview(place))
        assert bytes(place) == payload[10:31]
        parser.feed(data[start + 31 :])
        assert parser.next_frame() == (2, True, 0, 100, payload[31:], True)

    def test_no_more_than_remains(self, side):
        parser = side.parser()
        parser.feed(side.raw(2, b"x" * 10)[:-4])
        parser.next_frame()
        with pytest.raises(ValueError, match="5 bytes to unmask, 0 buffered and 4 remaining"):
            parser.unmask(memoryview(bytearray(5)))
        assert parser.remaining == 4
        with pytest.raises(ValueError):
            side.parser().unmask(memoryview(bytearray(1)))
        side.parser().unmask(memoryview(bytearray()))

    def test_not_past_what_was_fed(self, side):
        parser = side.parser()
        parser.feed(side.raw(2, b"x" * 10)[:-4])
        parser.next_frame()
        parser.feed(b"a")
        with pytest.raises(ValueError, match="1 bytes to unmask, 1 buffered and 4 remaining"):
            parser.unmask(memoryview(bytearray(1)))


class TestRefusals:
    """Every rule of 5.2 and 5.5 that one frame can break."""

    @pytest.mark.parametrize("opcode", OPCODES)
    @pytest.mark.parametrize("rsv", range(1, 8))
    def test_reserved_bits_that_nobody_uses(self, side, opcode, rsv):
        side.refuse_three_ways(side.header(0x80 | rsv << 4 | opcode, 5)[:2], "reserved bits set", rsv=7 ^ rsv)

    @pytest.mark.parametrize("opcode", [0, 8, 9, 10])
    def test_only_the_first_frame_of_a_message_carries_reserved_bits(self, side, opcode):
        side.refuse_three_ways(side.header(0xC0 | opcode, 5)[:2], "reserved bits set", rsv=4)

    @pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
    @pytest.mark.parametrize("first", [0x00, 0x80])
    @pytest.mark.parametrize("second", [0, 125, 126, 127])
    def test_unknown_opcodes(self, side, opcode, first, second):
        data = side.header(first | opcode, second)[:2]
        side.refuse_three_ways(data, f"unknown opcode {opcode:#x}")

    @pytest.mark.parametrize("opcode", OPCODES)
    @pytest.mark.parametrize("length", [0, 5, 126, 127])
    def test_masking_of_the_wrong_side(self, frames, opcode, length):
        Side(frames, True).refuse_three_ways(header(0x80 | opcode, length), "frame is not masked")
        Side(frames, False).refuse_three_ways(header(0x80 | opcode, 0x80 | length), "frame is masked")

    @pytest.mark.parametrize("opcode", CONTROL)
    @pytest.mark.parametrize("length", [126, 127])
    def test_control_frames_of_more_than_125_bytes(self, side, opcode, length):
        side.refuse_three_ways(side.header(0x80 | opcode, length)[:2], "control frame of more than 125 bytes")

    @pytest.mark.parametrize("opcode", CONTROL)
    def test_fragmented_control_frames(self, side, opcode):
        side.refuse_three_ways(side.header(opcode, 5)[:2], "fragmented control frame")

    @pytest.mark.parametrize("length", [0, 1, 125])
    def test_short_lengths_in_two_bytes(self, side, length):
        data = side.header(0x82, 126, length.to_bytes(2, "big"))[:4]
        side.refuse_three_ways(data, "payload length not in its shortest form")

    @pytest.mark.parametrize("length", [0, 125, 126, 65535])
    def test_short_lengths_in_eight_bytes(self, side, length):
        data = side.header(0x82, 127, length.to_bytes(8, "big"))[:10]
        side.refuse_three_ways(data, "payload length not in its shortest form")

    @pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
    def test_lengths_with_the_highest_bit(self, side, length):
        data = side.header(0x82, 127, length.to_bytes(8, "big"))[:10]
        side.refuse_three_ways(data, "payload length with its highest bit set")

    def test_the_order_of_the_checks(self, side):
        other = 0 if side.masked else 0x80
        side.refuse_three_ways(bytes([0x0F | 0x70, other | 127]), "reserved bits set")
        side.refuse_three_ways(bytes([0x0F, other | 127]), "unknown opcode 0xf")
        wrong = "frame is not masked" if side.masked else "frame is masked"
        side.refuse_three_ways(bytes([0x08, other | 127]), wrong)
        side.refuse_three_ways(bytes([0x08, 0x80 - other | 127]), "control frame of more than 125 bytes")

    @pytest.mark.parametrize("rsv", [-1, 8])
    def test_reserved_bits_are_three(self, frames, rsv):
        with pytest.raises(ValueError, match=f"^rsv {rsv} out of its range$"):
            frames.FrameParser(masked=True, rsv=rsv)

    def test_options_are_keywords(self, frames):
        with pytest.raises(TypeError):
            frames.FrameParser(True)
        with pytest.raises(TypeError):
            frames.FrameParser()
        with pytest.raises(TypeError):
            frames.FrameParser(masked=True, max_length=5)


class TestLimit:
    """A frame that is too long is refused by its header (7.4.1, 10.4)."""

    @pytest.mark.parametrize("limit", [0, 1, 5, 124, 125, 126, 65535, 65536])
    def test_exactly_the_limit_passes_and_one_more_is_refused(self, side, limit):
        opcode = limit % 3
        assert side.parse_three_ways(side.raw(opcode, b"x" * limit), max_size=limit)[0][3] == limit
        data = side.raw(opcode, b"x" * (limit + 1))
        before_key = len(data) - limit - 1 - (4 if side.masked else 0)
        message = f"frame of {limit + 1} bytes, the limit is {limit} (max_frame_size)"
        side.refuse_three_ways(data[:before_key], message, 1009, max_size=limit)

    def test_the_largest_length_there_is(self, side):
        data = side.header(0x82, 127, ((1 << 63) - 1).to_bytes(8, "big"))
        side.refuse_three_ways(
            data[:10], f"frame of {(1 << 63) - 1} bytes, the limit is 1048576 (max_frame_size)", 1009, max_size=1 << 20
        )
        for limit in (None, (1 << 63) - 1, 1 << 63, 1 << 80):
            parser = side.parser(max_size=limit)
            parser.feed(data + b"x")
            frame = parser.next_frame()
            assert (frame.length, len(frame.payload), frame.complete) == ((1 << 63) - 1, 1, False)
            assert parser.remaining == (1 << 63) - 2

    @pytest.mark.parametrize("opcode", CONTROL)
    def test_control_frames_have_their_own_limit(self, side, opcode):
        assert side.parse_three_ways(side.raw(opcode, b"x" * 125), max_size=1)[0][3] == 125


class TestMemory:
    """Nothing is kept that was given out, nothing is made for what was only announced."""

    def test_a_drained_parser_lets_go_of_what_it_was_fed(self, side):
        for data in (side.raw(1, b"x" * 50) * 1000, side.raw(2, b"x" * 60000)):
            for tail in (b"", data[:1], side.raw(9, b"")[:-1]):
                parser = side.parser()
                fed = data + tail
                references = sys.getrefcount(fed)
                parser.feed(fed)
                drain(parser)
                assert parser.buffered == len(tail)
                assert sys.getrefcount(fed) == references
                assert sys.getsizeof(parser) < 500

    def test_the_last_frame_takes_the_buffer_with_it(self, side):
        fed = side.raw(2, b"x" * 60000) + side.raw(1, b"last")
        references = sys.getrefcount(fed)
        parser = side.parser()
        parser.feed(fed)
        assert (parser.next_frame().length, parser.next_frame().length) == (60000, 4)
        assert sys.getrefcount(fed) == references

    def test_a_parser_that_was_fed_in_drops_keeps_no_room(self, side):
        tracemalloc.start()
        try:
            parser = side.parser()
            before = tracemalloc.get_traced_memory()[0]
            data = side.raw(1, b"x" * 50) * 2000
            for i in range(0, len(data), 100):
                parser.feed(data[i : i + 100])
            del data
            while parser.next_frame() is not None:
                pass
            assert tracemalloc.get_traced_memory()[0] - before < 2000
        finally:
            tracemalloc.stop()

    def test_an_announced_payload_costs_nothing(self, side):
        tracemalloc.start()
        try:
            parser = side.parser()
            before = tracemalloc.get_traced_memory()[0]
            parser.feed(side.header(0x82, 127, (1 << 40).to_bytes(8, "big")))
            assert parser.next_frame().length == 1 << 40
            assert tracemalloc.get_traced_memory()[1] - before < 4000
        finally:
            tracemalloc.stop()


class TestSerialize:
    """Frames to bytes (5.2)."""

    @pytest.mark.parametrize("opcode", OPCODES)
    @pytest.mark.parametrize("fin", [True, False])
    @pytest.mark.parametrize("rsv", range(8))
    @pytest.mark.parametrize("key", [None, KEY])
    def test_every_first_byte(self, frames, opcode, fin, rsv, key):
        assert frames.serialize(opcode, b"payload", fin, rsv, key) == raw(opcode, b"payload", fin=fin, rsv=rsv, key=key)
        assert frames.serialize(opcode, b"", fin=fin, rsv=rsv, key=key) == raw(opcode, b"", fin=fin, rsv=rsv, key=key)

    @pytest.mark.parametrize("size", BOUNDS)
    @pytest.mark.parametrize("key", [None, KEY])
    def test_every_length_in_its_shortest_form(self, frames, size, key):
        payload = bytes(i % 251 for i in range(size))
        frame = raw(2, payload, key=key)
        assert frames.serialize(2, payload, key=key) == frame
        assert frames.serialize_header(2, size, key=key) == frame[: len(frame) - size]

    def test_header_of_the_longest_frame(self, frames):
        assert frames.serialize_header(2, (1 << 63) - 1, False, 4, KEY) == b"\x42\xff\x7f" + b"\xff" * 7 + KEY

    @pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(data).cast("I")])
    @pytest.mark.parametrize("key", [None, KEY])
    def test_any_buffer(self, frames, kind, key):
        payload = bytes(range(200))
        frame = frames.serialize(2, kind(payload), key=key)
        assert type(frame) is bytes
        assert frame == raw(2, payload, key=key)

    def test_what_is_serialized_is_parsed(self, side):
        frame = side.frames.serialize(1, b"Hello" * 100, False, 4, side.key)
        assert side.parse_three_ways(frame, rsv=4) == [(1, False, 4, 500, b"Hello" * 100)]

    @pytest.mark.parametrize("opcode", [-1, 16, 256, 1 << 70])
    def test_opcodes_out_of_their_range(self, frames, opcode):
        for function, payload in ((frames.serialize, b"x"), (frames.serialize_header, 1)):
            with pytest.raises(ValueError, match=f"^opcode {opcode} out of its range$"):
                function(opcode, payload)

    @pytest.mark.parametrize("rsv", [-1, 8, 1 << 70])
    def test_reserved_bits_out_of_their_range(self, frames, rsv):
        for function, payload in ((frames.serialize, b"x"), (frames.serialize_header, 1)):
            with pytest.raises(ValueError, match=f"^rsv {rsv} out of its range$"):
                function(1, payload, rsv=rsv)

    @pytest.mark.parametrize("length", [-1, 1 << 63, 1 << 64])
    def test_lengths_out_of_their_range(self, frames, length):
        with pytest.raises(ValueError, match=f"^length {length} out of its range$"):
            frames.serialize_header(1, length)

    @pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
    def test_a_key_has_four_bytes(self, frames, key):
        for act in (lambda: frames.serialize(1, b"x", key=key), lambda: frames.serialize_header(1, 5, key=key)):
            with pytest.raises(ValueError, match=f"masking key of {len(key)} bytes, not 4"):
                act()

    @pytest.mark.parametrize("payload", ["text", None, 5])
    def test_only_bytes(self, frames, payload):
        with pytest.raises(TypeError):
            frames.serialize(1, payload)
        with pytest.raises(TypeError):
            frames.serialize(1, payload, key=KEY)


class TestMessages:
    """What next_message gives, and what it leaves to next_frame."""

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 1024, 1025, 65535])
    @pytest.mark.parametrize("key", [None, KEY], ids=["client", "server"])
    def test_whole_messages_come_as_such(self, frames, key, size):
        parser = frames.FrameParser(masked=key is not None)
        text, data = "ü" * (size // 2) + "x" * (size % 2), bytes(range(256)) * (size // 256) + bytes(size % 256)
        parser.feed(raw(1, text.encode(), key=key) * 2 + raw(2, data, key=key) + b"\x81")
        assert parser.next_message(None, True) == (text, True)
        assert parser.next_message(size, False) == (text.encode(), True)
        assert parser.next_message(None, True) == (data, False)
        assert parser.next_message(None, True) is None
        assert parser.buffered == 1

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x81",
            raw(1, b"text")[:-1],
            raw(1, b"x" * 126)[:3],
            raw(1, b"text", fin=False),
            raw(0, b"text"),
            raw(1, b"text", rsv=4),
            raw(2, b"text", key=KEY),
            raw(9, b"ping"),
            raw(1, b"\xff"),
            raw(2, b"12345678901"),
            raw(2, bytes(65536)),
            b"\x82\x7e\x00\x04text",
        ],
    )
    def test_what_is_none_is_left_whole(self, frames, data):
        parser = frames.FrameParser(masked=False, rsv=4)
        parser.feed(raw(2, b"before"))
        parser.feed(data)
        assert parser.next_message(10, True) == (b"before", False)
        for decode in (True, False):
            assert parser.next_message(10, decode) is None
            assert parser.next_messages(10, decode, 1000, 1) == []
        assert (parser.buffered, parser.remaining) == (len(data), 0)

    def test_none_comes_in_the_middle_of_a_frame(self, frames):
        parser = frames.FrameParser(masked=False)
        inner = raw(2, b"inner")
        parser.feed(raw(2, inner)[:2])
        assert parser.next_frame().payload == b""
        parser.feed(inner)
        assert parser.next_message(None, True) is None
        assert parser.next_frame().payload == inner

    def test_the_limit_of_frames_holds(self, frames):
        parser = frames.FrameParser(masked=False, max_size=3)
        parser.feed(raw(2, b"123") + raw(2, b"1234"))
        assert parser.next_message(None, True) == (b"123", False)
        assert parser.next_message(None, True) is None
        with pytest.raises(ProtocolError):
            parser.next_frame()

    def test_many_come_until_they_take_the_room(self, frames):
        parser = frames.FrameParser(masked=False)
        parser.feed(raw(1, b"four") * 9 + raw(9, b""))
        assert parser.next_messages(None, True, 0, 64) == []
        assert parser.next_messages(None, True, 1, 64) == [("four", True)]
        assert parser.next_messages(None, True, 140, 64) == [("four", True)] * 2
        assert parser.next_messages(None, False, 141, 64) == [(b"four", True)] * 3
        assert parser.next_messages(None, True, 1000, 0) == [("four", True)] * 3
        assert parser.buffered == 2
        with pytest.raises(ValueError):
            parser.next_messages(None, True, -1, 0)

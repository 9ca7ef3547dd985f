"""permessage-deflate: RFC 7692."""

from __future__ import annotations

import itertools
import random
import tracemalloc
import types
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from websocketserver.exceptions import HandshakeError, ProtocolError
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.endpoint import Endpoint, Role
from websocketserver.protocol.events import Event, Message
from websocketserver.protocol.extensions import (
    RSV1,
    RSV2,
    RSV3,
    Codec,
    Decoder,
    Params,
    accept_answer,
    format_offers,
    negotiate,
)
from websocketserver.protocol.grammar import parse_extensions

NAME = "permessage-deflate"
PLAIN = {"server_max_window_bits": 15, "client_max_window_bits": 15}
RANDOM = random.Random(7692)
NOISE = RANDOM.randbytes(100_000)
TEXT = b" ".join(RANDOM.choice([b"alpha", b"beta", b"gamma", b"delta", b"%d"]) for _ in range(20_000))


def params(header: str) -> Params:
    (name, parsed), *others = parse_extensions(f"{NAME}; {header}" if header else NAME)
    assert name == NAME and not others
    return parsed


def server(offer: str = "", **options: Any) -> Codec | None:
    return PerMessageDeflate(**options).answer(params(offer))


def answered(offer: str, **options: Any) -> str | None:
    codec = server(offer, **options)
    return None if codec is None else str(codec).removeprefix(NAME).removeprefix("; ")


def client(answer: str = "", **options: Any) -> Codec:
    return PerMessageDeflate(**options).accept(params(answer))


def pair(offer: str = "client_max_window_bits", *, at_client: Any = (), **options: Any) -> tuple[Codec, Codec]:
    """A server's codec for the offer, and its client's; the options are for both."""
    mine = server(offer, **{"threshold": 0} | options)
    assert mine is not None
    theirs = PerMessageDeflate(**{"threshold": 0} | options | dict(at_client)).accept(mine.params)
    return mine, theirs


def encode(codec: Codec, *pieces: bytes, compress: bool | None = True) -> bytes | None:
    """What the message of these pieces is compressed to, None if it is not."""
    encoder = codec.encoder
    size = len(pieces[0]) if len(pieces) == 1 else None
    if not encoder.begin(text=False, size=size, compress=compress):
        return None
    return b"".join(encoder.encode(piece, i == len(pieces) - 1) for i, piece in enumerate(pieces))


def decode(codec: Codec, *pieces: bytes, max_size: int | None = None) -> bytes:
    """What the message of these pieces inflates to, with an endpoint's account of its size."""
    assert codec.decoder.begin(RSV1)
    message = b""
    for i, piece in enumerate(pieces):
        left = None if max_size is None else max_size - len(message)
        message += codec.decoder.decode(piece, i == len(pieces) - 1, left)
    return message


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """The same bytes whole, byte by byte, and with an empty last piece."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))] or [b""]
    yield [data, b""]


class TestOffering:
    def test_default_asks_for_a_small_window_and_falls_back_to_none(self) -> None:
        assert format_offers([PerMessageDeflate()]) == (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits, "
            "permessage-deflate; client_max_window_bits"
        )

    def test_wishing_nothing_is_one_offer(self) -> None:
        assert format_offers([PerMessageDeflate(**PLAIN)]) == "permessage-deflate; client_max_window_bits"

    def test_all_wishes_are_offered(self) -> None:
        extension = PerMessageDeflate(
            server_max_window_bits=9, server_no_context_takeover=True, client_no_context_takeover=True
        )
        assert extension.offer()[0] == params(
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits"
        )


class TestAnswering:
    """RFC 7692, sections 5 and 7."""

    @pytest.mark.parametrize(
        ("offer", "answer"),
        [
            ("", "server_max_window_bits=12"),
            ("client_max_window_bits", "server_max_window_bits=12; client_max_window_bits=12"),
            ("client_max_window_bits=15", "server_max_window_bits=12; client_max_window_bits=12"),
            ("client_max_window_bits=10", "server_max_window_bits=12; client_max_window_bits=10"),
            ("client_max_window_bits=8", "server_max_window_bits=12; client_max_window_bits=8"),
            ('client_max_window_bits="10"', "server_max_window_bits=12; client_max_window_bits=10"),
            ("server_max_window_bits=9", "server_max_window_bits=9"),
            ("server_max_window_bits=15", "server_max_window_bits=12"),
            ('server_max_window_bits="11"', "server_max_window_bits=11"),
            ("server_no_context_takeover", "server_no_context_takeover; server_max_window_bits=12"),
            ("client_no_context_takeover", "client_no_context_takeover; server_max_window_bits=12"),
            (
                "client_max_window_bits; client_no_context_takeover; server_max_window_bits=10",
                "client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=12",
            ),
            (
                "client_no_context_takeover; server_no_context_takeover",
                "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
            ),
        ],
    )
    def test_legal_offers_are_answered(self, offer: str, answer: str) -> None:
        assert answered(offer) == answer

    @pytest.mark.parametrize(
        ("offer", "answer"),
        [
            ("", ""),
            ("client_max_window_bits", ""),
            ("client_max_window_bits=15", ""),
            ("server_max_window_bits=15", "server_max_window_bits=15"),
            (
                "server_max_window_bits=14; client_max_window_bits=14",
                "server_max_window_bits=14; client_max_window_bits=14",
            ),
        ],
    )
    def test_a_server_with_full_windows_names_them_only_where_asked(self, offer: str, answer: str) -> None:
        assert answered(offer, **PLAIN) == answer

    def test_a_server_may_ask_for_no_context_takeover_unasked(self) -> None:
        options = {"server_no_context_takeover": True, "client_no_context_takeover": True}
        assert answered("", **PLAIN, **options) == "server_no_context_takeover; client_no_context_takeover"

    def test_a_window_is_never_asked_of_a_client_that_did_not_offer_it(self) -> None:
        assert "client_max_window_bits" not in (answered("", client_max_window_bits=9) or "")

    @pytest.mark.parametrize(
        "offer",
        [
            "unknown",
            "unknown=1",
            "client_max_window_bits; unknown",
            "Server_no_context_takeover",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits; client_max_window_bits",
            "client_max_window_bits; client_max_window_bits=10",
            "client_max_window_bits=10; client_max_window_bits=10",
            "server_max_window_bits=10; server_max_window_bits=11",
            "server_no_context_takeover=1",
            "server_no_context_takeover=true",
            'server_no_context_takeover="x"',
            "client_no_context_takeover=0",
            "server_max_window_bits",
            "server_max_window_bits=8",  # zlib cannot
            *(
                f"{side}_max_window_bits={value}"
                for side in ("server", "client")
                for value in (
                    "7",
                    "16",
                    "0",
                    "-9",
                    "+9",
                    "09",
                    "012",
                    "9.0",
                    "1e1",
                    "0x9",
                    "x",
                )
            ),
        ],
    )
    def test_illegal_offers_are_declined_and_the_next_one_is_taken(self, offer: str) -> None:
        assert answered(offer) is None
        header = f"{NAME}; {offer}, {NAME}; client_max_window_bits"
        assert negotiate(parse_extensions(header), [PerMessageDeflate(**PLAIN)])[0] == NAME

    def test_digits_that_are_not_ascii_are_declined(self) -> None:
        assert PerMessageDeflate().answer([("server_max_window_bits", "１２")]) is None

    def test_the_preferred_of_three_offers_is_taken(self) -> None:
        header = (
            f"{NAME}; server_no_context_takeover; client_max_window_bits; server_max_window_bits=9, "
            f"{NAME}; server_no_context_takeover; client_max_window_bits, {NAME}; client_max_window_bits"
        )
        assert negotiate(parse_extensions(header), [PerMessageDeflate()])[0] == (
            f"{NAME}; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=12"
        )


class TestAccepting:
    """RFC 7692, section 7.1, at the client."""

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            "server_no_context_takeover",
            "client_no_context_takeover",  # 7.1.1.2: though it was not offered
            "server_max_window_bits=8",
            "server_max_window_bits=15",
            "client_max_window_bits=8",
            "client_max_window_bits=9",
            'client_max_window_bits="15"',
            "server_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits=9; client_max_window_bits=9",
        ],
    )
    def test_legal_answers_are_obeyed(self, answer: str) -> None:
        assert client(answer).params == params(answer)

    @pytest.mark.parametrize(
        "answer",
        [
            "unknown",
            "client_max_window_bits",  # 7.1.2.2: an answer has a value
            "server_max_window_bits",
            "server_max_window_bits=16",
            "server_max_window_bits=7",
            "client_max_window_bits=09",
            "server_no_context_takeover=1",
            "client_no_context_takeover; client_no_context_takeover",
            "client_max_window_bits=10; client_max_window_bits=10",
        ],
    )
    def test_illegal_answers_fail_the_handshake(self, answer: str) -> None:
        with pytest.raises(HandshakeError, match=NAME):
            client(answer)

    def test_it_cannot_be_answered_twice(self) -> None:
        with pytest.raises(HandshakeError):
            accept_answer(parse_extensions(f"{NAME}, {NAME}"), [PerMessageDeflate()])


class TestCompressing:
    """RFC 7692, section 7.2.1, with the examples of 7.2.3."""

    def test_the_examples_of_the_rfc(self) -> None:
        codec = client("", **PLAIN, level=6, memory_level=8)
        assert encode(codec, b"Hello") == bytes.fromhex("f248cdc9c90700")  # 7.2.3.1
        assert encode(codec, b"Hello") == bytes.fromhex("f200110000")  # 7.2.3.2
        assert encode(codec, b"") == b"\x00"  # 7.2.3.6

    def test_without_context_takeover_each_message_stands_alone(self) -> None:
        codec = client("client_no_context_takeover")
        assert encode(codec, b"Hello") == encode(codec, b"Hello") == bytes.fromhex("f248cdc9c90700")

    def test_each_side_obeys_its_own_parameter(self) -> None:
        for header, server_repeats, client_repeats in [
            ("server_no_context_takeover; client_max_window_bits", True, False),
            ("client_no_context_takeover; client_max_window_bits", False, True),
        ]:
            mine, theirs = pair(header)
            assert (encode(mine, TEXT) == encode(mine, TEXT)) is server_repeats
            assert (encode(theirs, TEXT) == encode(theirs, TEXT)) is client_repeats

    def test_a_client_set_to_no_context_takeover_keeps_to_it_unanswered(self) -> None:
        codec = client("", client_no_context_takeover=True)
        assert encode(codec, TEXT) == encode(codec, TEXT)

    def test_pieces_can_be_read_as_soon_as_they_are_sent(self) -> None:
        mine, theirs = pair()
        assert mine.encoder.begin(text=True, size=None, compress=None) == RSV1
        assert theirs.decoder.begin(RSV1)
        for piece in (b"first", b"", b"second", b"third"):
            assert theirs.decoder.decode(mine.encoder.encode(piece, False), False, None) == piece
        assert theirs.decoder.decode(mine.encoder.encode(b"", True), True, None) == b""
        assert decode(theirs, encode(mine, b"first again") or b"") == b"first again"

    @pytest.mark.parametrize("bits", range(9, 16))
    def test_nothing_refers_beyond_the_agreed_window(self, bits: int) -> None:
        mine, theirs = pair(f"server_max_window_bits={bits}; client_max_window_bits={bits}", **PLAIN)
        message = NOISE[: 1 << bits] + NOISE[: 1 << bits] + TEXT[:3000] + NOISE[:3000] + TEXT[:3000]
        for codec in (mine, theirs):
            compressed = encode(codec, message) or b""
            assert _inflate_bytewise(compressed, bits) == message

    def test_a_client_asked_for_eight_bits_compresses_nothing(self) -> None:
        codec = client("client_max_window_bits=8")
        assert encode(codec, TEXT) is None
        assert codec.encoder.begin(text=True, size=None, compress=None) == 0
        peer = zlib.compressobj(6, zlib.DEFLATED, -15)
        assert decode(codec, peer.compress(TEXT) + peer.flush(zlib.Z_SYNC_FLUSH)[:-4]) == TEXT

    def test_an_own_smaller_window_wins_over_the_answer(self) -> None:
        compressed = encode(client("client_max_window_bits=15", client_max_window_bits=9), NOISE[:2000] * 2) or b""
        assert _inflate_bytewise(compressed, 9) == NOISE[:2000] * 2


def _inflate_bytewise(compressed: bytes, bits: int) -> bytes:
    """Inflate with so small an output that zlib can only look into its window, and refuses what is beyond."""
    stream = zlib.decompressobj(-bits)
    out = []
    rest = compressed + b"\x00\x00\xff\xff"
    while byte := stream.decompress(rest, 1):
        out.append(byte)
        rest = stream.unconsumed_tail
    return b"".join(out)


class TestThreshold:
    def test_by_default_small_messages_go_as_they_are(self) -> None:
        codec = client()
        assert encode(codec, TEXT[:1023], compress=None) is None
        assert encode(codec, TEXT[:1024], compress=None) is not None

    def test_the_caller_decides_if_asked_to(self) -> None:
        codec = client(threshold=100)
        assert encode(codec, b"small", compress=True) is not None
        assert encode(codec, TEXT, compress=False) is None
        assert encode(codec, TEXT[:100], compress=None) is not None
        assert encode(codec, TEXT[:99], compress=None) is None

    def test_a_message_of_unknown_size_is_compressed(self) -> None:
        assert encode(client(), b"a", b"b", compress=None) is not None

    def test_messages_left_alone_do_not_disturb_the_context(self) -> None:
        mine, theirs = pair(threshold=1000)
        for message in (TEXT[:2000], TEXT[:10], TEXT[1000:3000], NOISE[:999], TEXT[:2000]):
            compressed = encode(mine, message, compress=None)
            if compressed is None:
                assert not theirs.decoder.begin(0)
            else:
                assert decode(theirs, compressed) == message


class TestInflating:
    """RFC 7692, section 7.2.2."""

    @pytest.mark.parametrize(
        "raw",
        [
            "f248cdc9c90700",  # 7.2.3.1: one compressed block
            "000500faff48656c6c6f00",  # 7.2.3.3: no compression
            "f348cdc9c9070000",  # 7.2.3.4: BFINAL
            "f248050000 00ffffcac9c90700",  # 7.2.3.5: two blocks
            "f348cdc9c90700",  # BFINAL, and the empty block left out
            "f348cdc9c90700 0300",  # two final blocks
            "f348cdc9c90700 0300 0300 00",
            "0300 f348cdc9c90700 00",
        ],
    )
    def test_hello_in_every_form(self, raw: str) -> None:
        data = bytes.fromhex(raw)
        for pieces in every_way(data):
            codec = client()
            for _ in range(3):  # and with the next message glued on
                assert decode(codec, *pieces, max_size=5) == b"Hello"

    def test_the_window_is_shared(self) -> None:
        codec = client()
        assert decode(codec, bytes.fromhex("f248cdc9c90700")) == b"Hello"
        for pieces in every_way(bytes.fromhex("f200110000")):  # 7.2.3.2
            assert decode(codec, *pieces) == b"Hello"

    def test_the_window_is_not_shared_without_context_takeover(self) -> None:
        codec = client("server_no_context_takeover")
        assert decode(codec, bytes.fromhex("f248cdc9c90700")) == b"Hello"
        with pytest.raises(ProtocolError):
            decode(codec, bytes.fromhex("f200110000"))

    def test_the_window_reaches_across_final_blocks(self) -> None:
        first = zlib.compressobj(6, zlib.DEFLATED, -15)
        second = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=NOISE[-32768:])
        whole = first.compress(NOISE) + first.flush(), second.compress(NOISE[-20_000:]) + second.flush()
        assert len(whole[1]) < 1000
        for pieces in every_way(whole[1]):
            codec = client()
            assert decode(codec, whole[0]) == NOISE
            assert decode(codec, *pieces) == NOISE[-20_000:]
        assert decode(client(), b"".join(whole)) == NOISE + NOISE[-20_000:]

    @pytest.mark.parametrize("raw", ["00", "", "0300", "030000", "0200"])
    def test_empty_messages(self, raw: str) -> None:
        codec = client()
        for pieces in every_way(bytes.fromhex(raw)):
            assert decode(codec, *pieces, max_size=0) == b""
        assert decode(codec, bytes.fromhex("f248cdc9c90700")) == b"Hello"

    @pytest.mark.parametrize("bits", [8, 9, 12, 15])
    def test_the_peers_window_is_big_enough(self, bits: int) -> None:
        peer = zlib.compressobj(9, zlib.DEFLATED, -max(bits, 9), 9)
        codec = client(f"server_max_window_bits={bits}")
        for message in (NOISE[:40_000], NOISE[39_000:41_000], TEXT, NOISE[40_000:] + TEXT, TEXT):
            assert decode(codec, peer.compress(message) + peer.flush(zlib.Z_SYNC_FLUSH)[:-4]) == message

    def test_uncompressed_messages_are_left_alone(self) -> None:
        decoder = client().decoder
        assert not decoder.begin(0)
        assert not decoder.begin(RSV2 | RSV3)
        assert decoder.begin(RSV1 | RSV2)

    def test_large_messages_in_one_piece(self) -> None:
        mine, theirs = pair()
        for message in (bytes(5_000_000), NOISE * 10, TEXT * 20):
            assert decode(theirs, encode(mine, message) or b"", max_size=len(message)) == message


class TestBrokenStreams:
    def broken(self, *pieces: bytes, codec: Codec | None = None) -> None:
        with pytest.raises(ProtocolError, match="corrupt") as caught:
            decode(codec or client(), *pieces)
        assert caught.value.close_code == 1007

    @pytest.mark.parametrize(
        "raw",
        [
            "07",  # a reserved kind of block
            "ff" * 10,
            "48656c6c6f",  # not compressed at all
            "f248cdc9c907",  # the last byte missing
            "f248cdc9c9",
            "f2",
            "000500faff4865",  # a stored block cut short
            "000500fafe48656c6c6f00",  # lengths that do not match
            "f200110000",  # looks back further than there is
            "f248cdc9c9070000",  # a byte too much
            "f248cdc9c90700aabbcc",
            "f348cdc9c90700ff",  # behind a final block
            "f348cdc9c90700aabbccdd",
            "f248cdc9c907000000ffff",  # the tail was not left out
            "0000",
            "0000ffff0300",
            "000000ffff",
            "022c60",  # cut short where what ends a stream reads as one more byte of the block
        ],
    )
    def test_corrupt_truncated_and_overlong_streams(self, raw: str) -> None:
        for pieces in every_way(bytes.fromhex(raw)):
            self.broken(*pieces)

    @pytest.mark.parametrize("cut", range(1, 60))
    def test_every_truncation_is_noticed(self, cut: int) -> None:
        whole = encode(client(threshold=0), TEXT[:4000]) or b""
        for pieces in every_way(whole[:-cut]):
            self.broken(*pieces)

    def test_a_final_piece_without_end_is_noticed_however_long_it_was(self) -> None:
        self.broken((encode(client(), NOISE) or b"")[:-1])

    def test_nothing_breaks_the_next_message_when_it_begins_anew(self) -> None:
        codec = client()
        self.broken(b"\xf2\x48\xcd", codec=codec)
        assert decode(codec, bytes.fromhex("f248cdc9c90700"))[-5:] == b"Hello"


class TestLimit:
    """RFC 6455, section 10.4: what is allocated, not what was announced."""

    def too_big(self, codec: Codec, *pieces: bytes, max_size: int) -> None:
        with pytest.raises(ProtocolError, match="max_message_size") as caught:
            decode(codec, *pieces, max_size=max_size)
        assert caught.value.close_code == 1009

    @pytest.mark.parametrize("size", [1, 100, 32 * 1024, 32 * 1024 + 1, 64 * 1024, 200_000])
    def test_the_limit_passes_and_one_more_does_not(self, size: int) -> None:
        for message in (bytes(size), (NOISE * 2)[:size]):
            whole = encode(client(), message) or b""
            for pieces in (
                [whole],
                [whole[:10], whole[10:]],
                [whole, b""],
                [whole[i : i + 999] for i in range(0, len(whole), 999)],
            ):
                assert decode(client(), *pieces, max_size=size) == message
                self.too_big(client(), *pieces, max_size=size - 1)

    def test_nothing_may_come_when_nothing_is_left(self) -> None:
        self.too_big(client(), bytes.fromhex("f248cdc9c90700"), max_size=0)

    def test_a_bomb_costs_the_limit_a_chunk_and_the_windows(self) -> None:
        limit, chunk_and_windows = 1 << 20, 128 * 1024
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(128)) + compressor.flush()
        codec = client()
        tracemalloc.start()
        try:
            self.too_big(codec, bomb, max_size=limit)
            assert tracemalloc.get_traced_memory()[1] < limit + chunk_and_windows
        finally:
            tracemalloc.stop()

    def test_empty_final_blocks_without_end_cost_nothing(self) -> None:
        assert decode(client(), b"\x03\x00" * 20_000, max_size=0) == b""


class TestIdle:
    def test_a_dropped_compressor_is_not_noticed(self) -> None:
        mine, theirs = pair()
        for message in (TEXT, TEXT, b"", NOISE):
            assert decode(theirs, encode(mine, message) or b"") == message
            mine.encoder.release()
            theirs.decoder.release()
        assert encode(mine, b"Hello") == encode(client(), b"Hello")

    def test_nothing_is_dropped_in_the_middle_of_a_message(self) -> None:
        mine, theirs = pair()
        pieces = []
        mine.encoder.begin(text=False, size=None, compress=True)
        theirs.decoder.begin(RSV1)
        for fin in (False, False, True):
            pieces.append(theirs.decoder.decode(mine.encoder.encode(TEXT, fin), fin, None))
            if not fin:
                mine.encoder.release()
                theirs.decoder.release()
        assert pieces == [TEXT] * 3

    def test_a_released_codec_keeps_no_compressor_and_a_window_at_most(self) -> None:
        extension = PerMessageDeflate(threshold=0)
        codec = extension.accept(params("server_max_window_bits=12"))
        message = encode(client(server_max_window_bits=12, client_max_window_bits=12), TEXT) or b""
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            encode(codec, TEXT)
            decode(codec, message)
            codec.encoder.release()
            codec.decoder.release()
            assert tracemalloc.get_traced_memory()[0] - before < 4096 + 1024
        finally:
            tracemalloc.stop()

    def test_the_connection_is_told_when(self) -> None:
        assert client().release_after == 60
        assert client(release_after=None).release_after is None


class TestSettings:
    @pytest.mark.parametrize("name", ["server_max_window_bits", "client_max_window_bits"])
    @pytest.mark.parametrize("value", [8, 16, 0, -9])
    def test_windows_are_9_to_15_bits(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=f"{name} must be 9 to 15"):
            PerMessageDeflate(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("memory_level", 0),
            ("memory_level", 10),
            ("level", 10),
            ("level", -2),
            ("threshold", -1),
            ("release_after", -1),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=name):
            PerMessageDeflate(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("server_max_window_bits", "12"),
            ("threshold", 1.5),
            ("threshold", None),
            ("memory_level", True),
            ("zlib", random),
        ],
    )
    def test_what_is_of_another_type_is_refused(self, name: str, value: object) -> None:
        with pytest.raises(TypeError, match=name):
            PerMessageDeflate(**{name: value})  # type: ignore[arg-type]

    def test_every_level_and_memory_level_of_zlib_works(self) -> None:
        for level in range(-1, 10):
            for memory_level in range(1, 10):
                mine, theirs = pair(level=level, memory_level=memory_level)
                assert decode(theirs, encode(mine, TEXT[:500]) or b"") == TEXT[:500]

    def test_settings_are_values(self) -> None:
        assert PerMessageDeflate(level=6) == PerMessageDeflate(level=6) != PerMessageDeflate()
        assert len({PerMessageDeflate(), PerMessageDeflate()}) == 1
        with pytest.raises(AttributeError):
            PerMessageDeflate().level = 1  # type: ignore[misc]


class TestOtherZlibs:
    @pytest.fixture(params=["isal.isal_zlib", "zlib_ng.zlib_ng"])
    def module(self, request: pytest.FixtureRequest) -> types.ModuleType:
        return pytest.importorskip(request.param)

    @pytest.mark.parametrize("bits", [9, 12, 15])
    def test_they_understand_each_other_and_zlib(self, module: types.ModuleType, bits: int) -> None:
        offer = f"server_max_window_bits={bits}; client_max_window_bits={bits}"
        for theirs_zlib in (module, zlib):
            mine, theirs = pair(offer, **PLAIN, zlib=module, at_client={"zlib": theirs_zlib})
            for _ in range(2):
                for message in (b"", b"Hello", TEXT, NOISE, b"", bytes(200_000), TEXT):
                    assert decode(theirs, encode(mine, message) or b"") == message
                    assert decode(mine, encode(theirs, message) or b"") == message

    def test_windows_are_kept(self, module: types.ModuleType) -> None:
        for bits in range(9, 16):
            mine, _ = pair(f"server_max_window_bits={bits}", **PLAIN, zlib=module)
            message = NOISE[: 1 << bits] * 2 + TEXT[:3000]
            assert _inflate_bytewise(encode(mine, message) or b"", bits) == message

    def test_their_errors_are_told(self, module: types.ModuleType) -> None:
        for raw in ("07", "f248cdc9c907", "f348cdc9c90700ff"):
            with pytest.raises(ProtocolError) as caught:
                decode(client(zlib=module), bytes.fromhex(raw))
            assert caught.value.close_code == 1007

    def test_a_level_they_do_not_have_is_refused_at_once(self) -> None:
        isal = pytest.importorskip("isal.isal_zlib")
        with pytest.raises(ValueError, match="level 9 is not accepted by isal"):
            PerMessageDeflate(zlib=isal, level=9)


class TestAgainstWebsockets:
    """The extension of another library, both ways."""

    @pytest.mark.parametrize("alone", [(False, False), (True, False), (False, True), (True, True)])
    @pytest.mark.parametrize("bits", [(9, 9), (15, 15), (12, 10)])
    def test_messages_go_both_ways(self, alone: tuple[bool, bool], bits: tuple[int, int]) -> None:
        theirs = pytest.importorskip("websockets.extensions.permessage_deflate")
        frames = pytest.importorskip("websockets.frames")
        ours = PerMessageDeflate(
            server_no_context_takeover=alone[0], client_no_context_takeover=alone[1],
            server_max_window_bits=bits[0], client_max_window_bits=bits[1],
        )  # fmt: skip
        codec = ours.accept(ours.offer()[0][:-1] + [("client_max_window_bits", str(bits[1]))])
        peer = theirs.PerMessageDeflate(alone[1], alone[0], bits[1], bits[0])
        for message in (b"", b"Hello", TEXT, NOISE, TEXT, b"", TEXT[:100]):
            frame = peer.decode(frames.Frame(frames.Opcode.BINARY, encode(codec, message), True, True))
            assert frame.data == message
            assert decode(codec, bytes(peer.encode(frames.Frame(frames.Opcode.BINARY, message)).data)) == message

    def test_handshakes_agree(self) -> None:
        theirs = pytest.importorskip("websockets.extensions.permessage_deflate")
        answer, _ = theirs.ServerPerMessageDeflateFactory().process_request_params(PerMessageDeflate().offer()[0], [])
        assert PerMessageDeflate().accept(answer)
        factory = theirs.ClientPerMessageDeflateFactory(client_max_window_bits=True)
        codec = PerMessageDeflate().answer(factory.get_request_params())
        assert codec is not None
        assert factory.process_response_params(codec.params, [])


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda start, size: TEXT[start : start + size], st.integers(0, 50_000), st.integers(0, 50_000)),
        st.builds(lambda start, size: NOISE[start : start + size], st.integers(0, 50_000), st.integers(0, 50_000)),
        st.builds(lambda size: bytes(size), st.integers(0, 100_000)),
    ),
    min_size=1,
    max_size=6,
)


def cut(data: bytes, places: list[float]) -> list[bytes]:
    marks = [0, *sorted(int(place * len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


class TestAnySplit:
    """Any split of any message into fragments and reads gives the same message."""

    @given(
        messages=MESSAGES,
        fragments=st.lists(st.floats(0, 1), max_size=5),
        reads=st.lists(st.floats(0, 1), max_size=8),
        bits=st.integers(9, 15),
        flags=st.sampled_from(["", "; server_no_context_takeover"]),
        released=st.booleans(),
        level=st.integers(0, 9),
        memory_level=st.integers(1, 9),
    )
    @settings(deadline=None, max_examples=150)
    def test_roundtrip(
        self,
        messages: list[bytes],
        fragments: list[float],
        reads: list[float],
        bits: int,
        flags: str,
        released: bool,
        level: int,
        memory_level: int,
    ) -> None:
        mine, theirs = pair(f"server_max_window_bits={bits}{flags}", **PLAIN, level=level, memory_level=memory_level)
        for message in messages:
            compressed = encode(mine, *cut(message, fragments)) or b""
            assert decode(theirs, *cut(compressed, reads), max_size=len(message)) == message
            if released:
                mine.encoder.release()
                theirs.decoder.release()

    @given(data=st.binary(max_size=300), reads=st.lists(st.floats(0, 1), max_size=4), max_size=st.integers(0, 2000))
    @settings(deadline=None)
    def test_no_input_raises_anything_else_and_no_split_changes_it(
        self, data: bytes, reads: list[float], max_size: int
    ) -> None:
        assert self.outcome(client().decoder, [data], max_size) == self.outcome(
            client().decoder, cut(data, reads), max_size
        )

    def outcome(self, decoder: Decoder, pieces: list[bytes], max_size: int) -> bytes | str:
        decoder.begin(RSV1)
        message = b""
        try:
            for i, piece in enumerate(pieces):
                message += decoder.decode(piece, i == len(pieces) - 1, max_size - len(message))
        except ProtocolError as error:
            assert error.close_code in (1007, 1009)
            return "refused"
        return message


KEY = b"\x37\xfa\x21\x3d"


class TestThroughFrames:
    @given(
        messages=MESSAGES, fragments=st.lists(st.floats(0, 1), max_size=4), reads=st.lists(st.floats(0, 1), max_size=9)
    )
    @settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_split_into_fragments_and_reads(
        self, frames: types.ModuleType, messages: list[bytes], fragments: list[float], reads: list[float]
    ) -> None:
        mine, theirs = pair("client_max_window_bits")
        wire = b"".join(self.serialize(frames, theirs, message, fragments) for message in messages)
        parser = frames.FrameParser(masked=True, rsv=RSV1)
        received: list[bytes] = []
        message, begun = b"", False
        for data in cut(wire, reads):
            parser.feed(data)
            while (frame := parser.next_frame()) is not None:
                if frame.opcode == frames.Opcode.PING:
                    continue
                if not begun:
                    begun = mine.decoder.begin(frame.rsv)
                fin = frame.fin and frame.complete
                message += mine.decoder.decode(frame.payload, fin, 100_000 - len(message))
                if fin:
                    received.append(message)
                    message, begun = b"", False
        assert received == messages

    def serialize(self, frames: types.ModuleType, codec: Codec, message: bytes, fragments: list[float]) -> bytes:
        """The frames of one message, with a Ping between any two."""
        parts = cut(encode(codec, message) or b"", fragments)
        wire = frames.serialize(frames.Opcode.BINARY, parts[0], len(parts) == 1, RSV1, KEY)
        for i, part in enumerate(parts[1:], 2):
            wire += frames.serialize(frames.Opcode.PING, b"between", True, 0, KEY)
            wire += frames.serialize(frames.Opcode.CONTINUATION, part, i == len(parts), 0, KEY)
        return bytes(wire)


class TestThroughEndpoints:
    """What the checks of frames, text and size make of compressed messages."""

    def receive(self, wire: bytes, codecs: list[Codec] | None = None, **options: Any) -> list[Event]:
        agreed = [pair()[0]] if codecs is None else codecs
        return list(Endpoint(Role.SERVER, new_key=lambda: KEY, codecs=agreed, **options).receive(wire))

    def texts(self, events: Iterable[Event]) -> list[str]:
        """The payloads of Pings, and text."""
        return [event[0] if isinstance(event[0], str) else event[0].decode() for event in events]

    def fails(self, wire: bytes, close_code: int, codecs: list[Codec] | None = None, **options: Any) -> None:
        for feed in (wire, wire + b"\x89\x80" + KEY):
            with pytest.raises(ProtocolError) as caught:
                self.receive(feed, codecs, **options)
            assert caught.value.close_code == close_code

    def frame(self, first_byte: int, payload: bytes) -> bytes:
        masked = bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
        assert len(payload) < 126
        return bytes([first_byte, 0x80 | len(payload)]) + KEY + masked

    HELLO = bytes.fromhex("f248cdc9c90700")

    def test_endpoints_understand_each_other(self) -> None:
        mine, theirs = pair()
        server = Endpoint(Role.SERVER, new_key=lambda: KEY, codecs=[mine], fragment_size=100)
        client = Endpoint(Role.CLIENT, new_key=lambda: KEY, codecs=[theirs], fragment_size=1)
        for text in ("Hello", "", "naïve ☃" * 100, "Hello"):
            assert self.texts(server.receive(client.send_message(text))) == [text]
            assert self.texts(client.receive(server.send_message(text, compress=False))) == [text]
            assert self.texts(client.receive(server.send_message(text))) == [text]

    def test_control_frames_between_compressed_fragments(self) -> None:
        wire = self.frame(0x41, self.HELLO[:3]) + self.frame(0x89, b"?") + self.frame(0x80, self.HELLO[3:])
        assert self.texts(self.receive(wire)) == ["?", "Hello"]

    @pytest.mark.parametrize("first_byte", [0xC8, 0xC9, 0xCA])
    def test_compressed_control_frames_are_refused(self, first_byte: int) -> None:
        self.fails(self.frame(first_byte, self.HELLO), 1002)

    def test_a_compressed_continuation_is_refused(self) -> None:
        self.fails(self.frame(0x41, self.HELLO[:3]) + self.frame(0xC0, self.HELLO[3:]), 1002)
        self.fails(self.frame(0x01, b"Hel") + self.frame(0xC0, self.HELLO), 1002)

    def test_compression_that_was_not_agreed_on_is_refused(self) -> None:
        self.fails(self.frame(0xC1, self.HELLO), 1002, [])

    @pytest.mark.parametrize("first_byte", [0xA1, 0x91, 0xE1, 0xD1])
    def test_other_reserved_bits_are_refused(self, first_byte: int) -> None:
        self.fails(self.frame(first_byte, self.HELLO), 1002)

    def test_compressed_text_is_checked(self) -> None:
        self.fails(self.frame(0xC1, encode(client(), b"\xce\xba\xff") or b""), 1007)
        self.fails(self.frame(0xC1, encode(client(), b"\xce") or b""), 1007)

    def test_a_corrupt_stream_is_refused(self) -> None:
        self.fails(self.frame(0xC1, b"\x07"), 1007)
        self.fails(self.frame(0xC2, self.HELLO[:-1]), 1007)

    def test_the_limit_holds_over_fragments(self) -> None:
        compressed = encode(client(), bytes(1000)) or b""
        wire = self.frame(0x42, compressed[:5]) + self.frame(0x80, compressed[5:])
        assert self.receive(wire, max_message_size=1000) == [Message(bytes(1000), False)]
        self.fails(wire, 1009, max_message_size=999)

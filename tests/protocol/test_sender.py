"""Sender: from messages to frames (RFC 6455, sections 5.2 to 5.5); both halves together: test_endpoint.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.protocol.endpoint import Endpoint, Role
from websocketserver.protocol.events import Message
from websocketserver.protocol.sender import JOINED, Sender

from ..support import frame
from .test_endpoint import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    client,
    deflate,
    read_frames,
    server,
    toy,
)
from .test_endpoint import twins as twins  # every test here runs with both


class TestSending:
    def keys(self) -> tuple[list[bytes], Callable[[], bytes]]:
        made: list[bytes] = []

        def new_key() -> bytes:
            made.append(len(made).to_bytes(4, "big"))
            return made[-1]

        return made, new_key

    def test_a_client_masks_each_frame_with_a_fresh_key(self) -> None:
        made, new_key = self.keys()
        endpoint = Endpoint(Role.CLIENT, new_key=new_key, fragment_size=2)
        wire = endpoint.send_message("Hello") + endpoint.send_ping(b"1") + endpoint.send_pong() + endpoint.send_close()
        frames = read_frames(wire)
        assert all(got.masked for got in frames)
        assert len(made) == len(set(made)) == len(frames) == 6
        assert [wire.count(key) for key in made] == 6 * [1]
        assert [got[:3] for got in frames] == [
            (TEXT, b"He", False),
            (CONTINUATION, b"ll", False),
            (CONTINUATION, b"o", True),
            (PING, b"1", True),
            (PONG, b"", True),
            (CLOSE, b"\x03\xe8", True),
        ]

    def test_a_server_does_not_mask(self) -> None:
        endpoint = server()
        wire = endpoint.send_message(b"Hi") + endpoint.send_ping(b"1") + endpoint.send_pong(b"2")
        wire += endpoint.send_close(4000, "bye")
        assert wire == b"\x82\x02Hi\x89\x011\x8a\x012\x88\x05\x0f\xa0bye"

    def test_a_payload_that_is_large_is_not_copied(self) -> None:
        sender = Sender(None)
        for data in (bytes(JOINED + 1), bytearray(JOINED + 1), memoryview(bytes(JOINED + 1))):
            header, payload = sender.message(data, text=False)
            assert payload is data
            assert header == b"\x82\x7e" + len(data).to_bytes(2, "big")
        assert len(sender.message(bytes(JOINED), text=False)) == 1

    def test_large_fragments_are_not_copied_either(self) -> None:
        data = bytes(range(256)) * (JOINED // 256) * 3
        sender = Sender(None, fragment_size=JOINED + 100)
        buffers = sender.message(data, text=False)
        assert [type(buffer) for buffer in buffers] == [bytes, memoryview, bytes, memoryview, bytes]
        frames = read_frames(b"".join(buffers))
        assert [(got.opcode, got.fin) for got in frames] == [
            (BINARY, False),
            (CONTINUATION, False),
            (CONTINUATION, True),
        ]
        assert b"".join(got.payload for got in frames) == data

    @pytest.mark.parametrize(
        ("size", "lengths"), [(0, [0]), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])]
    )
    def test_fragments(self, size: int, lengths: list[int]) -> None:
        data = b"abcdefg"[:size]
        for new_key in (None, lambda: KEY):
            sender = Sender(new_key, fragment_size=3)
            frames = read_frames(b"".join(sender.message(data, text=True)))
            assert [len(got.payload) for got in frames] == lengths
            assert [got.opcode for got in frames] == [TEXT] + [CONTINUATION] * (len(frames) - 1)
            assert [got.fin for got in frames] == [False] * (len(frames) - 1) + [True]

    def test_only_the_first_fragment_carries_the_extensions_bits(self) -> None:
        sender = Sender(None, codecs=[toy()], fragment_size=2)
        frames = read_frames(b"".join(sender.message(b"abc", text=False)))
        assert [(got.payload, got.rsv) for got in frames] == [(b"cb", 4), (b"a", 0)]

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_bytes_are_a_binary_message(self, kind: Callable[[bytes], Any]) -> None:
        for role, fragment_size in itertools.product(Role, (None, 2)):
            endpoint = Endpoint(role, new_key=lambda: KEY, fragment_size=fragment_size)
            frames = read_frames(endpoint.send_message(kind(b"abc")))
            assert (frames[0].opcode, b"".join(got.payload for got in frames)) == (BINARY, b"abc")

    def test_a_close_is_remembered(self) -> None:
        endpoint = server()
        assert not endpoint.sender.close_sent
        endpoint.send_ping()
        assert not endpoint.sender.close_sent
        endpoint.send_close(1005)
        assert endpoint.sender.close_sent

    def test_a_close_that_may_not_be_sent(self) -> None:
        endpoint = server()
        with pytest.raises(ValueError, match="1006"):
            endpoint.send_close(1006)
        with pytest.raises(ValueError, match="123"):
            endpoint.send_close(1000, 124 * "x")
        assert not endpoint.sender.close_sent

    def test_text_that_cannot_be_encoded(self) -> None:
        with pytest.raises(ValueError, match="surrogates"):
            server().send_message("\ud800")

    def test_a_message_goes_as_it_is_where_the_encoder_passes(self) -> None:
        sender = Sender(None, codecs=[toy()])
        assert read_frames(b"".join(sender.message(b"ab", text=True)))[0][:4] == (TEXT, b"ba", True, 4)
        assert sender.encoded
        assert read_frames(b"".join(sender.message(b"ab", text=True, compress=False)))[0][:4] == (TEXT, b"ab", True, 0)
        assert not sender.encoded


class TestSendingInPieces:
    """Sender.begin and Sender.piece"""

    def wire(self, sender: Sender, pieces: list[bytes]) -> list[bytes]:
        return [b"".join(sender.piece(piece, number == len(pieces) - 1)) for number, piece in enumerate(pieces)]

    @pytest.mark.parametrize(("text", "opcode"), [(True, TEXT), (False, BINARY)])
    def test_each_piece_is_a_frame(self, text: bool, opcode: int) -> None:
        for key in (None, KEY):
            sender = Sender(key and (lambda: KEY))
            for _ in range(2):
                sender.begin(text=text)
                assert self.wire(sender, [b"a", b"", b"b", b""]) == [
                    frame(opcode, b"a", fin=False, key=key),
                    b"",
                    frame(CONTINUATION, b"b", fin=False, key=key),
                    frame(CONTINUATION, key=key),
                ]
                assert not sender.encoded

    def test_a_message_without_a_piece_is_empty(self) -> None:
        sender = Sender(None)
        sender.begin(text=True)
        assert self.wire(sender, [b""]) == [frame(TEXT)]

    def test_large_pieces_are_split_and_only_the_last_frame_ends_the_message(self) -> None:
        sender = Sender(None, fragment_size=2)
        sender.begin(text=False)
        assert self.wire(sender, [b"abc", b"def"]) == [
            frame(BINARY, b"ab", fin=False) + frame(CONTINUATION, b"c", fin=False),
            frame(CONTINUATION, b"de", fin=False) + frame(CONTINUATION, b"f"),
        ]

    def test_only_the_first_frame_carries_the_extensions_bits(self) -> None:
        sender = Sender(None, codecs=[toy()])
        sender.begin(text=True)
        first, second = self.wire(sender, [b"ab", b"cd"])
        assert (first[0] >> 4 & 7, second[0] >> 4 & 7) == (4, 0)
        assert sender.encoded

    @given(st.lists(st.binary(max_size=3000), max_size=10), st.none() | st.integers(1, 100))
    def test_over_deflate(self, pieces: list[bytes], fragment_size: int | None) -> None:
        mine, theirs = deflate()
        sender = Sender(None, codecs=[mine], fragment_size=fragment_size)
        receiver = client(codecs=[theirs], max_message_size=None, max_fragments=None)
        for _ in range(2):
            sender.begin(text=False)
            wire = b"".join(self.wire(sender, [*pieces, b""]))
            assert list(receiver.receive(wire)) == [Message(b"".join(pieces), False)]

"""Masking (RFC 6455, section 5.3)."""

from __future__ import annotations

import random

import pytest

KEY = b"\x37\xfa\x21\x3d"
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 63, 64, 125, 1023, 2047, 2048, 2049, 4099, 70001]


def by_the_book(data: bytes, key: bytes, offset: int = 0) -> bytes:
    """5.3, to the letter."""
    return bytes(octet ^ key[(offset + i) % 4] for i, octet in enumerate(data))


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_rfc_example(masking):
    assert masking.mask(b"Hello", KEY) == b"\x7f\x9f\x4d\x51\x58"  # 5.7


@pytest.mark.parametrize("size", SIZES)
def test_masks_as_the_rfc_says(masking, size):
    assert masking.mask(payload(size), KEY) == by_the_book(payload(size), KEY)


@pytest.mark.parametrize("size", SIZES)
def test_masking_twice_gives_the_payload_back(masking, size):
    assert masking.mask(masking.mask(payload(size), KEY), KEY) == payload(size)


@pytest.mark.parametrize("key", [bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
def test_any_key(masking, key):
    for size in (9, 3000):
        assert masking.mask(payload(size), key) == by_the_book(payload(size), key)


@pytest.mark.parametrize("size", [0, 9, 3000])
@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(bytearray(data))[:]])
def test_any_contiguous_buffer_and_the_result_is_bytes(masking, size, kind):
    data = kind(payload(size))
    assert type(masking.mask(data, KEY)) is bytes
    assert masking.mask(data, KEY) == by_the_book(payload(size), KEY)
    assert bytes(data) == payload(size)


def test_a_view_of_wider_items_counts_in_bytes(masking):
    data = memoryview(payload(4000)).cast("I")
    assert masking.mask(data, KEY) == by_the_book(payload(4000), KEY)


@pytest.mark.parametrize("start", range(9))
def test_unaligned_buffers(masking, start):
    data = payload(5000)
    assert masking.mask(memoryview(data)[start:], KEY) == by_the_book(data[start:], KEY)


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_a_key_has_four_bytes(masking, key):
    with pytest.raises(ValueError, match=f"masking key of {len(key)} bytes, not 4"):
        masking.mask(b"data", key)
    with pytest.raises(ValueError, match=f"masking key of {len(key)} bytes, not 4"):
        masking.mask_in_place(bytearray(b"data"), key)


@pytest.mark.parametrize("data", ["text", None, 5])
def test_only_bytes_can_be_masked(masking, data):
    with pytest.raises(TypeError):
        masking.mask(data, KEY)
    with pytest.raises(TypeError):
        masking.mask_in_place(data, KEY)


def test_a_view_with_gaps_is_refused(masking):
    with pytest.raises((TypeError, BufferError)):
        masking.mask(memoryview(payload(10))[::2], KEY)


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 5, 2**31 + 3, 2**62 + 2])
@pytest.mark.parametrize("size", [0, 1, 6, 3001])
def test_in_place_from_any_offset(masking, size, offset):
    buffer = bytearray(payload(size))
    masking.mask_in_place(buffer, KEY, offset)
    assert buffer == by_the_book(payload(size), KEY, offset % 4)


def test_in_place_touches_the_view_only(masking):
    buffer = bytearray(payload(5000))
    masking.mask_in_place(memoryview(buffer)[7:4990], KEY)
    assert buffer == payload(5000)[:7] + by_the_book(payload(5000)[7:4990], KEY) + payload(5000)[4990:]


def test_in_place_needs_a_writable_buffer(masking):
    for data in (b"constant", memoryview(b"constant")):
        with pytest.raises((TypeError, BufferError)):
            masking.mask_in_place(data, KEY)

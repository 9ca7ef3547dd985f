"""The bytes of one message under way (RFC 6455, section 5.4)."""

from __future__ import annotations

import tracemalloc

import pytest


def test_append_and_take(payload):
    buffer = payload.PayloadBuffer()
    assert len(buffer) == 0
    for piece in (b"", b"a", bytearray(b"bc"), memoryview(b"-def-")[1:4], b"x" * 100000):
        buffer.append(piece)
    assert len(buffer) == 100006
    content = buffer.take()
    assert type(content) is bytes
    assert content == b"abcdef" + b"x" * 100000
    assert len(buffer) == 0
    assert buffer.take() == b""


def test_used_again_after_take(payload):
    buffer = payload.PayloadBuffer()
    buffer.append(b"one")
    first = buffer.take()
    buffer.append(b"two")
    assert (first, buffer.take()) == (b"one", b"two")


def test_read_into(payload):
    buffer = payload.PayloadBuffer()
    buffer.append(b"head:")
    content, sent = bytes(i % 251 for i in range(300000)), 0
    while sent < len(content):
        with buffer.reserve(len(content) - sent) as view:
            assert view.contiguous and not view.readonly and view.format == "B"
            got = min(len(view), 10007)
            view[:got] = content[sent : sent + got]
        buffer.commit(got)
        sent += got
        assert len(buffer) == 5 + sent
    buffer.append(b":tail")
    assert buffer.take() == b"head:" + content + b":tail"


def test_the_room_is_never_more_than_asked_for(payload):
    for size in (1, 2, 100, 5000, 16384):
        assert len(payload.PayloadBuffer().reserve(size)) == size


def test_room_grows_with_what_has_arrived_not_with_what_was_announced(payload):
    buffer = payload.PayloadBuffer()
    with buffer.reserve(1 << 40) as view:
        assert len(view) == 16384
    for _ in range(12):
        with buffer.reserve(1 << 40) as view:
            assert 0 < len(view) <= max(16384, 2 * len(buffer))
            size = len(view)
        buffer.commit(size)
    assert len(buffer) >= 1 << 22  # it does grow


@pytest.mark.parametrize("size", [100_000, 1 << 20, 5_000_000])
def test_no_more_room_is_made_than_the_last_bytes_take(payload, size):
    buffer = payload.PayloadBuffer()
    tracemalloc.start()
    try:
        while len(buffer) < size:
            with buffer.reserve(size - len(buffer), True) as view:
                got = min(50_000, len(view))
            buffer.commit(got)
        assert tracemalloc.get_traced_memory()[0] < 1.2 * size  # BytesIO keeps an eighth in reserve
    finally:
        tracemalloc.stop()
    assert len(buffer.take()) == size


def test_what_is_left_of_the_room_is_used(payload):
    buffer = payload.PayloadBuffer()
    buffer.reserve(16384).release()
    buffer.commit(1000)
    assert len(buffer.reserve(16384)) == 15384
    assert len(buffer.reserve(10)) == 10


def test_no_read_of_a_few_bytes_at_the_end_of_the_room(payload):
    buffer = payload.PayloadBuffer()
    buffer.reserve(16384).release()
    buffer.commit(16380)
    assert len(buffer.reserve(100000)) >= 4096


def test_room_not_committed_is_not_content(payload):
    buffer = payload.PayloadBuffer()
    with buffer.reserve(10) as view:
        view[:] = b"0123456789"
    buffer.commit(3)
    buffer.append(b"abc")
    with buffer.reserve(4):
        pass
    buffer.commit(0)
    assert buffer.take() == b"012abc"


@pytest.mark.parametrize("size", [0, -1])
def test_no_room_for_nothing(payload, size):
    with pytest.raises(ValueError, match=f"room for {size} bytes"):
        payload.PayloadBuffer().reserve(size)


def test_no_more_is_committed_than_was_made_room_for(payload):
    buffer = payload.PayloadBuffer()
    with pytest.raises(ValueError, match="1 bytes in room for 0"):
        buffer.commit(1)
    buffer.reserve(10).release()
    for size in (11, -1, 1 << 40):
        with pytest.raises(ValueError, match=f"{size} bytes in room for 10"):
            buffer.commit(size)
    assert len(buffer) == 0
    buffer.commit(3)
    with pytest.raises(ValueError, match="8 bytes in room for 7"):
        buffer.commit(8)


def test_a_living_view_is_never_pulled_away(payload):
    buffer = payload.PayloadBuffer()
    view = buffer.reserve(100)
    for act in (lambda: buffer.append(b"x"), buffer.take, lambda: buffer.reserve(1 << 20)):
        with pytest.raises(BufferError):
            act()
    view[:] = b"y" * 100
    view.release()
    buffer.commit(100)
    assert buffer.take() == b"y" * 100


def test_a_view_outlives_its_buffer(payload):
    view = payload.PayloadBuffer().reserve(100)
    view[:] = b"y" * 100
    assert bytes(view) == b"y" * 100


@pytest.mark.parametrize("data", ["text", None, 5])
def test_only_bytes(payload, data):
    with pytest.raises(TypeError):
        payload.PayloadBuffer().append(data)


def test_many_small_pieces_do_not_cost_more_than_their_bytes(payload):
    buffer = payload.PayloadBuffer()
    tracemalloc.start()
    try:
        for _ in range(20000):
            buffer.append(b"x")
        assert tracemalloc.get_traced_memory()[0] < 60000
    finally:
        tracemalloc.stop()
    assert buffer.take() == b"x" * 20000

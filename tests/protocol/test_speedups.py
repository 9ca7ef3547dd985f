"""The C twin: the same answers as the Python twin's, and nothing kept.

What both do is tested by test_masking, test_utf8, test_frames, test_payload and test_wholehead.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from websocketserver.exceptions import ProtocolError

from .fuzz_twins import STORIES, check, heads
from .twins import CHOSEN, HAVE_C, PACKAGE, PYTHON

pytestmark = pytest.mark.skipif(not HAVE_C, reason="the C twin is not built")

KEY = b"\x01\xf2\xa3\xb4"
HOT = [
    ("masking", "mask"),
    ("masking", "mask_in_place"),
    ("utf8", "Utf8Validator"),
    ("utf8", "decode"),
    ("utf8", "encode"),
    ("frames", "FrameParser"),
    ("payload", "PayloadBuffer"),
    ("frames", "serialize"),
    ("frames", "serialize_header"),
    ("wholehead", "split_request"),
    ("wholehead", "split_response"),
]


@pytest.mark.parametrize("module, name", HOT)
def test_the_seam_chooses(module, name):
    assert getattr(CHOSEN[module], name).__module__.endswith("_speedups")
    assert getattr(PYTHON[module], name).__module__ == f"{PACKAGE}.{module}"


@pytest.mark.parametrize("first", range(0, 4000, 500))
def test_the_twins_give_the_same_answers(first):
    for seed in range(first, first + 500):
        check(seed)


@pytest.mark.parametrize("story", STORIES[:3] + STORIES[-2:])
def test_no_story_leaks(story):
    def tell() -> None:
        for seed in range(40):
            for _ in story(CHOSEN, Random(seed)):
                pass

    tell()
    tracemalloc.start()
    try:
        tell()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            tell()
        assert tracemalloc.get_traced_memory()[0] - before < 1000
    finally:
        tracemalloc.stop()


def test_heads_are_not_kept():
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for seed in range(2000):
            for _ in heads(CHOSEN, Random(seed)):
                pass
        # Of some ten thousand heads; of tuples and lists that are gone, some are kept for the next.
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def counts(*objects: object) -> list[int]:
    gc.collect()  # what earlier tests left
    return [sys.getrefcount(thing) for thing in objects]


def fails(function: Callable[..., object], *args: object, **options: object) -> None:
    with pytest.raises((TypeError, ValueError, BufferError, ProtocolError)):
        function(*args, **options)


def test_functions_give_back_every_reference():
    masking, frames = CHOSEN["masking"], CHOSEN["frames"]
    data, buffer, key, short, text = bytes(5000), bytearray(5000), bytes(bytearray(KEY)), b"abc", "text" * 9
    objects = (data, buffer, key, short, text, ProtocolError)
    before = counts(*objects)
    for _ in range(50):
        masking.mask(data, key)
        masking.mask_in_place(buffer, key, 3)
        frames.serialize(1, data, key=key)
        frames.serialize(opcode=1, payload=buffer)
        frames.serialize_header(1, 70000, key=key)
        fails(masking.mask, data, short)
        fails(masking.mask, text, key)
        fails(masking.mask, data)
        fails(masking.mask_in_place, data, key)
        fails(masking.mask_in_place, buffer, key, text)
        fails(frames.serialize, 1, data, key=short)
        fails(frames.serialize, 1, data, key=text)
        fails(frames.serialize, 16, data, key=key)
        fails(frames.serialize, 1, text, True, 0, key)
        fails(frames.serialize, 1, data, True, 0, key, key)
        fails(frames.serialize, 1, data, payload=data)
        fails(frames.serialize, 1, data, other=key)
        fails(frames.serialize_header, 1, text)
        fails(frames.serialize_header, key=key)
    assert counts(*objects) == before
    buffer.append(0)  # no view has stayed


def test_objects_give_back_every_reference():
    frames, payloads, validator = CHOSEN["frames"], CHOSEN["payload"], CHOSEN["utf8"].Utf8Validator
    frame, broken, bad = bytes(bytearray(b"\x81\x05Hello")), bytes(bytearray(b"\x8f\x05")), bytes(bytearray(b"\xff"))
    frames.FrameParser(masked=False)  # the first keeps Frame and Message
    objects = (frame, broken, bad, frames.FrameParser, payloads.PayloadBuffer, validator, frames.Frame, ProtocolError)
    before = counts(*objects)
    for _ in range(50):
        parser = frames.FrameParser(masked=False)
        parser.feed(frame)
        parser.next_frame()
        parser.feed(frame)
        parser.feed(frame)
        parser.next_frame()
        parser = frames.FrameParser(masked=False, max_size=None)
        parser.feed(broken)
        fails(parser.next_frame)
        parser = frames.FrameParser(masked=False)
        parser.feed(frame * 3 + b"\x81\x01\xff")
        parser.next_message(None, True)
        parser.next_messages(5, False, 1000, 1)
        assert parser.next_message(None, True) is None
        fails(parser.next_message, None)
        fails(parser.next_message, "5", True)
        fails(parser.next_messages, None, True, -1, 0)
        fails(parser.feed, "text")
        fails(parser.unmask, memoryview(bytearray(1)))
        fails(frames.FrameParser, masked=False, max_size="5")
        fails(frames.FrameParser, masked=False, rsv=8)
        fails(validator().feed, bad)
        fails(validator().feed, "text")
        payload = payloads.PayloadBuffer()
        payload.append(frame)
        view = payload.reserve(5)
        fails(payload.take)
        fails(payload.append, frame)
        fails(memoryview, payload)
        del payload, view, parser
    assert counts(*objects) == before


def test_large_payloads_in_many_threads():
    """Beyond a MiB the GIL is released."""
    masking, frames = CHOSEN["masking"], CHOSEN["frames"]
    data = Random(1).randbytes(3 << 20)
    masked = PYTHON["masking"].mask(data, KEY)
    text = "Größe 日本語 ".encode() * 80_000
    frame = frames.serialize(2, data, key=KEY)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: masking.mask(data, KEY) == masked, range(8))) == [True] * 8
        assert list(pool.map(lambda _: frames.serialize(2, data, key=KEY) == frame, range(8))) == [True] * 8
        assert list(pool.map(lambda _: CHOSEN["utf8"].Utf8Validator().feed(text, True), range(8))) == [None] * 8
    assert frame.endswith(masked)
    with pytest.raises(ProtocolError):
        CHOSEN["utf8"].Utf8Validator().feed(text + b"\xff")


def test_types_are_closed():
    """Not to be subclassed nor changed, as types that several interpreters may share."""
    for kind in (CHOSEN["frames"].FrameParser, CHOSEN["payload"].PayloadBuffer):
        with pytest.raises(TypeError):
            type("Derived", (kind,), {})
        with pytest.raises(TypeError):
            kind.feed = None


if sys.version_info >= (3, 12):

    def test_an_interpreter_with_a_gil_of_its_own():
        interpreters = pytest.importorskip("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
        script = f"""if True:
            import sys
            sys.path[:] = {sys.path!r}
            from websocketserver.protocol import frames
            assert frames.FrameParser.__module__.endswith("_speedups")
            parser = frames.FrameParser(masked=False)
            parser.feed(b"\\x81\\x05Hello")
            assert parser.next_frame() == (1, True, 0, 5, b"Hello", True)
        """
        number = interpreters.create()
        try:
            assert interpreters.run_string(number, script) is None
        finally:
            interpreters.destroy(number)

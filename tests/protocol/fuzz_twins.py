"""Hold the twins equal: the same random story told to both, and what each answers compared.

    python -m tests.protocol.fuzz_twins 1000000 [first seed]

ends with the first seed that tells them apart, or says how many stories were the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType
from typing import Any

from websocketserver.exceptions import ProtocolError

from .twins import CHOSEN, HAVE_C, PYTHON

Twin = dict[str, ModuleType]
Trace = Iterator[Any]

TEXTS = ["a", "plain ASCII " * 9, "é", "日本語", "🧀", "\ud7ff\ue000", "\U0010ffff", "\x00\x7f\x80"]
BOUNDS = b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xed\xef\xf0\xf4\xf5\xff"
EDGES = [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 124, 125, 126, 127, 128, 200, 2047, 2048, 2049]
FAR = [65535, 65536, 65537, 70001]


def outcome(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a call gives, or how it fails; the words of TypeError and BufferError are free."""
    try:
        return function(*args, **options)
    except (TypeError, BufferError) as error:
        return type(error).__name__
    except ProtocolError as error:
        return "ProtocolError", str(error), error.close_code
    except ValueError as error:
        return "ValueError", str(error)


def size(random: Random) -> int:
    pool = random.random()
    return random.choice(FAR) if pool < 0.02 else random.choice(EDGES) if pool < 0.5 else random.randrange(40)


def kind(random: Random, data: bytes) -> bytes | bytearray | memoryview:
    """Return the data as one of the kinds of buffer, aligned or not."""
    shift = random.randrange(9)
    shifted = memoryview(bytes(shift) + data)[shift:]
    return random.choice([data, data, bytearray(data), memoryview(data), shifted])


def key(random: Random) -> bytes:
    return random.randbytes(4 if random.random() < 0.97 else random.randrange(6))


def masking(twin: Twin, random: Random) -> Trace:
    data = random.randbytes(size(random))
    yield outcome(twin["masking"].mask, kind(random, data), key(random))
    buffer = bytearray(data)
    start, offset = random.randrange(9), random.choice([0, 1, 2, 3, 6, 1 << 62, -1, -6])
    yield outcome(twin["masking"].mask_in_place, memoryview(buffer)[start:], key(random), offset)
    yield bytes(buffer)


def serializing(twin: Twin, random: Random) -> Trace:
    frames = twin["frames"]
    payload = kind(random, random.randbytes(size(random)))
    opcode = random.randrange(16) if random.random() < 0.95 else random.choice([-1, 16, 1 << 70])
    rsv = random.randrange(8) if random.random() < 0.95 else random.choice([-1, 8, 1 << 70])
    fin, masked = random.random() < 0.5, key(random) if random.random() < 0.5 else None
    yield outcome(frames.serialize, opcode, payload, fin, rsv, masked)
    yield outcome(frames.serialize, opcode, payload, key=masked)
    length = random.choice([*EDGES, *FAR, (1 << 63) - 1, 1 << 63, -1, 1 << 70])
    yield outcome(frames.serialize_header, opcode, length, rsv=rsv, key=masked, fin=fin)


def validating(twin: Twin, random: Random) -> Trace:
    validator = twin["utf8"].Utf8Validator()
    for _ in range(random.randrange(1, 12)):
        data = bytearray("".join(random.choices(TEXTS, k=random.randrange(6))).encode())
        if random.random() < 0.3 and data:
            del data[random.randrange(len(data)) :]
        if random.random() < 0.3 and data:
            data[random.randrange(len(data))] = random.choice(BOUNDS)
        if random.random() < 0.1:
            yield validator.reset()
        at = 0
        while at < len(data):
            step = random.randrange(1, random.choice([4, 70, 300]))
            yield outcome(validator.feed, kind(random, bytes(data[at : at + step])), random.random() < 0.1)
            at += step
        yield outcome(validator.feed, b"", random.random() < 0.5)


def stream(random: Random, masked: bool) -> bytes:
    """Return frames as a peer would send them, some of them broken."""
    data = bytearray()
    for _ in range(random.randrange(1, 8)):
        opcode = random.choice([0, 1, 2, 1, 2, 8, 9, 10])
        length = random.randrange(126) if opcode > 2 else size(random)
        rsv = random.randrange(8) if random.random() < 0.1 else 0
        fin = opcode > 2 or random.random() < 0.7
        masking_key = random.randbytes(4) if masked else None
        payload = random.randbytes(length)
        if opcode == 1 and random.random() < 0.7:
            payload = "".join(random.choices(TEXTS, k=random.randrange(40))).encode()
        frame = PYTHON["frames"].serialize(opcode, payload, fin, rsv, masking_key)
        if random.random() < 0.1:
            frame = bytearray(frame)
            for _ in range(random.randrange(1, 4)):
                frame[random.randrange(min(len(frame), 12))] = random.choice([0, 1, 125, 126, 127, 128, 254, 255])
        data += frame
    return bytes(data)


def parsing(twin: Twin, random: Random) -> Trace:
    masked = random.random() < 0.5
    max_size = random.choice([None, None, 1 << 80, 0, 5, 125, 126, 1000, 65536, -1])
    parser = outcome(twin["frames"].FrameParser, masked=masked, max_size=max_size, rsv=random.randrange(-1, 9))
    if isinstance(parser, tuple):
        yield parser
        return
    data = stream(random, masked == (random.random() < 0.97))
    most, at = random.choice([3, 20, 200, 1 << 20]), 0
    while at < len(data):
        step = random.randrange(1, most)
        if random.random() < 0.05:
            yield outcome(parser.unmask, memoryview(bytearray(random.randrange(200))))
        if parser.remaining and not parser.buffered and random.random() < 0.3:  # read into its final place
            view = bytearray(data[at : at + min(step, parser.remaining)])
            yield outcome(parser.unmask, memoryview(view)), bytes(view)
            at += len(view)
        else:
            yield outcome(parser.feed, kind(random, data[at : at + step]))
            at += step
        for _ in range(random.choice([0, 1, 1, 2, 100])):
            if random.random() < 0.3:
                yield from messages(parser, random)
            frame = outcome(parser.next_frame)
            yield frame, parser.buffered, parser.remaining
            if frame is None:
                break
            if frame[0] == "ProtocolError":
                yield outcome(parser.next_frame)
                return


def messages(parser: Any, random: Random) -> Trace:
    """Ask for whole messages; what is none of these is left as it is."""
    limit, decode = random.choice([None, None, 0, 5, 126, 1 << 80, -1, -(1 << 80)]), random.random() < 0.6
    if random.random() < 0.5:
        yield outcome(parser.next_message, limit, decode)
    else:
        room, each = random.choice([0, 1, 50, 1000, 1 << 40, -1]), random.choice([0, 1, 64, 1 << 40, -1])
        yield outcome(parser.next_messages, limit, decode, room, each)
    yield parser.buffered, parser.remaining


def collecting(twin: Twin, random: Random) -> Trace:
    buffer = twin["payload"].PayloadBuffer()
    for _ in range(random.randrange(1, 12)):
        act = random.random()
        if act < 0.4:
            yield outcome(buffer.append, kind(random, random.randbytes(size(random))))
        elif act < 0.9:
            last = random.random() < 0.5
            view = outcome(buffer.reserve, random.choice([-1, 0, 1, 10, 5000, 20000, 1 << 40]), last)
            if isinstance(view, memoryview):
                room = len(view)
                filled = random.randrange(room + 1) if random.random() < 0.9 else room
                view[:filled] = random.randbytes(filled)
                view.release()
                yield room, outcome(buffer.commit, filled if random.random() < 0.9 else random.choice([-1, 1 << 40]))
            else:
                yield view
        else:
            yield buffer.take()
        yield len(buffer)
    yield buffer.take()


EDGY = b"\0\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc2\xdf\xe0\xed\xf0\xf4\xf5\xff"  # bytes at the ends of ranges
PIECES = ["a", "é", "€", "😀", "\x7f\x80", "\u07ff\u0800", "\uffff\U00010000", "\U0010ffff"]


def coding(twin: Twin, random: Random) -> Trace:
    """Texts of all kinds of strings, and bytes that are nearly UTF-8."""
    utf8 = twin["utf8"]
    pieces = random.choices(PIECES, k=random.randrange(1, 4))
    text = "".join(random.choices(pieces, k=random.randrange(130)))
    if random.random() < 0.2:
        text += random.choice(["\ud800", "\udfff"]) + text[: random.randrange(5)]
    data = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(random.randrange(3)):
        if data:
            data[random.randrange(len(data))] = random.choice(EDGY)
    del data[len(data) - random.randrange(3) :]
    yield outcome(utf8.encode, text)
    yield outcome(utf8.decode, kind(random, bytes(data)))


def heads(twin: Twin, random: Random) -> Trace:
    """Whole heads, some with a few bytes changed, cut, or too much of something."""
    wholehead = twin["wholehead"]
    lines = [random.choice(HEAD_LINES) for _ in range(random.randrange(6))]
    first, behind = random.choice(REQUEST_LINES + STATUS_LINES), random.choice((b"", b"\x81\x85", b"\r\n\r\n"))
    data = bytearray(first + b"".join(lines) + b"\r\n" + behind)
    for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
        at = random.randrange(len(data) + 1)
        data[at : at + random.randrange(3)] = random.choice(HEAD_BYTES)
    for room in (len(data), len(data) - random.randrange(4), 8192):
        for split in (wholehead.split_request, wholehead.split_response):
            yield outcome(split, bytes(data), room, random.choice((0, 2, 100)), wholehead.COMMON_NAMES)


REQUEST_LINES = (
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b=c%20 HTTP/1.0\r\n",
    b"!#$ http://h:1/ HTTP/1.1\r\n",
    b"GET / HTTP/2.0\r\n",
    b"",
)
STATUS_LINES = (
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 101\r\n",
    b"HTTP/1.0 404 \xe4\t \r\n",
    b"HTTP/1.1 100 Continue\r\n",
)
HEAD_LINES = (
    *(b"Host: h\r\n", b"Connection: Upgrade\r\n", b"connection:keep-alive , x\r\n", b"Cookie:\r\n"),
    *(
        b"X-Any:\t \xe4\t b \t\r\n",
        b"Cookie: a:b\r\n",
        b"x-any: 1\r\n",
        b" folded: 1\r\n",
        b"a b: 1\r\n",
        b"\xdcber: 1\r\n",
    ),
)
HEAD_BYTES = (
    b"",
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b":",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"a",
    b"/",
    b"{",
    b"@",
    b"\x1f",
)

STORIES = [masking, serializing, validating, parsing, parsing, parsing, heads, collecting, coding]


def check(seed: int) -> None:
    """Tell one story to both; AssertionError at the first answer that differs."""
    story = STORIES[seed % len(STORIES)]
    answers = zip(story(PYTHON, Random(seed)), story(CHOSEN, Random(seed)), strict=True)
    for number, (python, c) in enumerate(answers):
        assert python == c, f"seed {seed}, {story.__name__}, answer {number}:\n  Python {python!r}\n  C      {c!r}"


def main(count: int, first: int = 0) -> None:
    if not HAVE_C:
        sys.exit("the C twin is not built, and it is what this compares: pip install -e .")
    for seed in range(first, first + count):
        check(seed)
        if (seed - first) % 100_000 == 0:
            print(seed, flush=True)
    print(f"{count} stories, the same with both twins")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""What permessage-deflate costs a connection in memory, and what its levels give.

    python -m tests.benchmarks.deflate_memory

Prints the tables of docs/howto/compression.rst: resident memory of 200 connections' codecs after some traffic and
after their idle time; size and time of messages, by level and length, for each zlib that is installed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import multiprocessing
import random
import resource
import sys
import time
from types import ModuleType
from typing import Any

from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.extensions import RSV1, Codec, Params

CODECS = 200
LIBC = ctypes.CDLL(None)
WORDS = ["alpha", "beta", "gamma", "delta", "the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was"]

SETTINGS: dict[str, dict[str, Any]] = {
    "15 bits, memory level 9": {"bits": 15, "memory_level": 9},
    "15 bits, memory level 8": {"bits": 15, "memory_level": 8},
    "13 bits, memory level 6": {"bits": 13, "memory_level": 6},
    "12 bits, memory level 5 (default)": {"bits": 12, "memory_level": 5},
    "10 bits, memory level 3": {"bits": 10, "memory_level": 3},
    "9 bits, memory level 1": {"bits": 9, "memory_level": 1},
    "12 bits, memory level 5, peer with 15": {"bits": 12, "memory_level": 5, "peer_bits": 15},
    "12 bits, memory level 5, no context takeover": {"bits": 12, "memory_level": 5, "alone": True},
}


def records(count: int, seed: int = 1) -> bytes:
    """JSON as applications send it."""
    choice = random.Random(seed)
    return ",".join(
        json.dumps(
            {
                "id": choice.randrange(10**6),
                "user": choice.choice(WORDS),
                "time": f"2026-11-{choice.randrange(1, 31):02}T{choice.randrange(24):02}:{choice.randrange(60):02}:00Z",
                "text": " ".join(choice.choices(WORDS, k=choice.randrange(3, 12))),
                "price": round(choice.random() * 1000, 2),
            }
        )
        for _ in range(count)
    ).encode()


def codec(bits: int, memory_level: int, peer_bits: int | None = None, alone: bool = False, **options: Any) -> Codec:
    """A server's codec, as agreed on with a client of these settings."""
    extension = PerMessageDeflate(
        server_max_window_bits=bits,
        client_max_window_bits=peer_bits or bits,
        server_no_context_takeover=alone,
        client_no_context_takeover=alone,
        memory_level=memory_level,
        threshold=0,
        **options,
    )
    offer: Params = [("client_max_window_bits", None)]
    agreed = extension.answer(offer)
    assert agreed is not None
    return agreed


def encode(codec: Codec, message: bytes) -> bytes:
    codec.encoder.begin(text=True, size=len(message), compress=True)
    return codec.encoder.encode(message, True)


def decode(codec: Codec, data: bytes) -> bytes:
    codec.decoder.begin(RSV1)
    return codec.decoder.decode(data, True, None)


def resident() -> int:
    """Resident bytes, without what has been freed and the C library still holds."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def memory_of(options: dict[str, Any]) -> tuple[float, float]:
    """Resident KiB of one connection in use, and when it has been idle."""
    text = records(2000)
    messages = [text[start : start + 16_384] for start in range(0, 5 * 16_384, 16_384)]
    peer = codec(bits=options.get("peer_bits", options["bits"]), memory_level=8, alone=options.get("alone", False))
    compressed = [encode(peer, message) for message in messages]
    for _ in range(3):  # what the first ones cost once
        decode(codec(**options), compressed[0])
    before = resident()
    codecs = [codec(**options) for _ in range(CODECS)]
    for each in codecs:
        for message, data in zip(messages, compressed, strict=True):
            encode(each, message)
            decode(each, data)
    used = resident()
    for each in codecs:
        each.encoder.release()
        each.decoder.release()
    idle = resident()
    return (used - before) / CODECS / 1024, (idle - before) / CODECS / 1024


def memory() -> None:
    print(f"resident KiB per connection ({CODECS} codecs): in use, idle")
    for title, options in SETTINGS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            used, idle = pool.apply(memory_of, (options,))
        print(f"{title:48} {used:6.1f} {idle:6.1f}")


def zlibs() -> list[ModuleType]:
    found = []
    for name in ("zlib", "zlib_ng.zlib_ng", "isal.isal_zlib"):
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            print(f"({name} is not installed)")
    return found


def speed(module: ModuleType, level: int, size: int, alone: bool) -> tuple[float, float, float]:
    """Size on the wire in per cent, microseconds to compress and to inflate one message, the best of three runs."""
    text = records(5000)
    messages = [text[start : start + size] for start in range(0, min(len(text) - size, 400 * size), size)]
    best = [float("inf")] * 2
    for _ in range(3):
        mine, theirs = (codec(12, 5, alone=alone, level=level, zlib=module) for _ in range(2))
        start = time.perf_counter()
        wire = [encode(mine, message) for message in messages]
        between = time.perf_counter()
        for data in wire:
            decode(theirs, data)
        end = time.perf_counter()
        best = [min(best[0], between - start), min(best[1], end - between)]
    return 100 * sum(map(len, wire)) / size / len(messages), *(1e6 * each / len(messages) for each in best)


def speeds() -> None:
    print("per message of JSON: bytes on the wire in %, microseconds to compress, to inflate")
    for size, alone in [
        (100, True),
        (100, False),
        (256, True),
        (256, False),
        (1024, True),
        (1024, False),
        (16_384, False),
        (262_144, False),
    ]:
        for module in zlibs():
            for level in (1, 2, 3) if "isal" in module.__name__ else (1, 4, 6, 9):
                share, compress, inflate = speed(module, level, size, alone)
                context = "no context" if alone else "context"
                print(f"{size:8} {context:10} {module.__name__:16} {level} {share:6.1f} {compress:8.1f} {inflate:7.1f}")


if __name__ == "__main__":
    if sys.platform.startswith("linux"):
        memory()
    speeds()

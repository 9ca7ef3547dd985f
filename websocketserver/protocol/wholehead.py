"""Whole heads: the quick way to take a head apart that has come in one piece, which most do.

Owns     split_request, split_response, and the names that nearly every head has.
Imports  grammar, and the C twins of both where they are built.
Never    says what is wrong: for whatever is unusual the answer is None, and headers.py tells what it is.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from .grammar import TOKEN, count_controls, is_token

__all__ = ["COMMON_NAMES", "Fields", "Names", "Pairs", "Start", "add_header", "split_request", "split_response"]

Fields = dict[str, list[str]]
Pairs = list[tuple[str, str]]
Names = dict[str, tuple[str, str]]
Start = tuple[str, str, str, str]  # method, target, version and the whole request line
Status = tuple[str, int, str]  # version, status and reason

COMMON_NAMES: Names = {  # what nearly every head has: not checked each time, and kept once
    name: (name, name.lower())
    for name in (
        *("Host", "Connection", "Upgrade", "Origin", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language"),
        *("Cache-Control", "Pragma", "Cookie", "Authorization", "Referer", "Content-Length", "Content-Type"),
        *("Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"),
        *("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "X-Forwarded-For", "X-Forwarded-Proto"),
        *("Sec-WebSocket-Accept", "Date", "Server"),
    )
}

_match_request_line = re.compile(rf"({TOKEN}) ([!-~]+) (HTTP/1\.[0-9])").fullmatch  # RFC 9112, 3
_match_final = re.compile(r"(HTTP/[0-9]\.[0-9]) (101|[2-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?").fullmatch  # 4


def split_request(data: bytes, room: int, most: int, names: Names, /) -> tuple[Start, Pairs, Fields, int] | None:
    """Return what the request head says that these bytes begin with, and where it ends.

    None where it is not whole within ``room`` bytes, has no headers or more than ``most``, or is wrong. ``names`` are
    of headers, each with the same in lower case, that need not be checked nor made anew.
    """
    end = data.find(b"\r\n\r\n", 0, room)
    line, _, rest = data[: max(end, 0)].partition(b"\r\n")
    start = _match_request_line(line.decode("latin-1"))
    if start is None or (headers := _split_headers(rest, most, names)) is None:
        return None
    return (start[1], start[2], start[3], start[0]), *headers, end + 4


def split_response(data: bytes, room: int, most: int, names: Names, /) -> tuple[Status, Pairs, Fields, int] | None:
    """Return what the head of a final response (101, or from 200 on) says that these bytes begin with, likewise."""
    end = data.find(b"\r\n\r\n", 0, room)
    line, _, rest = data[: max(end, 0)].partition(b"\r\n")
    status = _match_final(line.decode("latin-1"))
    if status is None or (headers := _split_headers(rest, most, names)) is None:
        return None
    return (status[1], int(status[2]), status[3] or ""), *headers, end + 4


def _split_headers(data: bytes, most: int, names: Names) -> tuple[Pairs, Fields] | None:
    """Return what the header lines say that these bytes are, the last without its CRLF; None if any is wrong."""
    lines = data.decode("latin-1").split("\r\n")
    if len(lines) > most or count_controls(data) != 2 * (len(lines) - 1):
        return None
    pairs: Pairs = []
    fields: Fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        common = names.get(name)
        if common is None:
            if not is_token(name):
                return None
            common = name, name.lower()
        if not colon:
            return None
        add_header(pairs, fields, common, value.strip(" \t"))
    return pairs, fields


def add_header(pairs: Pairs, fields: Fields, name: tuple[str, str], value: str) -> None:
    """Add a header, whose name comes with the same in lower case, to both."""
    pairs.append((name[0], value))
    if (values := fields.get(name[1])) is not None:
        values.append(value)
    else:
        fields[name[1]] = [value]


# The seam. To the type checker and the reader the code above is the specification.
if not TYPE_CHECKING and not os.environ.get("WEBSOCKETSERVER_PURE"):
    try:
        from ._speedups import split_request, split_response
    except ImportError:
        pass

"""The grammar of header values: tokens, lists, hosts, extensions with their parameters, and what may be sent.

Owns     RFC 9110, sections 5.5 and 5.6, and RFC 6455, section 9.1, as far as the handshake needs them.
Imports  nothing. Values in, values out; ValueError says what is wrong with one.
Never    backtracks: whatever a peer sends is read in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = [
    "TOKEN",
    "Extensions",
    "check_field",
    "count_controls",
    "format_extension",
    "is_token",
    "parse_extensions",
    "parse_host",
    "tokens",
]

Extensions = list[tuple[str, list[tuple[str, "str | None"]]]]

# No two neighbouring repeats of a pattern match the same character: there is nothing to backtrack into.
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, 5.6.2
_match_token = re.compile(TOKEN).fullmatch
_match_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~%-]*)(?::([0-9]{0,5}))?").fullmatch  # RFC 9110, 7.2
_match_name = re.compile(rf"[ \t]*({TOKEN})?[ \t]*").match  # of one element of a list
_match_param = re.compile(rf';[ \t]*({TOKEN})(?:[ \t]*=[ \t]*(?:({TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*').match
_CONTROLS = bytes(code for code in range(32) if code != 9) + b"\x7f"  # RFC 9110, 5.5: all but HTAB


def is_token(value: str) -> bool:
    """Return whether this is a token (RFC 9110, section 5.6.2): the form of names, methods and subprotocols."""
    return _match_token(value) is not None


def tokens(value: str) -> list[str]:
    """Return the tokens of a comma-separated list, at least one; raises ValueError where it is anything else."""
    items = [item for part in value.split(",") if (item := part.strip(" \t"))]  # RFC 9110, 5.6.1.2
    if not items:
        raise ValueError("empty list")
    for item in items:
        if not _match_token(item):
            raise ValueError("list with an element that is not a token")
    return items


@lru_cache(64)  # nearly all requests are for a few hosts
def parse_host(value: str) -> tuple[str, int | None] | None:
    """Return (host in lower case, port or None) of a Host header's value; None if it is malformed.

    An IPv6 address keeps its brackets. The host may be empty (RFC 9110, section 7.2).
    """
    match = _match_host(value)
    if match is None:
        return None
    host, digits = match.groups()
    port = int(digits) if digits else None
    return None if port is not None and port > 65535 else (host.lower(), port)


def parse_extensions(value: str) -> Extensions:
    """Return what a Sec-WebSocket-Extensions header says: [(name, [(parameter, value or None), ...]), ...].

    In order, duplicates kept, quoted values unquoted. Raises ValueError where RFC 6455, section 9.1, is violated.
    """
    extensions: Extensions = []
    position = 0
    while position <= len(value):
        element = _match_name(value, position)
        assert element is not None
        position = element.end()
        if element[1] is not None:  # RFC 9110, 5.6.1.2: empty elements are passed over
            params: list[tuple[str, str | None]] = []
            while (param := _match_param(value, position)) is not None:
                params.append((param[1], param[2] if param[3] is None else _unquote(param[3])))
                position = param.end()
            extensions.append((element[1], params))
        if position < len(value) and value[position] != ",":
            raise ValueError(f"malformed list of extensions at character {position + 1}")
        position += 1
    if not extensions:
        raise ValueError("empty list of extensions")
    return extensions


def _unquote(quoted: str) -> str:
    value = re.sub(r"\\(.)", r"\1", quoted)
    if not _match_token(value):
        raise ValueError("extension parameter with a quoted value that is not a token")  # RFC 6455, 9.1
    return value


def format_extension(name: str, params: Iterable[tuple[str, str | None]] = ()) -> str:
    """Return one extension as an element of Sec-WebSocket-Extensions; raises ValueError for anything but tokens."""
    parts = [name]
    for key, value in params:
        parts.append(key if value is None else f"{key}={value}")
        if not is_token(key) or not (value is None or is_token(value)):
            raise ValueError(f"parameter {key!r}={value!r} of extension {name!r}: name and value must be tokens")
    if not is_token(name):
        raise ValueError(f"name of an extension must be a token, not {name!r}")
    return "; ".join(parts)


def count_controls(value: bytes) -> int:
    """Return how many control characters other than HTAB there are: none in a header's value (RFC 9110, 5.5)."""
    return len(value) - len(value.translate(None, _CONTROLS))


def check_field(name: str, value: str) -> None:
    """Raise ValueError (TypeError for other types than str) unless this may be sent as a header (RFC 9110, 5)."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"header name and value must be str, not {type(name).__name__} and {type(value).__name__}")
    if not is_token(name):
        raise ValueError(f"header name must be a token (letters, digits, hyphens), not {name!r}")
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"value of header {name} must be Latin-1; encode other characters") from None
    if count_controls(raw):
        raise ValueError(f"value of header {name} must not contain control characters")
    if raw != raw.strip(b" \t"):
        raise ValueError(f"value of header {name} must not begin or end with a blank")

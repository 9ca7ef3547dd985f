"""Hosts: which names a server answers to (RFC 9110, section 7.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .protocol.grammar import parse_host

__all__ = ["AllowedHosts", "is_allowed_host"]

AllowedHosts = Sequence["str | re.Pattern[str]"]


def is_allowed_host(host: str, allowed: AllowedHosts, default_port: int) -> bool:
    """Return whether a Host header's value is one of these hosts.

    ``allowed`` are names and addresses ("example.org", "[::1]"), with any port unless they name one
    ("localhost:8000"), and compiled patterns that must match the whole name, in lower case and without its port.
    Raises TypeError or ValueError for anything else.
    """
    if isinstance(allowed, str):
        raise TypeError("allowed_hosts must be a sequence of hosts, not one str")
    parsed = parse_host(host)
    entries = [entry if isinstance(entry, re.Pattern) else _parse_entry(entry) for entry in allowed]
    if parsed is None or not parsed[0]:
        return False
    name, port = parsed[0], default_port if parsed[1] is None else parsed[1]
    return any(
        entry.fullmatch(name) is not None
        if isinstance(entry, re.Pattern)
        else entry[0] == name and entry[1] in (None, port)
        for entry in entries
    )


def _parse_entry(entry: str) -> tuple[str, int | None]:
    if not isinstance(entry, str):
        raise TypeError(f"an allowed host must be a str or a compiled pattern, not {entry!r}")
    parsed = parse_host(entry)
    if parsed is None or not parsed[0]:
        raise ValueError(
            f"an allowed host is a name or an address, with or without a port, not {entry!r}; "
            "for more than one use a compiled pattern, for all allowed_hosts = None"
        )
    return parsed

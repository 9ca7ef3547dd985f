"""Hosts: which names a server answers to (RFC 9110, section 7.4)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from .exceptions import HandshakeError
from .protocol.grammar import parse_host
from .protocol.headers import RequestHead, requested_host
from .settings import class_value

__all__ = ["HostCheck", "is_allowed_host"]

AllowedHosts = Sequence["str | re.Pattern[str]"]


class HostCheck(BaseHTTPRequestHandler):
    """How a handler looks at the host that a request is for."""

    #: Hosts that requests may be for: names and addresses, with or without a port, and compiled patterns that must
    #: match the whole name; None for any.
    allowed_hosts: ClassVar[AllowedHosts | None] = None

    _head: RequestHead

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the hosts where they are defined, and not with the first request."""
        super().__init_subclass__(**options)
        _parse_allowed(class_value(cls, "allowed_hosts", None) or ())

    def check_host(self, host: str) -> bool:
        """Return whether a request for this host is to be answered; ``host`` as the Host header has it, "" for none.

        By default: one of ``allowed_hosts``. Others are answered 421 (RFC 9110, 7.4), upgrades and ordinary requests.
        """
        allowed = self.allowed_hosts
        secure = isinstance(self.connection, ssl.SSLSocket)
        return allowed is None or is_allowed_host(host, allowed, 443 if secure else 80)

    def _require_host(self) -> None:
        """Raise HandshakeError unless the request is for a host of ours."""
        host = requested_host(self._head)
        if not self.check_host(host):
            raise HandshakeError(f"host {host or '(none)'} is not served here", HTTPStatus.MISDIRECTED_REQUEST)


def is_allowed_host(host: str, allowed: AllowedHosts, default_port: int) -> bool:
    """Return whether a Host header's value is one of these hosts.

    ``allowed`` are names and addresses ("example.org", "[::1]"), with any port unless they name one
    ("localhost:8000"), and compiled patterns that must match the whole name, in lower case and without its port.
    Raises TypeError or ValueError for anything else.
    """
    parsed, entries = parse_host(host), _parse_allowed(allowed)
    if parsed is None or not parsed[0]:
        return False
    name, port = parsed[0], default_port if parsed[1] is None else parsed[1]
    return any(
        entry.fullmatch(name) is not None
        if isinstance(entry, re.Pattern)
        else entry[0] == name and entry[1] in (None, port)
        for entry in entries
    )


def _parse_allowed(allowed: AllowedHosts) -> list[tuple[str, int | None] | re.Pattern[str]]:
    """Return hosts as (name, port or None), or patterns; raises as ``is_allowed_host`` does."""
    if isinstance(allowed, str):
        raise TypeError("allowed_hosts must be a sequence of hosts, not one str")
    return [entry if isinstance(entry, re.Pattern) else _parse_entry(entry) for entry in allowed]


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

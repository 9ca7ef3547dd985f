"""The opening handshake as a server sees it, versions 13 and 8 (RFC 6455, section 4.2).

Owns     what a request must say, and writing the answer; same-origin comparison. The client's side is in asking.py.
Imports  exceptions, grammar, headers, cookies. Pure functions.
Never    decides what an application decides: origin policy, subprotocol, extensions.

Version 8 is draft hybi-08: the same on the wire, but its origin is in Sec-WebSocket-Origin.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPMessage

from ..exceptions import HandshakeError
from .cookies import parse_cookies
from .grammar import Extensions, check_field, parse_extensions, parse_host, tokens
from .headers import (
    HeadError,
    Pairs,
    RequestHead,
    as_message,
    match_absolute,
    requested_host,
    serialize_head,
)

__all__ = [
    "VERSIONS",
    "Request",
    "accept_key",
    "build_response",
    "check_request",
    "is_upgrade",
    "offered_subprotocols",
    "response_fields",
    "same_origin",
    "split_target",
]

VERSIONS = (13, 8)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
ORIGIN_FIELD = {13: "Origin", 8: "Sec-WebSocket-Origin"}
SERVERS_OWN = frozenset(("upgrade", "connection", "content-length", "transfer-encoding"))
_UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}  # what every 426 says (RFC 9110, 15.5.22 and 7.8)
_WEBSOCKET, _CONNECTION = ["websocket"], ["Upgrade"]  # how most say it: lists of one
_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
match_key = re.compile("[0-9A-Za-z+/]{22}==").fullmatch  # base64 of 16 bytes (RFC 6455, 4.1)
_match_version = re.compile("0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]").fullmatch  # RFC 6455, 4.3
_match_origin = re.compile(r"([A-Za-z][0-9A-Za-z+.-]*)://([^/?#@\\]+)").fullmatch  # RFC 6454, 6.2
match_target = re.compile('/[!"$-~]*').fullmatch  # path and query: visible ASCII, no fragment


@dataclass(frozen=True, eq=False)
class Request:
    """The request that opened a connection. Read it from any thread.

    ``target`` is as it was sent, ``path`` and ``query`` its parts, not decoded. ``host`` is the Host header,
    ``origin`` the Origin (None if there was none: not a browser). ``subprotocols`` and ``extensions`` are what the
    client offered, in its order; ``version`` is 13 or 8, ``key`` the Sec-WebSocket-Key.
    """

    method: str
    target: str
    host: str
    origin: str | None
    version: int
    key: str
    subprotocols: list[str]
    extensions: Extensions
    _pairs: Pairs  # of the headers

    @cached_property
    def headers(self) -> HTTPMessage:
        """The headers, as ``http.client.HTTPMessage``."""
        return as_message(self._pairs)

    @cached_property
    def path(self) -> str:
        """The path of the target, as it was sent."""
        return split_target(self.target)[0]

    @cached_property
    def query(self) -> str:
        """What follows the first "?" of the target, as it was sent; "" if there is none."""
        return split_target(self.target)[1]

    @cached_property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; malformed ones are left out, of duplicates the first counts (the closest path)."""
        cookies: dict[str, str] = {}
        for header, value in self._pairs:
            if header.lower() == "cookie":
                for name, content in parse_cookies(value):
                    cookies.setdefault(name, content)
        return cookies


def split_target(target: str) -> tuple[str, str]:
    """Return the path and the query of a request target, as they were sent."""
    absolute = match_absolute(target)
    path, _, query = (absolute[2] if absolute else target).partition("?")
    return path or "/", query


def is_upgrade(head: RequestHead) -> bool:
    """Return whether the request wants to become a WebSocket, be it rightly or wrongly asked for."""
    value = head.fields.get("upgrade")
    return value is not None and (value == _WEBSOCKET or lists(head.fields, "upgrade", "websocket"))


def check_request(head: RequestHead, versions: Sequence[int] = VERSIONS) -> Request:
    """Return the request of an opening handshake that follows RFC 6455, section 4.2.1.

    Raises HandshakeError with the ``status`` and ``headers`` of the answer: 400, 405, 426 or 505.
    """
    fields = head.fields
    _check_http(head)
    host = _check_target(head)
    version = _check_version(fields, versions)
    key = _single(fields, "Sec-WebSocket-Key")
    if key is None or not match_key(key):  # 4.2.1, 5
        raise HeadError("Sec-WebSocket-Key is missing or not the base64 of 16 bytes")
    origin = _single(fields, ORIGIN_FIELD.get(version, "Origin"))  # 4.2.1, 7
    subprotocols = offered_subprotocols(head)
    offered = fields.get("sec-websocket-extensions")
    extensions = [] if offered is None else _offered_extensions(offered)
    return Request(head.method, head.target, host, origin, version, key, subprotocols, extensions, head.pairs)


def _check_http(head: RequestHead) -> None:
    """Check what is HTTP's part of the handshake (4.2.1, 1 to 4)."""
    if head.method != "GET":
        raise HandshakeError("a WebSocket is opened with GET", 405, {"Allow": "GET"})
    if head.version < "HTTP/1.1":
        raise HandshakeError("a WebSocket needs HTTP/1.1", 505)
    # A body would be read as frames (RFC 9112, 6); what is not a number was refused with the head.
    if "transfer-encoding" in head.fields or int(head.fields.get("content-length", ["0"])[0]):
        raise HeadError("the request of an opening handshake has no body")
    fields = head.fields
    if fields.get("upgrade") != _WEBSOCKET and not lists(fields, "upgrade", "websocket"):
        raise HandshakeError("Upgrade does not name websocket", 426, _UPGRADE)
    if fields.get("connection") != _CONNECTION and not lists(fields, "connection", "upgrade"):
        raise HandshakeError("Connection does not name upgrade", 426, _UPGRADE)


def _check_target(head: RequestHead) -> str:
    """Return the host that the request is for (RFC 9112, 3.2 and 3.3)."""
    if not (match_target(head.target) or match_absolute(head.target)):
        raise HeadError("malformed request target")
    host = requested_host(head)
    parsed = parse_host(host)
    if parsed is None or not parsed[0]:
        raise HeadError("the request names no valid host")
    return host


def _check_version(fields: Mapping[str, list[str]], versions: Sequence[int]) -> int:
    """Return the version asked for (4.2.1, 6; 4.4)."""
    if fields.get("sec-websocket-version") == ["13"] and 13 in versions:
        return 13
    version = _single(fields, "Sec-WebSocket-Version")
    allowed = ", ".join(map(str, versions))
    if version is None and "sec-websocket-key" not in fields:  # drafts hixie-75 and -76
        raise HeadError(f"this is no opening handshake of RFC 6455: use Sec-WebSocket-Version {allowed}")
    if version is not None and not _match_version(version):
        raise HeadError("malformed Sec-WebSocket-Version")
    if version is None or int(version) not in versions:
        headers = {**_UPGRADE, "Sec-WebSocket-Version": allowed}
        raise HandshakeError(f"Sec-WebSocket-Version must be one of {allowed}", 426, headers)
    return int(version)


def offered_subprotocols(head: RequestHead) -> list[str]:
    """Return the subprotocols that the client offers, in its order; raises HandshakeError for a malformed list."""
    values = head.fields.get("sec-websocket-protocol")
    if values is None:
        return []
    try:
        subprotocols = tokens(",".join(values))  # 4.2.1, 8
    except ValueError as error:
        raise HeadError(f"malformed Sec-WebSocket-Protocol: {error}") from None
    if len(set(subprotocols)) < len(subprotocols):  # 4.1, 10: the elements must be unique
        raise HeadError("Sec-WebSocket-Protocol names a subprotocol twice")
    return subprotocols


def _offered_extensions(values: list[str]) -> Extensions:
    try:
        return parse_extensions(",".join(values))  # 4.2.1, 9
    except ValueError as error:
        raise HeadError(f"malformed Sec-WebSocket-Extensions: {error}") from None


def lists(fields: Mapping[str, list[str]], key: str, name: str) -> bool:
    """Return whether the header is a list that has this name, in any case."""
    value = ",".join(fields.get(key, ())).lower()
    return value == name or name in [item.strip(" \t") for item in value.split(",")]


def _single(fields: Mapping[str, list[str]], name: str) -> str | None:
    """Return the value of a header that must not be repeated, None if it is absent."""
    values = fields.get(name.lower())
    if values is None:
        return None
    if len(values) > 1:  # 11.3
        raise HeadError(f"more than one {name} header")
    return values[0]


def same_origin(host: str, origin: str) -> bool:
    """Return whether a page of this origin was served by this host, the value of a Host header (RFC 6455, 10.2).

    Host and port count; the default port is that of the origin's scheme, since TLS may end in front of us. "null"
    and whatever is not the origin of a web page are foreign.
    """
    match = _match_origin(origin)
    default = _DEFAULT_PORTS.get(match[1].lower()) if match else None
    if match is None or default is None:
        return False
    theirs = _with_port(match[2], default)
    return theirs is not None and theirs == _with_port(host, default)


def _with_port(host: str, default: int) -> tuple[str, int] | None:
    parsed = parse_host(host)
    if parsed is None or not parsed[0]:
        return None
    return parsed[0], default if parsed[1] is None else parsed[1]


def accept_key(key: str) -> str:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (4.2.2, 5.4)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def build_response(
    request: Request,
    *,
    subprotocol: str | None = None,
    extensions: str = "",
    extra: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return the 101 that accepts a request, ready to be sent: with the headers, and errors, of ``response_fields``."""
    if subprotocol is None and not extensions and extra == ():  # most have nothing to add
        return b"%bSec-WebSocket-Accept: %b\r\n\r\n" % (_SWITCHING, accept_key(request.key).encode())
    fields = response_fields(request, subprotocol=subprotocol, extensions=extensions, extra=extra)
    return serialize_head("HTTP/1.1 101 Switching Protocols", fields)


def response_fields(
    request: Request,
    *,
    subprotocol: str | None = None,
    extensions: str = "",
    extra: Iterable[tuple[str, str]] = (),
) -> list[tuple[str, str]]:
    """Return the headers of the 101 that accepts a request (4.2.2, 5).

    ``extensions`` is the negotiated value, "" for none. Raises ValueError (TypeError for other types than str) for
    a subprotocol that was not offered and for ``extra`` headers that are malformed or the handshake's own.
    """
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(request.key)),
    ]
    if subprotocol is not None:
        if subprotocol not in request.subprotocols:
            offered = ", ".join(request.subprotocols) or "none"
            raise ValueError(f"subprotocol {subprotocol!r} was not offered by the client; offered: {offered}")
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        parse_extensions(extensions)
        fields.append(("Sec-WebSocket-Extensions", extensions))
    fields += checked_extra(extra, SERVERS_OWN)
    return fields


def checked_extra(extra: Iterable[tuple[str, str]], own: frozenset[str]) -> list[tuple[str, str]]:
    """Return the headers that an application adds to a handshake, checked."""
    extra = list(extra)
    for name, value in extra:
        check_field(name, value)
        if name.lower() in own or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"header {name} belongs to the handshake itself; use the argument for it, if there is one")
    return extra

"""Asking for a WebSocket: the opening handshake as a client sees it (RFC 6455, section 4.1).

Owns     writing the request, and what the answer must say. The server's side is in handshake.py.
Imports  exceptions, grammar, headers, cookies, handshake. Pure functions: the random key comes in as an argument.
Never    decides what an application decides: redirects, credentials, another attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from ..exceptions import HandshakeError
from .cookies import format_cookies
from .grammar import Extensions, check_field, is_token, parse_extensions, parse_host
from .handshake import ORIGIN_FIELD, SERVERS_OWN, VERSIONS, accept_key, checked_extra, lists, match_key, match_target
from .headers import ResponseHead, serialize_head

__all__ = ["build_request", "check_response", "host_field"]

CLIENTS_OWN = SERVERS_OWN | {"origin"}


def host_field(host: str, port: int, secure: bool) -> str:
    """Return the Host header for a host name or address; a default port is left out (4.1)."""
    if ":" in host and not host.startswith("["):
        host = f"[{host.partition('%')[0]}]"  # RFC 6874, 4: the zone of an address is nobody else's business
    return host if port == (443 if secure else 80) else f"{host}:{port}"


def build_request(
    host: str,
    target: str,
    key: str,
    *,
    version: int = 13,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    extensions: str = "",
    cookies: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    extra: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return the opening handshake's request (4.1), ready to be sent.

    ``host`` is the Host header (see host_field), replaced by a Host in ``extra``; ``target`` path and query;
    ``key`` the base64 of 16 random bytes; ``extensions`` the offer, "" for none. Raises ValueError or TypeError
    for what may not be sent.
    """
    added = checked_extra(extra, CLIENTS_OWN)
    hosts = [value for name, value in added if name.lower() == "host"] or [host]
    _check_request_arguments(hosts, target, key, version)
    fields = [
        ("Host", hosts[0]),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", str(version)),
    ]
    if origin is not None:
        check_field(ORIGIN_FIELD[version], origin)
        fields.append((ORIGIN_FIELD[version], origin))
    if subprotocols:
        fields.append(("Sec-WebSocket-Protocol", _format_subprotocols(subprotocols)))
    if extensions:
        parse_extensions(extensions)
        fields.append(("Sec-WebSocket-Extensions", extensions))
    fields += [field for field in added if field[0].lower() != "host"]
    if cookie := format_cookies(cookies):
        if any(name.lower() == "cookie" for name, _ in added):
            raise ValueError("cookies are given twice: as an argument and as a header")
        fields.append(("Cookie", cookie))
    return serialize_head(f"GET {target} HTTP/1.1", fields)


def _check_request_arguments(hosts: list[str], target: str, key: str, version: int) -> None:
    if len(hosts) > 1 or not (parse_host(hosts[0]) or [""])[0]:
        raise ValueError(f"host must be one host name or address, with or without a port, not {', '.join(hosts)!r}")
    if not match_target(target):
        raise ValueError(f"target must begin with a slash and be visible ASCII without a fragment, not {target!r}")
    if not match_key(key):
        raise ValueError(f"key must be the base64 of 16 bytes, not {key!r}")
    if version not in VERSIONS:
        raise ValueError(f"version must be 13 or 8, not {version!r}")


def _format_subprotocols(subprotocols: Sequence[str]) -> str:
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of names, not one name")
    for subprotocol in subprotocols:
        if not isinstance(subprotocol, str):
            raise TypeError(f"subprotocol must be a str, not {type(subprotocol).__name__}")
        if not is_token(subprotocol):
            raise ValueError(f"subprotocol must be a token (letters, digits, hyphens, dots), not {subprotocol!r}")
    if len(set(subprotocols)) < len(subprotocols):  # 4.1: the elements must be unique
        raise ValueError(f"subprotocols must be unique: {', '.join(subprotocols)}")
    return ", ".join(subprotocols)


def check_response(
    head: ResponseHead, *, key: str, subprotocols: Sequence[str] = (), extensions: str = ""
) -> tuple[str | None, Extensions]:
    """Return the subprotocol (None for none) and the extensions that the server accepted (4.1, second list).

    ``key``, ``subprotocols`` and ``extensions`` are those of the request. Raises HandshakeError with the answer's
    ``status`` and ``headers`` unless it opens the WebSocket that was asked for.
    """
    try:
        _check_switching(head, key)
        subprotocol = _answered_subprotocol(head.fields, subprotocols)
        return subprotocol, _answered_extensions(head.fields, extensions)
    except ValueError as error:
        headers = cast(Mapping[str, str], head.headers)  # it has a mapping's methods, though not its type
        raise HandshakeError(str(error), head.status, headers) from None


def _check_switching(head: ResponseHead, key: str) -> None:
    if head.status != 101:
        reason = head.reason[:100] if head.reason.isprintable() else ""
        answer = "refused" if head.status >= 400 else "has no WebSocket there"
        raise ValueError(f"the server {answer}: {head.status} {reason}".rstrip())
    if head.version != "HTTP/1.1":
        raise ValueError(f"the server answered with {head.version}, not HTTP/1.1")
    if ",".join(head.fields.get("upgrade", ())).lower() != "websocket":  # 4.1, 2
        raise ValueError("the server's Upgrade is not websocket")
    if not lists(head.fields, "connection", "upgrade"):  # 4.1, 3
        raise ValueError("the server's Connection does not name upgrade")
    if head.fields.get("sec-websocket-accept") != [accept_key(key)]:  # 4.1, 4
        raise ValueError("the server's Sec-WebSocket-Accept is not the answer to our key")


def _answered_subprotocol(fields: Mapping[str, list[str]], offered: Sequence[str]) -> str | None:
    values = fields.get("sec-websocket-protocol")
    if values is None:
        return None
    if len(values) > 1 or values[0] not in offered:  # 4.1, 6: one, and one of ours
        raise ValueError("the server's Sec-WebSocket-Protocol is not one that we offered")
    return values[0]


def _answered_extensions(fields: Mapping[str, list[str]], offered: str) -> Extensions:
    values = fields.get("sec-websocket-extensions")
    if values is None:
        return []
    if not offered:  # 4.1, 5
        raise ValueError("the server accepted an extension, though none was offered")
    try:
        return parse_extensions(",".join(values))
    except ValueError as error:
        raise ValueError(f"the server's Sec-WebSocket-Extensions: {error}") from None

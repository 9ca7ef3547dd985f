"""Opening: the client's side of the opening handshake on a connected stream (RFC 6455, section 4.1)."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from .deadline import Deadline
from .exceptions import HandshakeError
from .protocol.asking import build_request, check_response, host_field
from .protocol.extensions import Codec, Extension, accept_answer, format_offers
from .protocol.headers import ResponseHead, read_response_head, take_response_head
from .streams import LOOK_SIZE, Link, SocketReader

__all__ = ["Accepted", "Opening", "Target", "parse_url"]

MAX_BODY = 64 * 1024  # bytes kept of the body of a refusal
BODY_TIME = 2.0  # seconds that it may take: it is only the explanation, and may never end

KEY_FIELD = b"\r\nSec-WebSocket-Key: "
SOME_KEY = base64.b64encode(bytes(16)).decode()

Fields = Mapping[str, str] | Iterable[tuple[str, str]]


class Target(NamedTuple):
    """What a WebSocket URL says (RFC 6455, section 3)."""

    secure: bool
    host: str
    port: int
    path: str  # with the query
    credentials: bytes | None  # user:password

    def has_secrets(self) -> bool:
        """Return whether there may be something in it that is to be forgotten with its client."""
        return self.credentials is not None or "?" in self.path


class Accepted(NamedTuple):
    """What the server has agreed to, and what it sent behind its answer."""

    head: ResponseHead
    subprotocol: str | None
    codecs: list[Codec]
    rest: bytes


class Opening:
    """One opening handshake: what is asked for, checked as soon as it is made.

    Raises ValueError or TypeError for what may not be sent.
    """

    def __init__(
        self,
        target: Target,
        *,
        version: int,
        origin: str | None,
        subprotocols: Sequence[str],
        headers: Fields | None,
        cookies: Fields | None,
        extensions: Sequence[Extension],
    ) -> None:
        self._subprotocols = tuple(subprotocols) if not isinstance(subprotocols, str) else subprotocols
        self._extensions = extensions
        self._offer = format_offers(extensions) if extensions else ""
        self._key = binascii.b2a_base64(os.urandom(16), newline=False).decode()  # unpredictable, new each time (4.1, 7)
        if not (headers or cookies or target.has_secrets()):  # the usual case
            with suppress(TypeError):  # unhashable, hence wrong, as is found below
                before, behind = _request_parts(target, version, origin, self._subprotocols, self._offer)
                self.request = before + self._key.encode() + behind
                return
        extra = _pairs("headers", headers)
        if target.credentials is not None and not any(str(name).lower() == "authorization" for name, _ in extra):
            extra.append(("Authorization", "Basic " + base64.b64encode(target.credentials).decode()))  # RFC 7617
        self.request = build_request(
            host_field(target.host, target.port, target.secure),
            target.path,
            self._key,
            version=version,
            origin=origin,
            subprotocols=self._subprotocols,
            extensions=self._offer,
            cookies=_pairs("cookies", cookies),
            extra=extra,
        )

    def perform(self, link: Link, deadline: Deadline) -> Accepted:
        """Send the request and return what the server agreed to, all by the deadline.

        Raises HandshakeError with the server's status, headers and the beginning of its body, and OSError.
        """
        link.limit = deadline
        link.send(memoryview(self.request))
        received = link.receive(LOOK_SIZE)
        taken = take_response_head(received)
        if taken is not None and taken[0].status == 101:  # the usual case: it has come as one piece
            head, size = taken
            return self._check(head, received[size:])
        raw = SocketReader(link, received)
        reader = io.BufferedReader(raw)
        head = read_response_head(reader.readline)
        if head.status == 101:
            raw.stop()  # what has been read beyond the head are the first frames
            return self._check(head, reader.read())
        try:
            return self._check(head, b"")
        except HandshakeError as error:
            link.limit = deadline.sooner(BODY_TIME)
            error.body = _read_body(reader, head)
            raise

    def _check(self, head: ResponseHead, rest: bytes) -> Accepted:
        """Return what the server agreed to; raises HandshakeError."""
        try:
            subprotocol, answers = check_response(
                head, key=self._key, subprotocols=self._subprotocols, extensions=self._offer
            )
            codecs = accept_answer(answers, self._extensions) if answers else []
        except HandshakeError as error:
            raise HandshakeError(str(error), head.status, head.headers) from None  # type: ignore[arg-type]
        return Accepted(head, subprotocol, codecs, rest)


@lru_cache(64, typed=True)  # as parse_url
def _request_parts(
    target: Target, version: int, origin: str | None, subprotocols: Sequence[str], offer: str
) -> tuple[bytes, bytes]:
    """Return what of a request is before and behind its key."""
    host = host_field(target.host, target.port, target.secure)
    request = build_request(
        host, target.path, SOME_KEY, version=version, origin=origin, subprotocols=subprotocols, extensions=offer
    )
    begin = request.index(KEY_FIELD) + len(KEY_FIELD)
    return request[:begin], request[begin + len(SOME_KEY) :]


def parse_url(url: str) -> Target:
    """Return what a ws:// or wss:// URL says; raises ValueError, and says what would be right."""
    if not isinstance(url, str):
        raise TypeError(f"the URL must be a str, not {type(url).__name__}")
    return _parse_url(url) if "@" in url or "?" in url else _known_url(url)  # no secret is kept


def _parse_url(url: str) -> Target:
    if any(character <= " " or character == "\x7f" for character in url):  # urlsplit would drop some silently
        raise ValueError(f"the URL {url!r} has a space or a control character; write %20 and the like")
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not a WebSocket URL: {url!r}; it looks like ws://host:port/path or wss://...")
    if parts.fragment or url.endswith("#"):
        raise ValueError(f"the URL {url!r} has a fragment (#), which WebSocket URLs cannot have")  # 3
    try:
        host = parts.hostname.encode("idna").decode()  # as resolver and TLS would, but before anything is begun
    except UnicodeError as error:
        raise ValueError(f"the host of {url!r} is not a valid name: {error}") from None
    if not _has_port(parts):
        raise ValueError(f"the port of {url!r} is not a number from 1 to 65535")
    secure = parts.scheme == "wss"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~[]")
    if parts.query:
        path += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~[]")
    credentials = None
    if parts.username is not None:
        user = unquote_to_bytes(parts.username)
        if b":" in user:  # RFC 7617, 2: what follows would be taken for the password
            raise ValueError("the user's name in the URL has a colon, which Basic authentication cannot express")
        credentials = user + b":" + unquote_to_bytes(parts.password or "")
    return Target(secure, host, parts.port or (443 if secure else 80), path, credentials)


def _has_port(parts: SplitResult) -> bool:
    """Return whether the port is one that somebody can listen on, or left out."""
    try:
        return parts.port != 0
    except ValueError:
        return False


_known_url = lru_cache(64)(_parse_url)  # who comes again, comes to the same place


def _pairs(what: str, fields: Fields | None) -> list[tuple[str, str]]:
    if fields is None:
        return []
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"{what} must be a mapping, or pairs of a name and a value")
    return pairs


def _read_body(reader: io.BufferedReader[SocketReader], head: ResponseHead) -> bytes:
    """Return the beginning of the body of a refusal: as much as comes, at most MAX_BODY."""
    body = b""
    try:
        if [value.lower() for value in head.fields.get("transfer-encoding", ())] == ["chunked"]:
            while len(body) < MAX_BODY and (size := int(reader.readline(32).split(b";")[0], 16)) > 0:
                body += _read_up_to(reader, min(size, MAX_BODY - len(body)))
                reader.readline(3)
            return body
        length = head.fields.get("content-length", [str(MAX_BODY)])[0]
        return _read_up_to(reader, min(int(length), MAX_BODY))
    except (OSError, ValueError):
        return body


def _read_up_to(reader: io.BufferedReader[SocketReader], size: int) -> bytes:
    data = b""
    try:
        while len(data) < size and (more := reader.read1(size - len(data))):
            data += more
    except OSError:  # it is only the explanation of a refusal
        pass
    return data

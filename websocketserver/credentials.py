"""Credentials: who somebody is, by a token or by a name and a password, for ``authorize`` and ``do_GET``.

Owns     finding credentials in a request, and comparing them in a time that says nothing about them.
Never    remembers a secret as it was given, nor writes one anywhere: logs.py keeps those of the query out of the log.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, unquote_plus

from .exceptions import HandshakeError
from .protocol.cookies import parse_cookies
from .protocol.grammar import check_field, count_controls, is_token
from .protocol.handshake import split_target

__all__ = ["BasicAuth", "TokenAuth"]

Handler = BaseHTTPRequestHandler


class _Auth(ABC):
    """What both ways have in common. Any thread."""

    def __init__(self, challenge: str) -> None:
        check_field("WWW-Authenticate", challenge)
        self.challenge = challenge  #: what a 401 says in its WWW-Authenticate header (RFC 9110, 11.6.1)

    @abstractmethod
    def identify(self, handler: Handler) -> Any:
        """Return who sends the handler's request, None if that is not proved."""

    def require(self, handler: Handler) -> Any:
        """Return who sends the handler's request; for ``authorize``, which answers what is raised.

        Raises HandshakeError (401, with its WWW-Authenticate) if that is not proved.
        """
        who = self.identify(handler)
        if who is None:
            headers = {"WWW-Authenticate": self.challenge}
            raise HandshakeError("no valid credentials", HTTPStatus.UNAUTHORIZED, headers)
        return who


class TokenAuth(_Auth):
    """Tells by a token who sends a request::

        TOKENS = TokenAuth({"wN3f...": "ada", "x8Kq...": "grace"}, cookie="session")

        class Members(WebSocketRequestHandler):
            def authorize(self):
                self.user = TOKENS.require(self)

    ``accept`` is one token (who has it is ``True``), a mapping from tokens to whom they identify, or a function that
    is called with a token and returns whom it identifies, None for nobody (any thread; compare by
    ``hmac.compare_digest``). The token is looked for

    - with ``header``, in ``Authorization: Bearer TOKEN`` (RFC 6750);
    - with ``subprotocol``, a prefix such as "bearer.", in the subprotocols offered: ``new WebSocket(url, ["chat",
      "bearer." + token])``. It counts as not offered then, so that no answer repeats it, and a browser needs the
      answer to name one of the others;
    - with ``query``, in this parameter of the query, which must be one of the handler's ``secret_parameters``;
    - with ``cookie``, in the cookie of this name,

    in this order, and the first that is there counts. Raises TypeError or ValueError for what makes no sense.
    """

    def __init__(
        self,
        accept: str | Mapping[str, Any] | Callable[[str], Any],
        *,
        header: bool = True,
        subprotocol: str | None = None,
        query: str | None = None,
        cookie: str | None = None,
        realm: str = "websocketserver",
    ) -> None:
        super().__init__(f"Bearer realm={_quoted(realm)}")
        for name, value in (("subprotocol", subprotocol), ("cookie", cookie)):
            if value is not None and not is_token(value):
                raise ValueError(f"{name} must be a token (letters, digits, hyphens, dots), not {value!r}")
        if not (header or subprotocol or query or cookie):
            raise ValueError("there is nowhere to look for the token: name a header, subprotocol, query or cookie")
        tokens = {accept: True} if isinstance(accept, str) else accept
        self._find = tokens if callable(tokens) else _Secrets(_items(tokens)).find
        self._header = header
        self._subprotocol = subprotocol
        self._query = query
        self._cookie = cookie

    def identify(self, handler: Handler) -> Any:
        """Return whom the token of the handler's request identifies, None if there is none that is accepted."""
        offered = self._subprotocol and _take_subprotocol(handler, self._subprotocol)
        token = (
            (self._header and _authorization(handler, "bearer"))
            or offered
            or (self._query and _parameter(handler, self._query))
            or (self._cookie and _cookie(handler, self._cookie))
        )
        return self._find(token) if token else None


class BasicAuth(_Auth):
    """Tells by name and password who sends a request (RFC 7617)::

        MEMBERS = BasicAuth({"ada": PASSWORD})

        class Members(WebSocketRequestHandler):
            def authorize(self):
                self.user = MEMBERS.require(self)

    ``accept`` is a mapping from names to passwords, or a function that is called with both and returns whether they
    are right (any thread; compare by ``hmac.compare_digest``). A browser asks its user when a page is answered
    401, and sends the same with the page's WebSockets. Without TLS anybody on the way can read the password.
    """

    def __init__(
        self, accept: Mapping[str, str] | Callable[[str, str], object], *, realm: str = "websocketserver"
    ) -> None:
        super().__init__(f'Basic realm={_quoted(realm)}, charset="UTF-8"')
        self._is_right = accept if callable(accept) else None
        self._secrets = _Secrets(() if callable(accept) else map(_user_pass, _items(accept)))

    def identify(self, handler: Handler) -> str | None:
        """Return the name that the handler's request proves by its password, None if it proves none."""
        try:
            raw = base64.b64decode(_authorization(handler, "basic") or "", validate=True)
            credentials = raw.decode()
        except ValueError:  # not base64, or not UTF-8
            return None
        user, colon, password = credentials.partition(":")
        if not colon or count_controls(raw):  # RFC 7617, 2
            return None
        if self._is_right is not None:
            return user if self._is_right(user, password) else None
        found: str | None = self._secrets.find(credentials)
        return found


class _Secrets:
    """What secrets stand for. Looking one up takes the same time whichever it is, and whether it is there."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self._entries = []
        for secret, who in pairs:
            if not isinstance(secret, str):
                raise TypeError(f"a token must be a str, not {type(secret).__name__}")
            if not secret:
                raise ValueError("a token must not be empty: everybody would have it")
            self._entries.append((_digest(secret), who))

    def find(self, secret: str) -> Any:
        """Return what this secret stands for, None if nothing."""
        digest, found = _digest(secret), None
        for known, who in self._entries:
            if hmac.compare_digest(known, digest):
                found = who
        return found


def _items(accept: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if not isinstance(accept, Mapping):
        raise TypeError(f"accept must be a mapping or a function, not {type(accept).__name__}")
    return accept.items()


def _user_pass(entry: tuple[str, str]) -> tuple[str, str]:
    """Return what a client sends for a name and a password, and the name (RFC 7617, 2)."""
    name, password = entry
    if not isinstance(name, str) or not isinstance(password, str):
        raise TypeError(f"name and password must be str, not {type(name).__name__} and {type(password).__name__}")
    if ":" in name:
        raise ValueError(f"a name must not have a colon: {name!r}")
    if not password:
        raise ValueError(f"the password of {name!r} must not be empty: everybody would have it")
    return f"{name}:{password}", name


def _digest(secret: str) -> bytes:
    """Return what is compared instead of a secret: of the same length for all."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _quoted(realm: str) -> str:
    if not realm.isprintable() or '"' in realm or "\\" in realm:
        raise ValueError(f"realm must be printable, without quotes and backslashes, not {realm!r}")
    return f'"{realm}"'


# Where credentials may be


def _authorization(handler: Handler, scheme: str) -> str | None:
    """Return what the one Authorization header says, if it is of this scheme (RFC 9110, 11.6.2)."""
    values = handler.headers.get_all("Authorization", [])
    name, _, rest = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return rest.strip(" ") if name.lower() == scheme else None


def _take_subprotocol(handler: Handler, prefix: str) -> str | None:
    """Return the rest of the first subprotocol offered that begins with this; from now on, none such is on offer."""
    values = handler.headers.get_all("Sec-WebSocket-Protocol", [])
    found = [item for value in values for part in value.split(",") if (item := part.strip(" \t")).startswith(prefix)]
    request = getattr(handler, "_request", None)  # what the handler goes by; ordinary HTTP has none
    if request is not None:
        request.subprotocols[:] = [name for name in request.subprotocols if name not in found]
    return found[0][len(prefix) :] if found else None


def _parameter(handler: Handler, name: str) -> str | None:
    if name not in getattr(handler, "secret_parameters", ()):
        raise ValueError(f"the log would show the token: add {name!r} to the handler's secret_parameters")
    for part in split_target(handler.path)[1].split("&"):
        key, _, value = part.partition("=")
        if unquote_plus(key) == name:
            return unquote(value)
    return None


def _cookie(handler: Handler, name: str) -> str | None:
    for value in handler.headers.get_all("Cookie", []):
        for key, content in parse_cookies(value):
            if key == name:
                return content
    return None

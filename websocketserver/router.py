"""Router: which handler serves which path and which subprotocol.

Owns     the table of routes and the choice among them.
Never    answers a request itself, except one that no route is for.

A server makes a handler before anything was read, so what a Router gives it is a handler that reads one
request head after the other and lends the connection to a handler of the class chosen, made for that
request: it takes the socket, the streams and the head over as they are, and gives back what can be
served further.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from .exceptions import HandshakeError
from .handler import WebSocketRequestHandler
from .httphandler import StrictHTTPRequestHandler
from .protocol.grammar import is_token
from .protocol.handshake import is_upgrade, offered_subprotocols, split_target

__all__ = ["Route", "Router"]

ANY = "*"

# By overriding one of these a class says that it serves WebSockets.
HOOKS = (
    "handle_upgrade",
    "handle_websocket",
    "on_open",
    "on_message",
    "on_fragment",
    "on_ping",
    "on_pong",
    "on_close",
)

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


class Route(NamedTuple):
    """One entry of a Router, as it was mounted."""

    path: str | re.Pattern[str]
    subprotocol: str | None
    handler: Handler


class _Mounted(NamedTuple):
    """A route and what serves it."""

    route: Route
    kind: type[WebSocketRequestHandler]
    make: Handler  # the class, or a partial of it

    def matches(self, path: str) -> bool:
        mounted = self.route.path
        return mounted in (ANY, path) if isinstance(mounted, str) else mounted.fullmatch(path) is not None

    def speaks(self, subprotocol: str | None) -> bool:
        mounted = self.route.subprotocol
        if mounted is None or subprotocol is None:
            return mounted in (ANY, subprotocol)
        return mounted == ANY or mounted.lower() == subprotocol.lower()


class Router:
    """A table of paths and subprotocols, to be given to a server as its RequestHandlerClass::

        router = Router()
        router.mount("/chat", Chat, subprotocol="chat")

        @router.route(re.compile("/rooms/(?P<name>[a-z]+)"))
        def room(websocket, name):
            for message in websocket: ...

        ThreadingWebSocketServer(("", 8000), router)

    An upgrade goes to the first route, in the order of mounting, whose path matches and that speaks the
    client's first subprotocol; else its second, and so on. Any other request goes to the first whose path
    matches and whose class has the ``do_...`` method. What no route is for is answered 404.

    ``handler_class`` runs functions: its settings are theirs. Its ``handshake_timeout``, ``minimum_rate``, ``timeout``,
    ``trusted_proxies``, ``allowed_hosts`` and logging also hold until a route is chosen. A handler is made for
    one request: a connection that is kept alive makes one for each.

    Thread-safe; routes may come and go while a server runs. Open connections go on.
    """

    def __init__(self, handler_class: type[WebSocketRequestHandler] = WebSocketRequestHandler) -> None:
        _check_class(handler_class)
        self._handler_class = handler_class
        self.handshake_timeout = handler_class.handshake_timeout  #: seconds; for servers that read heads themselves
        self.minimum_rate = handler_class.minimum_rate  #: bytes a second, likewise
        self.trusted_proxies = handler_class.trusted_proxies  #: for servers that count clients by their addresses
        self._lock = threading.Lock()  # guards changes of _mounted, which is replaced and never modified
        self._mounted: tuple[_Mounted, ...] = ()
        self._routing = type(f"Routing{handler_class.__name__}", (_Routing, handler_class), {"_router": self})

    def __call__(self, request: Any, client_address: Any, server: Any) -> WebSocketRequestHandler:
        """Serve a connection, as a request handler class does; return the handler that has it in the end."""
        routing: _Routing = self._routing(request, client_address, server)
        return routing.chosen or routing

    @property
    def routes(self) -> list[Route]:
        """The routes there are, in the order in which they are tried."""
        return [mounted.route for mounted in self._mounted]

    def mount(self, path: str | re.Pattern[str], handler: Handler, *, subprotocol: str | None = ANY) -> None:
        """Have a handler serve a path and a subprotocol.

        ``path`` is one path exactly as it is sent, percent signs and all, "*" for any, or a compiled pattern that
        must match the whole path; no query. ``subprotocol`` is a name (in any case: the client's is agreed on), None
        where the client asks for none, "*" for whatever it asks for. ``handler`` is

        - a WebSocketRequestHandler class (or a ``functools.partial`` of one). What a pattern matched is its ``match``.
          It serves upgrades if it overrides a hook of theirs, and ordinary requests for which it has a ``do_...``.
        - a function, called with the connection and the pattern's groups: the named ones by name, or else all in
          order. When it returns, the connection is closed. Mounted with "*" it speaks the client's first subprotocol.

        Raises ValueError if there is such a route already, TypeError or ValueError for anything else.
        """
        route = Route(_checked_path(path), _checked_subprotocol(subprotocol), handler)
        kind, make = self._resolve(handler)
        with self._lock:
            if any(_key(mounted.route) == _key(route) for mounted in self._mounted):
                raise ValueError(f"{_describe(route)} is mounted already")
            self._mounted += (_Mounted(route, kind, make),)

    def route(self, path: str | re.Pattern[str], *, subprotocol: str | None = ANY) -> Callable[[H], H]:
        """Return a decorator that mounts a function or class, which stays what it is."""

        def mount(handler: H) -> H:
            self.mount(path, handler, subprotocol=subprotocol)
            return handler

        return mount

    def unmount(self, path: str | re.Pattern[str], *, subprotocol: str | None = ANY) -> None:
        """Take back what was mounted with the same path and subprotocol; raises LookupError if nothing was."""
        route = Route(path, subprotocol, _call)
        with self._lock:
            left = tuple(mounted for mounted in self._mounted if _key(mounted.route) != _key(route))
            if len(left) == len(self._mounted):
                raise LookupError(f"{_describe(route)} is not mounted")
            self._mounted = left

    def _resolve(self, handler: Handler) -> tuple[type[WebSocketRequestHandler], Handler]:
        """Return the class that serves a route, and what makes one."""
        inner = handler
        while isinstance(inner, partial):
            inner = inner.func
        if isinstance(inner, type):
            _check_class(inner)
            return inner, handler
        if not callable(handler) or isinstance(handler, Router):
            raise TypeError(f"a route needs a handler class or a function, not {handler!r}")
        attributes = {"function": staticmethod(handler), "__doc__": getattr(handler, "__doc__", None)}
        name = getattr(handler, "__name__", type(handler).__name__)
        kind = type(name, (_FunctionHandler, self._handler_class), attributes)
        return kind, kind

    def _for_upgrade(self, path: str, offered: Sequence[str]) -> tuple[_Mounted, str | None] | None:
        """Return the route for an upgrade and the subprotocol that chose it, None if there is none."""
        mounted = [entry for entry in self._at(path) if any(_overrides(entry.kind, hook) for hook in HOOKS)]
        for subprotocol in offered or (None,):
            for entry in mounted:
                if entry.speaks(subprotocol):
                    return entry, subprotocol if entry.route.subprotocol != ANY else None
        return None

    def _for_request(self, path: str, command: str) -> _Mounted | None:
        """Return the route for an ordinary request: if none has the method, one that will say so."""
        mounted = list(self._at(path))
        serving = [entry for entry in mounted if hasattr(entry.kind, "do_" + command)]
        return next(iter(serving or mounted), None)

    def _at(self, path: str) -> Iterator[_Mounted]:
        return (entry for entry in self._mounted if entry.matches(path))


class _Routing(WebSocketRequestHandler):
    """Read requests, and have each answered by the handler that the router chooses."""

    _router: Router
    chosen: WebSocketRequestHandler | None = None  # who has the connection for good

    def setup(self) -> None:
        StrictHTTPRequestHandler.setup(self)  # what a subclass adds is for the handlers that functions get

    def finish(self) -> None:
        StrictHTTPRequestHandler.finish(self)

    def handle_expect_100(self) -> bool:
        return True  # up to the handler chosen

    def _answer_request(self) -> None:
        make = None
        try:
            make = self._choose()
        except OSError as error:
            self._end_with_peer(error)
        if self._failure is not None:
            self._tell_failure()
        if make is not None:
            handler = make(self, self.client_address, self.server)
            if self._lent:
                self.chosen = handler

    def _choose(self) -> Handler | None:
        """Return what makes the handler for this request; None where there is none, with the answer sent."""
        path = split_target(self.path)[0]
        try:
            self._require_host()
            mounted = self._mounted_at(path)
        except HandshakeError as error:
            if is_upgrade(self._head):
                self._refuse_upgrade(error)
            else:
                self._refuse(error.status or HTTPStatus.BAD_REQUEST, str(error))
            return None
        pattern = mounted.route.path
        self.match = pattern.fullmatch(path) if isinstance(pattern, re.Pattern) else None
        return mounted.make

    def _mounted_at(self, path: str) -> _Mounted:
        """Return the route for this request; raises HandshakeError where there is none."""
        if not is_upgrade(self._head):
            mounted = self._router._for_request(path, self.command)
        else:
            offered = offered_subprotocols(self._head)
            mounted, subprotocol = self._router._for_upgrade(path, offered) or (None, None)
            if subprotocol is not None:
                vars(self)["subprotocols"] = (subprotocol,)  # what select_subprotocol chooses from
        if mounted is None:
            message = "nothing is served at this path under the subprotocols asked for"
            raise HandshakeError(message, HTTPStatus.NOT_FOUND)
        return mounted


class _FunctionHandler(WebSocketRequestHandler):
    """Run a function on each connection."""

    function: Handler

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        return super().select_subprotocol(offered) or next(iter(offered), None)

    def handle_websocket(self) -> None:
        _call(self.function, self.websocket, self.match)


def _call(function: Handler, websocket: object, match: re.Match[str] | None) -> None:
    if match is None:
        function(websocket)
    elif named := match.groupdict():
        function(websocket, **named)
    else:
        function(websocket, *match.groups())


def _overrides(kind: type, name: str) -> bool:
    return getattr(kind, name) is not getattr(WebSocketRequestHandler, name)


def _key(route: Route) -> tuple[object, ...]:
    subprotocol = route.subprotocol
    return route.path, subprotocol.lower() if isinstance(subprotocol, str) else subprotocol


def _describe(route: Route) -> str:
    path = route.path.pattern if isinstance(route.path, re.Pattern) else route.path
    return f"path {path!r} with subprotocol {route.subprotocol!r}"


def _check_class(kind: object) -> None:
    if not isinstance(kind, type) or not issubclass(kind, WebSocketRequestHandler):
        name = kind.__name__ if isinstance(kind, type) else repr(kind)
        raise TypeError(f"{name} must be a WebSocketRequestHandler (another handler can stand behind it as a base)")


def _checked_path(path: object) -> str | re.Pattern[str]:
    if isinstance(path, re.Pattern) and isinstance(path.pattern, str):
        return path
    if not isinstance(path, str):
        raise TypeError(f"a path must be a str or a compiled pattern of str, not {path!r}")
    if path != ANY and (not path.startswith("/") or re.search(r"[^!-~]|[?#]", path)):
        raise ValueError(f'a path is "*" or begins with a slash, percent-encoded and without a query, not {path!r}')
    return path


def _checked_subprotocol(subprotocol: object) -> str | None:
    if subprotocol is None:
        return None
    if not isinstance(subprotocol, str):
        raise TypeError(f"a subprotocol must be a str, or None for none, not {subprotocol!r}")
    if not is_token(subprotocol):
        raise ValueError(f"a subprotocol must be a token, None for none or '*' for any, not {subprotocol!r}")
    return subprotocol

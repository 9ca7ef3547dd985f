"""WebSocketClient: a connection that opens itself (RFC 6455, section 4.1).

Joins dialing.py and opening.py under one deadline. What comes after the handshake is the same on both
sides: connection.py.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence

from .connection import Role, WebSocketConnection
from .deadline import Deadline
from .dialing import Dialer
from .opening import Opening, parse_url
from .protocol.extensions import Extension
from .settings import DEFAULT_COMPRESSION, Settings, check_seconds

__all__ = ["WebSocketClient"]


class WebSocketClient(WebSocketConnection):
    """Connect to a WebSocket server; the connection is open when the constructor returns.

        with WebSocketClient("ws://localhost:8000/") as websocket:
            websocket.send("hello")
            print(websocket.recv(timeout=5))

    ``url`` is ws:// or wss://, with a user and password for Basic authentication if need be.
    ``subprotocols`` (names, the most wanted first), ``origin``, ``headers`` (a mapping or pairs) and
    ``cookies`` (a mapping or pairs) go into the request. ``ssl_context`` replaces the default one, which
    verifies the server's certificate and name. ``connect_timeout`` (seconds, None for no limit) is
    for everything up to the end of the opening handshake; the addresses of a host are tried in turn.
    ``source_address`` is (host, port) to connect from. ``sock`` is a connected socket to use instead of
    connecting (a Unix socket, say, or an SSLSocket), which is the client's to close from then on; ``unix_path``
    the path of a Unix socket to connect to; the URL still says what is asked for. The rest are the connection's
    settings, as in Settings.

    Raises HandshakeError where the server refuses or answers wrongly, TimeoutError, OSError where it cannot
    be reached (ssl.SSLError where it is not trusted), and TypeError or ValueError, before anything is sent,
    for arguments that make no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        origin: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        cookies: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float | None = 10,
        sock: socket.socket | None = None,
        unix_path: str | None = None,
        source_address: tuple[str, int] | None = None,
        websocket_version: int = 13,
        max_message_size: int | None = Settings.max_message_size,
        max_frame_size: int | None = None,
        max_fragments: int | None = Settings.max_fragments,
        max_queue_size: int | None = Settings.max_queue_size,
        fragment_size: int | None = None,
        compression: Extension | None = DEFAULT_COMPRESSION,
        extensions: Sequence[Extension] = (),
        ping_interval: float | None = Settings.ping_interval,
        ping_timeout: float | None = Settings.ping_timeout,
        send_timeout: float | None = Settings.send_timeout,
        close_timeout: float = Settings.close_timeout,
        tcp_keepalive: float | None = None,
        disable_nagle_algorithm: bool = True,
    ) -> None:
        settings = Settings(
            max_message_size=max_message_size,
            max_frame_size=max_frame_size,
            max_fragments=max_fragments,
            max_queue_size=max_queue_size,
            fragment_size=fragment_size,
            compression=compression,
            extensions=extensions,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            send_timeout=send_timeout,
            close_timeout=close_timeout,
            tcp_keepalive=tcp_keepalive,
            disable_nagle_algorithm=disable_nagle_algorithm,
        )
        check_seconds("connect_timeout", connect_timeout)
        _check_types(sock, ssl_context)
        if sum(given is not None for given in (sock, unix_path, source_address)) > 1:
            raise ValueError("sock, unix_path and source_address exclude each other: give at most one")
        target = parse_url(url)
        opening = Opening(
            target,
            version=websocket_version,
            origin=origin,
            subprotocols=subprotocols,
            headers=headers,
            cookies=cookies,
            extensions=settings.all_extensions,
        )
        if target.secure and ssl_context is None:
            ssl_context = _default_context()
        dialer = Dialer(
            target.host, target.port, ssl_context if target.secure else None, sock, unix_path, source_address
        )
        deadline = Deadline(connect_timeout)
        link = dialer.connect(deadline)
        try:
            accepted = opening.perform(link, deadline)
            super().__init__(
                link.sock,
                role=Role.CLIENT,
                settings=settings,
                response=accepted.head,
                subprotocol=accepted.subprotocol,
                codecs=accepted.codecs,
                received=accepted.rest,
            )
        except BaseException:
            link.sock.close()
            raise
        self.url = url  #: as it was given


def _check_types(sock: object, ssl_context: object) -> None:
    for name, value, kind in (("sock", sock, socket.socket), ("ssl_context", ssl_context, ssl.SSLContext)):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__} or None, not {type(value).__name__}")


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context

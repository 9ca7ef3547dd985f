"""A blocking, threaded WebSocket library shaped like socketserver and http.server.

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler

class Echo(WebSocketRequestHandler):
    def on_message(self, message):          # str for text, bytes for binary
        self.websocket.send(message)

with ThreadingWebSocketServer(("", 8000), Echo) as server:
    server.run()                            # until Ctrl-C
"""

import socket as _socket

from .client import WebSocketClient
from .connection import Role, State, WebSocketConnection
from .counters import ServerStats, Stats
from .credentials import BasicAuth, TokenAuth
from .exceptions import (
    Close,
    ConnectionClosed,
    ConnectionClosedOK,
    HandshakeError,
    ProtocolError,
    WebSocketError,
)
from .fragments import FragmentStream
from .handler import WebSocketRequestHandler
from .listening import inherited_sockets
from .metrics import MetricsMixIn, format_metrics
from .pings import PingWaiter
from .pooling import PoolingWebSocketServer
from .protocol.closecodes import CloseCode
from .protocol.cookies import format_cookie, parse_cookies
from .protocol.deflate import PerMessageDeflate
from .protocol.endpoint import Endpoint
from .protocol.events import Closed, Fragment, Message, Ping, Pong
from .protocol.extensions import RSV1, RSV2, RSV3, Codec, Decoder, Encoder, Extension
from .protocol.frames import Frame, FrameParser, Opcode, serialize
from .protocol.handshake import Request
from .report import RunningHandler, ShutdownReport
from .router import Route, Router
from .server import ThreadingWebSocketServer, WebSocketServer
from .settings import Settings
from .tls import Certificate, ServerSSLContext
from .trace import TracedFrame

__all__ = [
    "RSV1",
    "RSV2",
    "RSV3",
    "BasicAuth",
    "Certificate",
    "Close",
    "CloseCode",
    "Closed",
    "Codec",
    "ConnectionClosed",
    "ConnectionClosedOK",
    "Decoder",
    "Encoder",
    "Endpoint",
    "Extension",
    "Fragment",
    "FragmentStream",
    "Frame",
    "FrameParser",
    "HandshakeError",
    "Message",
    "MetricsMixIn",
    "Opcode",
    "PerMessageDeflate",
    "Ping",
    "PingWaiter",
    "Pong",
    "PoolingWebSocketServer",
    "ProtocolError",
    "Request",
    "Role",
    "Route",
    "Router",
    "RunningHandler",
    "ServerSSLContext",
    "ServerStats",
    "Settings",
    "ShutdownReport",
    "State",
    "Stats",
    "ThreadingWebSocketServer",
    "TokenAuth",
    "TracedFrame",
    "WebSocketClient",
    "WebSocketConnection",
    "WebSocketError",
    "WebSocketRequestHandler",
    "WebSocketServer",
    "format_cookie",
    "format_metrics",
    "inherited_sockets",
    "parse_cookies",
    "serialize",
]

if hasattr(_socket, "AF_UNIX"):
    from .unixserver import ThreadingUnixWebSocketServer, UnixWebSocketServer

    __all__ += ["ThreadingUnixWebSocketServer", "UnixWebSocketServer"]

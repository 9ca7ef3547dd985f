"""Our servers: argv PORT MODE DEFLATE PAYLOAD [pooled].

MODE is echo; broadcast, to all connections; sleepers, an echo that under /sleep sleeps 50 ms before each answer;
crowd, an echo that pings its clients every 3 seconds. With PAYLOAD "bytes" text is received as validated bytes and
sent as text.
"""

from __future__ import annotations

import sys
import time

import websocketserver
from websocketserver import PerMessageDeflate, WebSocketRequestHandler

port, mode, deflate = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
WebSocketServer = getattr(
    websocketserver, "PoolingWebSocketServer" if "pooled" in sys.argv else "ThreadingWebSocketServer"
)


class Handler(WebSocketRequestHandler):
    """Pings off and limits lifted; compression, if any, as websockets has it."""

    compression = PerMessageDeflate(threshold=0, level=-1) if deflate else None
    max_message_size = None
    max_queue_size = None
    ping_interval = 3 if mode == "crowd" else None

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, as the peers."""


class Echo(Handler):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


class EchoBytes(Handler):
    def handle_websocket(self) -> None:
        recv, send = self.websocket.recv, self.websocket.send
        while True:
            send(recv(decode=False), text=True)


class Sleeper(Handler):
    def on_message(self, message: str | bytes) -> None:
        if self.path == "/sleep":
            time.sleep(0.05)
        self.websocket.send(message)


class Broadcast(Handler):
    def on_message(self, message: str | bytes) -> None:
        self.server.broadcast(message)


class Server(WebSocketServer):
    request_queue_size = 1024
    max_connections = None
    if mode == "sleepers":
        max_workers = 16  # more hooks than the default for 2 CPUs (6) are asleep at once


handlers = {"broadcast": Broadcast, "sleepers": Sleeper}
handler = handlers.get(mode, EchoBytes if "bytes" in sys.argv else Echo)
with Server(("127.0.0.1", port), handler) as server:
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass

"""The server under test: echoes every message. Prints its port. Usage: server.py [pooling]"""

from __future__ import annotations

import sys

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler
from websocketserver.pooling import PoolingWebSocketServer


class Echo(WebSocketRequestHandler):
    # Group 9 sends messages of 16 MiB, and one in 65,537 frames.
    max_message_size = 32 << 20
    max_fragments = 1 << 17

    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


if __name__ == "__main__":
    server_class = PoolingWebSocketServer if "pooling" in sys.argv else ThreadingWebSocketServer
    with server_class(("127.0.0.1", 0), Echo) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()

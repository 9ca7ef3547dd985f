"""Chat: what one says, everybody hears.

    python3 -m examples.chat [port]
    python3 -m websocketserver connect ws://localhost:8000/Ada
"""

import sys

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler


class Chat(WebSocketRequestHandler):
    max_message_size = 1000  # bytes
    send_timeout = 2  # seconds that somebody who does not read may hold up the others

    def on_open(self):
        self.name = self.path.strip("/") or "Somebody"
        self.server.broadcast(f"{self.name} is here")

    def on_message(self, message):
        self.server.broadcast(f"{self.name}: {message}")

    def on_close(self, code, reason):
        self.server.broadcast(f"{self.name} is gone")


def main(port=8000):
    with ThreadingWebSocketServer(("localhost", port), Chat) as server:
        print(f"Chatting at ws://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

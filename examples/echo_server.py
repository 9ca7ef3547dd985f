"""Echo server: every message goes back to whoever sent it.

    python3 -m examples.echo_server [port]
"""

import sys

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler


class Echo(WebSocketRequestHandler):
    def on_message(self, message):  # str for text, bytes for binary
        self.websocket.send(message)


def main(port=8000):
    with ThreadingWebSocketServer(("localhost", port), Echo) as server:
        print(f"Echoing at ws://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

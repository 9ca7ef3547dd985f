"""Mirror and increment: the two protocols of the libwebsockets test server, on one port.

    python3 -m examples.mirror.server [--port 8000] [--tls CERTIFICATE.pem]

lws-mirror-protocol: what one client draws, all see. "d #rrggbb x1 y1 x2 y2;" is a line, "c #rrggbb x y radius;" a
circle, "clear;" an empty board. dumb-increment-protocol: counts, 20 numbers a second; "reset\\n" starts again at 0.
With --tls (a file with certificate and key) all of it is https and wss.
"""

import argparse
import collections
import ssl
import threading
from pathlib import Path

from websocketserver import ConnectionClosed, Router, ThreadingWebSocketServer, WebSocketRequestHandler, format_cookie

PAGE = Path(__file__).with_name("index.html")
HISTORY = 10_000  # commands kept for those who come later
INTERVAL = 0.05

router = Router()


@router.route("/", subprotocol="lws-mirror-protocol")
class Mirror(WebSocketRequestHandler):
    """Send each command to everybody, and to newcomers all since the board was cleared."""

    max_message_size = 100  # so that the whole history is a message that every client takes
    lock = threading.Lock()  # guards both, and keeps all clients in the same order
    history = collections.deque(maxlen=HISTORY)
    clients = set()

    def response_headers(self):
        return [("Set-Cookie", format_cookie("TestCookie", "CookieValue", path="/", max_age=5000, httponly=True))]

    def on_open(self):
        with self.lock:
            if self.history:
                self.websocket.send("".join(self.history))
            self.clients.add(self.websocket)

    def on_message(self, message):
        if not isinstance(message, str):
            return
        with self.lock:
            if message == "clear;":
                self.history.clear()
            else:
                self.history.append(message)
            for client in list(self.clients):
                try:
                    client.send(message, timeout=1)
                except (ConnectionClosed, TimeoutError):  # it is gone, or too slow for the others to wait
                    self.clients.discard(client)
                    client.abort()

    def on_close(self, code, reason):
        with self.lock:
            self.clients.discard(self.websocket)


@router.route("/", subprotocol="dumb-increment-protocol")
def increment(websocket):
    number = 0
    while True:
        websocket.send(str(number))
        number += 1
        try:
            if websocket.recv(timeout=INTERVAL) == "reset\n":
                number = 0
        except TimeoutError:
            pass


@router.route("/")
class Page(WebSocketRequestHandler):
    def do_GET(self):
        page = PAGE.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tls", metavar="CERTIFICATE.pem", help="serve TLS with this certificate and key")
    arguments = parser.parse_args()
    context = None
    if arguments.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.tls)
    with ThreadingWebSocketServer(("localhost", arguments.port), router, ssl_context=context) as server:
        print(f"Serving {'https' if context else 'http'}://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main()

"""Fragmentation server: sends messages as long as they are asked for, in fragments.

    python3 -m examples.fragmentation.server [--port 8000] [--fragment 16384 | --no-fragmentation]

A client asks with "sendMessage|N" for N characters of text and with "sendBinaryMessage|N" for N random bytes. The
page that is served asks so, and examples/fragmentation/client.py does.
"""

import argparse
import os
import re
from pathlib import Path

from websocketserver import Router, ThreadingWebSocketServer, WebSocketRequestHandler

PAGE = Path(__file__).with_name("index.html")
MOST = 64 << 20  # bytes that a client may ask for
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

router = Router()


@router.route("/", subprotocol="fragmentation-test")
class Fragmentation(WebSocketRequestHandler):
    compression = None  # so that sizes on the wire are those of the messages
    max_message_size = 100

    def on_message(self, message):
        asked = re.fullmatch(r"(sendMessage|sendBinaryMessage)\|([0-9]{1,9})", str(message))
        if not asked or int(asked[2]) > MOST:
            self.websocket.close(1008, f"ask for sendMessage|N or sendBinaryMessage|N, N up to {MOST}")
            return
        size = int(asked[2])
        self.websocket.send(text_of(size) if asked[1] == "sendMessage" else os.urandom(size))


@router.route("/")
class Page(WebSocketRequestHandler):
    def do_GET(self):
        page = PAGE.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def text_of(size):
    return (ALPHABET * (size // len(ALPHABET) + 1))[:size]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fragment", type=int, default=16384, metavar="BYTES", help="of each fragment")
    parser.add_argument("--no-fragmentation", action="store_true", help="send each message as one frame")
    arguments = parser.parse_args()
    Fragmentation.fragment_size = None if arguments.no_fragmentation else arguments.fragment
    with ThreadingWebSocketServer(("localhost", arguments.port), router) as server:
        print(f"Serving http://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main()

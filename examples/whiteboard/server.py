"""Whiteboard: every open page draws on the same board.

    python3 -m examples.whiteboard.server [port]

A page sends {"msg": "drawLine", "data": {"color": "#rrggbb", "points": [x1, y1, x2, y2]}} and {"msg": "clear"}; both
come back to every page, the sender's own included, which draws only then. A page that comes later first gets
{"msg": "initCommands", "data": [...]} with all that has been drawn since the board was cleared.
"""

import collections
import json
import math
import re
import sys
import threading
from pathlib import Path

from websocketserver import ConnectionClosed, ThreadingWebSocketServer, WebSocketRequestHandler

PAGE = Path(__file__).with_name("index.html")
SIZE = 10_000  # lines that a board keeps for those who come later


class Board:
    """What has been drawn, and who looks at it."""

    def __init__(self):
        self._lock = threading.Lock()  # guards both, and keeps all pages in the same order
        self._lines = collections.deque(maxlen=SIZE)
        self._pages = set()

    def join(self, page):
        with self._lock:
            page.send(json.dumps({"msg": "initCommands", "data": list(self._lines)}))
            self._pages.add(page)

    def leave(self, page):
        with self._lock:
            self._pages.discard(page)

    def put(self, command):
        with self._lock:
            if command["msg"] == "clear":
                self._lines.clear()
            else:
                self._lines.append(command)
            for page in list(self._pages):
                try:
                    page.send(json.dumps(command), timeout=1)
                except (ConnectionClosed, TimeoutError):  # it is gone, or too slow for the others to wait
                    self._pages.discard(page)
                    page.abort()


class Whiteboard(WebSocketRequestHandler):
    board = Board()
    subprotocols = ("whiteboard-example",)
    max_message_size = 1000

    def do_GET(self):
        if self.path != "/":
            self.send_error(404)
            return
        page = PAGE.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def on_open(self):
        self.board.join(self.websocket)

    def on_message(self, message):
        if (command := parse(message)) is not None:
            self.board.put(command)

    def on_close(self, code, reason):
        self.board.leave(self.websocket)


def parse(message):
    """Return the command of a message, made anew from what was checked; None for anything else."""
    try:
        command = json.loads(message)
        if command["msg"] == "clear":
            return {"msg": "clear"}
        color, points = command["data"]["color"], [round(float(number), 1) for number in command["data"]["points"]]
        drawn = command["msg"] == "drawLine" and re.fullmatch("#[0-9a-f]{6}", color) and len(points) == 4
        if drawn and all(map(math.isfinite, points)):
            return {"msg": "drawLine", "data": {"color": color, "points": points}}
    except (ValueError, TypeError, KeyError, OverflowError):
        pass
    return None


def main(port=8000):
    with ThreadingWebSocketServer(("localhost", port), Whiteboard) as server:
        print(f"Drawing at http://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

"""Static site: files and a WebSocket on one port, by one class.

    python3 -m examples.static_site [port]

The files are those of examples/site; its page asks the WebSocket for the time.
"""

import functools
import sys
import time
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler


class Site(WebSocketRequestHandler, SimpleHTTPRequestHandler):  # in this order
    def on_message(self, message):
        if message == "time":
            self.websocket.send(time.strftime("%H:%M:%S"))


def main(port=8000):
    handler = functools.partial(Site, directory=Path(__file__).with_name("site"))
    with ThreadingWebSocketServer(("localhost", port), handler) as server:
        print(f"Serving http://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

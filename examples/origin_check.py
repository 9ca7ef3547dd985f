"""Origin check: which web pages may connect.

    python3 -m examples.origin_check [port]

A browser tells in the Origin header which site's page wants to connect, and any page on the web may try.
The same origin may always; here are two ways to let others in. Whoever is refused gets 403 Forbidden.

    python3 -m websocketserver connect --origin https://app.example.org ws://localhost:8000/
"""

import sys

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler


class Guarded(WebSocketRequestHandler):
    allowed_origins = ("https://example.org",)

    def check_origin(self, origin):  # None where there is none: not a browser
        if origin and origin.startswith("https://") and origin.endswith(".example.org"):
            return True
        return super().check_origin(origin)  # the same origin, or in allowed_origins

    def on_open(self):
        self.websocket.send(f"Welcome, {self.headers['Origin'] or 'not a browser'}.")


def main(port=8000):
    with ThreadingWebSocketServer(("localhost", port), Guarded) as server:
        print(f"Guarding ws://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

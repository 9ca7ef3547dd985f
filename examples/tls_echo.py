"""Echo over TLS, with a certificate for localhost made on the spot by the openssl command.

    python3 -m examples.tls_echo [port]
    python3 -m websocketserver connect --insecure wss://localhost:8443/
"""

import subprocess
import sys
import tempfile

from websocketserver import ServerSSLContext, ThreadingWebSocketServer, WebSocketRequestHandler


class Echo(WebSocketRequestHandler):
    def on_message(self, message):
        self.websocket.send(message)


def make_context():
    with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
        make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {pem.name} -out {pem.name}"
        subprocess.run(make.split(), check=True, capture_output=True)
        return ServerSSLContext(pem.name)


def main(port=8443):
    with ThreadingWebSocketServer(("localhost", port), Echo, ssl_context=make_context()) as server:
        print(f"Echoing at wss://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

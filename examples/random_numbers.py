"""Random numbers: sends one a second to examples/echo_server.py and prints what comes back, until Ctrl-C.

    python3 -m examples.random_numbers [port]
"""

import random
import sys
import time

from websocketserver import ConnectionClosed, WebSocketClient


def main(port=8000):
    with WebSocketClient(f"ws://localhost:{port}/") as websocket:
        while True:
            websocket.send(str(random.randrange(1 << 24)))
            print("Received", websocket.recv(timeout=5), flush=True)
            time.sleep(1)


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:2]))
    except ConnectionRefusedError:
        sys.exit("No server answers there. Start it with: python3 -m examples.echo_server")
    except ConnectionClosed as closed:
        print("The server has closed the connection:", closed.code, closed.reason)
    except KeyboardInterrupt:
        print("Bye.")

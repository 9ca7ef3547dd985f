"""Echo client: says hello to examples/echo_server.py and prints the answer.

    python3 -m examples.echo_client [port]
"""

import sys

from websocketserver import WebSocketClient


def main(port=8000):
    with WebSocketClient(f"ws://localhost:{port}/") as websocket:
        websocket.send("Hello!")
        print("The server says:", websocket.recv(timeout=5))

        websocket.send(b"\x00\x01\x02")
        print("And in binary:", websocket.recv(timeout=5))

        websocket.ping().wait(timeout=5)
        print(f"A round trip takes {websocket.latency * 1000:.1f} ms.")


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:2]))
    except ConnectionRefusedError:
        sys.exit("No server answers there. Start it with: python3 -m examples.echo_server")

"""Mirror and increment client: draws circles for everybody, or prints the numbers that a server counts.

    python3 -m examples.mirror.client [--url ws://localhost:8000/] [--count N] [--version 8] mirror | increment

To be used with examples/mirror/server.py, or with the test server of libwebsockets. Ends after N circles or numbers,
or with Ctrl-C. For wss:// the server's certificate must be trusted: --trust takes a file with its authority.
"""

import argparse
import itertools
import random
import ssl
import time

from websocketserver import ConnectionClosed, HandshakeError, WebSocketClient

WIDTH, HEIGHT, RADIUS = 502, 306, 30
INTERVAL = 0.01


def mirror(websocket, count):
    for _ in itertools.islice(itertools.count(), count):
        x, y, radius = random.randrange(WIDTH), random.randrange(HEIGHT), random.randint(1, RADIUS)
        circle = f"c #{random.randrange(1 << 24):06x} {x} {y} {radius};"
        websocket.send(circle)
        while websocket.recv(timeout=5) != circle:  # what is there already, and what others draw
            pass
        time.sleep(INTERVAL)


def increment(websocket, count):
    for number in itertools.islice(websocket, count):
        print(number, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("protocol", choices=["mirror", "increment"])
    parser.add_argument("--url", default="ws://localhost:8000/")
    parser.add_argument("--count", type=int, help="how many circles or numbers; default: without end")
    parser.add_argument("--version", type=int, choices=[8, 13], default=13)
    parser.add_argument("--trust", metavar="AUTHORITY.pem")
    arguments = parser.parse_args()
    subprotocol, run = {
        "mirror": ("lws-mirror-protocol", mirror),
        "increment": ("dumb-increment-protocol", increment),
    }[arguments.protocol]
    context = ssl.create_default_context(cafile=arguments.trust) if arguments.trust else None
    try:
        with WebSocketClient(
            arguments.url,
            subprotocols=[subprotocol],
            websocket_version=arguments.version,
            ssl_context=context,
        ) as websocket:
            run(websocket, arguments.count)
    except (HandshakeError, ConnectionClosed, OSError, ValueError) as error:
        raise SystemExit(f"{arguments.url}: {error}") from None
    except KeyboardInterrupt:
        print("Bye.")


if __name__ == "__main__":
    main()

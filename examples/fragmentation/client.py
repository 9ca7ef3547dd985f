"""Fragmentation client: asks for ever longer messages, and checks and times what comes.

    python3 -m examples.fragmentation.client [--url ws://localhost:8000/] [--binary] [--fragments] [--count N]

The first message is 100 bytes long and each next one up to 1024 bytes longer. With --fragments they are read piece
by piece, as they arrive, which says little about how they were sent. Ends after N messages, or with Ctrl-C. To be
used with examples/fragmentation/server.py.
"""

import argparse
import itertools
import random
import time

from websocketserver import ConnectionClosed, HandshakeError, WebSocketClient

MOST = 128 << 20  # bytes that a message may have


def receive(websocket, in_fragments):
    """Return the size of the next message, and in how many pieces it was read."""
    if not in_fragments:
        return len(websocket.recv(timeout=30)), 1
    sizes = [len(piece) for piece in websocket.recv_fragments(timeout=30)]
    return sum(sizes), len(sizes)


def run(websocket, command, in_fragments, count):
    size = 100
    for _ in itertools.islice(itertools.count(), count):
        began = time.perf_counter()
        websocket.send(f"{command}|{size}")
        received, pieces = receive(websocket, in_fragments)
        seconds = time.perf_counter() - began
        if received != size:
            raise SystemExit(f"asked for {size} bytes and got {received}")
        pace = f"{size / 1024 / seconds:,.0f} KiB/s"
        print(f"{received} bytes in {pieces} piece{'s' * (pieces > 1)}, {pace}", flush=True)
        size += random.randint(1, 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="ws://localhost:8000/")
    parser.add_argument("--binary", action="store_true", help="ask for binary messages instead of text")
    parser.add_argument("--fragments", action="store_true", help="read piece by piece instead of whole messages")
    parser.add_argument("--count", type=int, help="how many messages; default: without end")
    arguments = parser.parse_args()
    command = "sendBinaryMessage" if arguments.binary else "sendMessage"
    try:
        with WebSocketClient(arguments.url, subprotocols=["fragmentation-test"], max_message_size=MOST) as websocket:
            run(websocket, command, arguments.fragments, arguments.count)
    except (HandshakeError, ConnectionClosed, OSError) as error:
        raise SystemExit(f"{arguments.url}: {error}") from None
    except KeyboardInterrupt:
        print("Bye.")


if __name__ == "__main__":
    main()

"""websockets.sync.server: argv PORT MODE DEFLATE."""

import sys
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

port, mode, deflate = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
clients = set()
lock = threading.Lock()


def echo(ws):
    try:
        for message in ws:
            ws.send(message)
    except ConnectionClosed:
        pass


def broadcast(ws):
    with lock:
        clients.add(ws)
    try:
        for message in ws:
            with lock:
                for c in clients:
                    try:
                        c.send(message)
                    except ConnectionClosed:
                        pass
    except ConnectionClosed:
        pass
    finally:
        with lock:
            clients.discard(ws)


with serve(
    echo if mode == "echo" else broadcast,
    "127.0.0.1",
    port,
    max_size=None,
    ping_interval=None,
    compression="deflate" if deflate else None,
) as server:
    server.serve_forever()

"""Soak server: what tests/soak.py loads with everything at once.

    python3 -m tests.soak_server [--tls] [--pool]

    /          an echo; to the text "usage" it answers what the process uses, in JSON, memory in KiB; HTTP gets "hello"
    /pieces    an echo of pieces as they come

Every half second all connections are told the news: "news 1", "news 2", ... Prints its URL; ends with its standard
input.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from websocketserver import ConnectionClosed, Router, ThreadingWebSocketServer, WebSocketRequestHandler
from websocketserver.pooling import PoolingWebSocketServer
from websocketserver.threads import HandlerThread

from .stress_server import trim_memory
from .support import certificates, wait_until

NEWS = 0.5  # seconds between two


class Echo(WebSocketRequestHandler):
    protocol_version = "HTTP/1.1"
    ping_interval = ping_timeout = send_timeout = 10  # half of what they are, to see more of it

    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(usage(self.server) if message == "usage" else message)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: Any) -> None:
        """Millions of lines would help nobody."""


class Pieces(Echo):
    def handle_websocket(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.websocket.send_fragments(self.websocket.recv_fragments())


class _Counting:
    """Counts the exceptions that handlers let escape, instead of printing each; logs nothing."""

    failures = 0
    failure = ""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.failures += 1
        self.failure = self.failure or traceback.format_exc()


class Threading(_Counting, ThreadingWebSocketServer):
    pass


class Pooling(_Counting, PoolingWebSocketServer):
    max_workers = 4


def routes() -> Router:
    router = Router(Echo)
    router.mount("/", Echo)
    router.mount("/pieces", Pieces)
    return router


def others() -> bool:
    """Return whether there are threads of handlers but this one: those that wait for a connection end soon."""
    mine = threading.current_thread()
    return any(isinstance(each, HandlerThread) and each is not mine for each in threading.enumerate())


def usage(server: Any) -> str:
    wait_until(lambda: not others(), 3, fail=False)
    gc.collect()
    trim_memory()
    return json.dumps(
        {
            "connections": len(server.connections),
            "accepted": len(server.registry),
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "memory": memory("VmRSS"),
            "peak": memory("VmHWM"),
            "failures": server.failures,
            "failure": server.failure,
        }
    )


def memory(which: str) -> int:
    """Return the process's resident memory in KiB: VmRSS now, VmHWM at most so far."""
    return int(Path("/proc/self/status").read_text().partition(f"{which}:")[2].split()[0])


def tell_news(server: Any, over: threading.Event) -> None:
    number = 0
    while not over.wait(NEWS):
        number += 1
        server.broadcast(f"news {number}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--pool", action="store_true", help="use PoolingWebSocketServer")
    arguments = parser.parse_args()
    over = threading.Event()
    context = certificates().server if arguments.tls else None
    kind = Pooling if arguments.pool else Threading
    with kind(("127.0.0.1", 0), routes(), ssl_context=context) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Thread(target=tell_news, args=(server, over), daemon=True).start()
        print(f"{'wss' if context else 'ws'}://127.0.0.1:{server.server_port}/", flush=True)
        sys.stdin.read()
        over.set()


if __name__ == "__main__":
    main()

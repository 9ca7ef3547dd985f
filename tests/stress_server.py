"""Stress server: an echo that tells what it uses.

    python3 -m tests.stress_server [--tls] [--pool] [--port 8000]

To the text "usage" it answers {"connections", "threads", "descriptors", "memory"} in JSON, memory in KiB resident;
everything else comes back. The certificate for --tls is made at the start and is nobody's to trust.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

from websocketserver import ThreadingWebSocketServer, WebSocketRequestHandler
from websocketserver.pooling import PoolingWebSocketServer

from .support import certificates


class Echo(WebSocketRequestHandler):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(self.usage() if message == "usage" else message)

    def log_message(self, format: str, *args: Any) -> None:
        """Thousands of lines would help nobody."""

    def usage(self) -> str:
        gc.collect()
        trim_memory()
        status = Path("/proc/self/status").read_text()
        return json.dumps(
            {
                "connections": len(self.server.connections),  # type: ignore[attr-defined]
                "threads": threading.active_count(),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "memory": int(status.partition("VmRSS:")[2].split()[0]),
            }
        )


def trim_memory() -> None:
    """Give back what the C library keeps for later: that is no leak."""
    with contextlib.suppress(AttributeError, OSError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--pool", action="store_true", help="use PoolingWebSocketServer")
    arguments = parser.parse_args()
    PoolingWebSocketServer.max_workers = 2  # so that all are there soon
    kind = PoolingWebSocketServer if arguments.pool else ThreadingWebSocketServer
    context = certificates().server if arguments.tls else None
    with kind(("localhost", arguments.port), Echo, ssl_context=context) as server:
        print(f"Echoing at {'wss' if context else 'ws'}://localhost:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("Bye.")


if __name__ == "__main__":
    main()

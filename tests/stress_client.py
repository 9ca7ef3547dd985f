"""Stress client: many short connections to tests/stress_server.py, and what they leave behind.

    python3 -m tests.stress_client ws://localhost:8000/ [--connections 20000] [--at-once 20]

Each connection sends a message, reads the answer, and ends in one of the ways in which connections end. Prints what the
server used before (after a tenth of them, when its caches are warm) and after, in JSON; exits with 1 if
descriptors or connections have become more, memory by more than 5 MiB, or threads by more than twice as many as there
are connections at once: a server keeps some for a while. Certificates are not checked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import ssl
import threading
from typing import Any

from websocketserver import WebSocketClient


def context() -> ssl.SSLContext:
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE
    return untrusting


class Load:
    """Connections, one after the other in each of several threads; they end in turn in different ways."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._context = context() if url.startswith("wss:") else None
        self._errors: list[Exception] = []

    def connect(self) -> WebSocketClient:
        return WebSocketClient(self._url, ssl_context=self._context)

    def run(self, connections: int, at_once: int) -> None:
        """Open and close so many; raises what went wrong."""
        numbers = itertools.count()  # next() is atomic
        threads = [threading.Thread(target=self._work, args=(numbers, connections)) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, numbers: Any, connections: int) -> None:
        try:
            while (number := next(numbers)) < connections and not self._errors:
                self._visit(number)
        except Exception as error:
            self._errors.append(error)

    def _visit(self, number: int) -> None:
        websocket = self.connect()
        if number % 4:
            websocket.send(bytes(number % 3000))
            websocket.recv(timeout=30)
        if number % 8 == 1:
            websocket.abort()
        else:
            websocket.close(1000 if number % 3 else 1001)

    def usage(self) -> dict[str, int]:
        """Return what the server uses while there is one connection: as soon as it is the only one."""
        with self.connect() as websocket:
            for _ in range(1000):
                websocket.send("usage")
                usage: dict[str, int] = json.loads(websocket.recv(timeout=30))
                if usage["connections"] == 1:
                    break
                threading.Event().wait(0.01)  # what was aborted ends by itself
            return usage


def measure(url: str, connections: int, at_once: int) -> tuple[dict[str, int], dict[str, int]]:
    """Return what the server uses after a tenth of the connections, and after all."""
    load = Load(url)
    load.run(connections // 10, at_once)
    before = load.usage()
    load.run(connections - connections // 10, at_once)
    return before, load.usage()


def leaks(before: dict[str, int], after: dict[str, int], at_once: int) -> list[str]:
    """Return what has become more."""
    allowed = {"memory": 5 * 1024, "threads": 2 * at_once}
    return [name for name in before if after[name] - before[name] > allowed.get(name, 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=20)
    arguments = parser.parse_args()
    before, after = measure(arguments.url, arguments.connections, arguments.at_once)
    print("before", json.dumps(before))
    print("after ", json.dumps(after), flush=True)
    if found := leaks(before, after, arguments.at_once):
        raise SystemExit(f"more {' and '.join(found)} than before")


if __name__ == "__main__":
    main()

"""Stress of one connection in both directions: many threads send and receive on both ends, for as long as wanted.

    python3 -m tests.stress_duplex [--seconds 60] [--threads 4] [--pool] [--plain]

Over TLS unless --plain. Each message tells who sent it, which one it is and what its bytes add up to; in the end every
one must have arrived once, whole. Pings go to and fro all the while. Prints the figures in JSON;
exits with 1 for errors.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from websocketserver import (
    PoolingWebSocketServer,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketConnection,
    WebSocketRequestHandler,
)

from .support import certificates

HEAD = struct.Struct("!III")  # sender, number, CRC-32 of the rest
NOISE = random.Random(6455).randbytes(1 << 17)
PATIENCE = 30.0  # seconds for what was sent to arrive in the end


class End:
    """One end of the connection: its senders, and what has come of the other's."""

    def __init__(self, threads: int, until: float) -> None:
        self.threads = threads
        self.until = until
        self.sent: Counter[int] = Counter()  # by sender; each counts its own
        self.bytes_sent = 0
        self.pings = 0
        self.errors: list[str] = []
        self._received: list[Counter[int]] = []  # one for each receiving thread; guarded by the lock when it is added
        self._lock = threading.Lock()
        self._running: list[threading.Thread] = []

    def start(self, websocket: WebSocketConnection, receive: bool) -> None:
        """Start the senders, the pinger and, if wanted, the receivers."""
        work = [*((self._send, number) for number in range(self.threads)), (self._ping, 0)]
        work += [(self._receive, number) for number in range(self.threads if receive else 0)]
        for function, number in work:
            thread = threading.Thread(target=self._guarded, args=(function, websocket, number), daemon=True)
            self._running.append(thread)
            thread.start()

    def join_senders(self) -> None:
        """Wait until all has been sent, and all Pings answered."""
        for thread in self._running[: self.threads + 1]:
            thread.join(self.until - time.monotonic() + PATIENCE)
            if thread.is_alive():
                self.errors.append("a sender does not end")

    def take(self, message: str | bytes, received: Counter[int]) -> None:
        """Check a message and count it."""
        sender, number, check = HEAD.unpack_from(message)  # type: ignore[arg-type]
        if zlib.crc32(memoryview(message)[HEAD.size :]) != check:  # type: ignore[arg-type]
            self.errors.append(f"message {number} of sender {sender} is not what was sent")
        received[sender] += 1
        received[-1 - sender] += number * number  # each number once: else this is another sum

    def new_counter(self) -> Counter[int]:
        """Return what a receiving thread counts in."""
        with self._lock:
            self._received.append(Counter())
            return self._received[-1]

    def received(self) -> Counter[int]:
        """Return what has been received, by sender."""
        with self._lock:
            return sum(self._received, Counter())

    def lacks(self, other: End) -> bool:
        """Return whether anything is missing of what the other end has sent."""
        expected = Counter(other.sent)
        for sender, count in other.sent.items():
            expected[-1 - sender] = (count - 1) * count * (2 * count - 1) // 6
        return self.received() != +expected

    def _guarded(self, work: Callable[..., None], websocket: WebSocketConnection, number: int) -> None:
        try:
            work(websocket, number)
        except Exception as error:
            self.errors.append(f"{work.__name__}: {error!r}")

    def _send(self, websocket: WebSocketConnection, sender: int) -> None:
        for number, body in enumerate(self._bodies(sender)):
            message = HEAD.pack(sender, number, zlib.crc32(body)) + body
            if number % 100 == 99:
                websocket.send_fragments([message[:20], message[20:]])
            else:
                websocket.send(message)
            self.sent[sender] += 1
            with self._lock:
                self.bytes_sent += len(message)

    def _bodies(self, seed: int) -> Iterator[bytes]:
        chance = random.Random(seed)
        while time.monotonic() < self.until:
            size = chance.choice((0, 10, 100, 1000, 10_000, 100_000))
            start = chance.randrange(len(NOISE) - size)
            yield NOISE[start : start + size]

    def _receive(self, websocket: WebSocketConnection, _: int) -> None:
        received = self.new_counter()
        for message in websocket:
            self.take(message, received)

    def _ping(self, websocket: WebSocketConnection, _: int) -> None:
        while time.monotonic() < self.until:
            websocket.ping().wait(PATIENCE)
            self.pings += 1


class Hooks(WebSocketRequestHandler):
    """The server's end: its receivers are the hooks of the server's own threads."""

    max_queue_size = None
    end: End

    def on_open(self) -> None:
        self.received = self.end.new_counter()
        self.end.start(self.websocket, receive=False)

    def on_message(self, message: str | bytes) -> None:
        self.end.take(message, self.received)

    def log_message(self, format: str, *args: Any) -> None:
        """One connection is not worth a line."""


def run(seconds: float, threads: int, server_class: type, *, tls: bool = True) -> dict[str, Any]:
    """Run it and return the figures."""
    until = time.monotonic() + seconds
    ours, theirs = End(threads, until), End(threads, until)
    handler = type("Handler", (Hooks,), {"end": theirs})
    context = certificates().server if tls else None
    with server_class(("localhost", 0), handler, ssl_context=context) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"{'wss' if tls else 'ws'}://localhost:{server.server_port}/"
            with WebSocketClient(url, ssl_context=certificates().client, max_queue_size=None) as websocket:
                ours.start(websocket, receive=True)
                ours.join_senders()
                theirs.join_senders()
                patience = time.monotonic() + PATIENCE
                while (ours.lacks(theirs) or theirs.lacks(ours)) and time.monotonic() < patience:
                    threading.Event().wait(0.01)
        finally:
            server.shutdown()
            serving.join()
    errors = ours.errors + theirs.errors
    errors += [f"what was received differs from what was sent, at the {who}" for who, lacks in
               (("client", ours.lacks(theirs)), ("server", theirs.lacks(ours))) if lacks]  # fmt: skip
    return {
        "python": sys.version.split()[0],
        "server": server_class.__name__,
        "tls": tls,
        "seconds": round(seconds, 1),
        "threads": f"{threads} + {threads} senders, {threads} + hooks receivers, 2 pingers",
        "messages": sum(ours.sent.values()) + sum(theirs.sent.values()),
        "megabytes": (ours.bytes_sent + theirs.bytes_sent) // 1_000_000,
        "pings": ours.pings + theirs.pings,
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=4, help="that send, on each end, and that receive")
    parser.add_argument("--pool", action="store_true", help="use PoolingWebSocketServer")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    arguments = parser.parse_args()
    kind = PoolingWebSocketServer if arguments.pool else ThreadingWebSocketServer
    figures = run(arguments.seconds, arguments.threads, kind, tls=not arguments.plain)
    print(json.dumps(figures), flush=True)
    raise SystemExit(bool(figures["errors"]))


if __name__ == "__main__":
    main()

"""Soak clients: what visits the servers of tests/soak.py, each visit of a kind of its own, and what they have seen.

    python3 -m tests.soak_clients --threads 10 --seed 1 URL...

reads lines from standard input: ``run SECONDS`` has the threads visit for so long, and answers with a line of JSON: the
figures of that run, and what this process uses at rest. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import urlsplit

from websocketserver import ConnectionClosed, HandshakeError, PerMessageDeflate, WebSocketClient

from .faults import FaultyProxy, Plan, reset
from .soak_server import memory
from .stress_client import context
from .stress_server import trim_memory
from .support import RawPeer, frame, opening_request, run_in_thread

PATIENCE = 60.0  # seconds after which what has not come counts as lost
COMPRESSIONS = [
    None,
    PerMessageDeflate(threshold=0),
    PerMessageDeflate(server_no_context_takeover=True, client_no_context_takeover=True),
    PerMessageDeflate(server_max_window_bits=9, client_max_window_bits=15, threshold=10),
]
HEAD = opening_request()
LIMITS = {"ping_interval": 3, "ping_timeout": 3, "send_timeout": 3, "close_timeout": 1, "connect_timeout": 5}


@functools.cache
def untrusting() -> ssl.SSLContext:
    return context()


class Figures:
    """What was done and seen. Thread-safe."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards both

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    def problem(self, kind: str, text: str) -> None:
        """Something that must not happen: ``kind`` is lost, wrong or failed."""
        with self._lock:
            self._counts[kind] += 1
            if len(self.problems) < 20:
                self.problems.append(f"{kind}: {text}")

    def as_dict(self) -> dict[str, Any]:
        with self._lock:
            return {"counts": dict(self._counts), "problems": list(self.problems)}


class Visitor:
    """One thread's visits to one server."""

    def __init__(self, url: str, random: Random, figures: Figures) -> None:
        self.url = url
        self.random = random
        self.figures = figures
        self._context = untrusting() if url.startswith("wss:") else None

    # What visits are made of

    def connect(self, path: str = "", port: int | None = None, **options: Any) -> WebSocketClient:
        url = urlsplit(self.url)
        websocket = WebSocketClient(
            f"{url.scheme}://127.0.0.1:{port or url.port}/{path}", ssl_context=self._context, **options
        )
        self.figures.count("connections")
        return websocket

    def raw(self, *, tls: bool = True) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", int(urlsplit(self.url).port or 0)), PATIENCE)
        self.figures.count("connections")
        if self._context is None or not tls:
            return sock
        return self._context.wrap_socket(sock)

    def peer(self) -> RawPeer:
        """Return a client by hand, its handshake done."""
        sock = self.raw()
        sock.sendall(HEAD)
        peer = RawPeer(sock, masks=True)
        sock.settimeout(PATIENCE)
        peer.read_until(b"\r\n\r\n")
        return peer

    def message(self, most: int = 20) -> str | bytes:
        random = self.random
        size = int(2 ** random.uniform(0, min(most, random.choice([8, 8, 8, 12, 12, 17, most]))))
        if random.random() < 0.5:
            text = random.choice(["x", "soak ", "größer ", "日本語"]) * size
            return text[: size // 3]
        return (random.randbytes(min(size, 500)) * (size // 500 + 1))[:size]

    def receive(self, websocket: WebSocketClient) -> str | bytes:
        """Return the next message that is no news; these must come one after the other."""
        while True:
            message = websocket.recv(PATIENCE)
            if not (isinstance(message, str) and message.startswith("news ")):
                return message
            self._check_news(websocket, int(message[5:]))

    def _check_news(self, websocket: WebSocketClient, number: int) -> None:
        last = getattr(websocket, "last_news", None)
        self.figures.count("news")
        if last is not None and number != last + 1:
            self.figures.problem("lost", f"news {last + 1} to {number - 1} of {self.url}")
        websocket.last_news = number  # type: ignore[attr-defined]

    def expect(self, got: object, wanted: str | bytes) -> None:
        self.figures.count("messages")
        self.figures.count("bytes", len(wanted))
        if got != wanted:
            self.figures.problem("wrong", f"{got!r:.60} in place of {wanted!r:.60} from {self.url}")

    def pause(self, seconds: float) -> None:
        threading.Event().wait(self.random.uniform(0, seconds))

    # Honest visits: everything comes back

    def echoes(self) -> None:
        random = self.random
        options = {
            "fragment_size": random.choice([None, None, 300 + random.randrange(5000)]),  # 4096 may be one message
            "compression": random.choice(COMPRESSIONS),
            "max_queue_size": random.choice([0, 1 << 16, 1 << 20]),
        }
        with self.connect(**options) as websocket:
            for _ in range(random.randrange(1, 12)):
                batch = [self.message() for _ in range(random.randrange(1, 8))]
                for message in batch:
                    websocket.send(message, compress=random.choice([None, None, True, False]))
                for message in batch:
                    self.expect(self.receive(websocket), message)

    def pieces(self) -> None:
        with self.connect("pieces", compression=self.random.choice(COMPRESSIONS)) as websocket:
            for _ in range(self.random.randrange(1, 6)):
                message = self.message(17)
                step = 50 + self.random.randrange(1 + len(message) // 3)  # 4096 may be one message
                websocket.send_fragments(message[at : at + step] for at in range(0, max(1, len(message)), step))
                self.expect(self._receive_pieces(websocket, message[:0]), message)

    def _receive_pieces(self, websocket: WebSocketClient, nothing: Any) -> str | bytes:
        while True:
            parts: list[Any] = list(websocket.recv_fragments(PATIENCE))
            message: str | bytes = parts[0][:0].join(parts) if parts else nothing
            if not (isinstance(message, str) and message.startswith("news ")):
                return message
            self._check_news(websocket, int(message[5:]))

    def both_ways(self) -> None:
        """Several threads send while another receives."""
        count, senders = self.random.randrange(1, 40), self.random.randrange(1, 4)
        filling = str(self.message(10))

        def send(number: int) -> None:
            for index in range(count):
                websocket.send(f"{number} {index} {filling}")

        with self.connect() as websocket:
            handles = [run_in_thread(send, number) for number in range(senders)]
            seen: Counter[int] = Counter()
            for _ in range(count * senders):
                message = str(self.receive(websocket))
                number = int(message.split(" ")[0])
                self.expect(message, f"{number} {seen[number]} {filling}")
                seen[number] += 1
            for handle in handles:
                handle.result(PATIENCE)

    def pings(self) -> None:
        with self.connect() as websocket:
            for _ in range(self.random.randrange(1, 20)):
                self.figures.count("pings")
                if websocket.ping(self.random.randbytes(self.random.randrange(126))).wait(PATIENCE) is None:
                    self.figures.problem("lost", f"a pong of {self.url}")

    def idle(self) -> None:
        """Nothing but news, and pings behind the scenes."""
        with self.connect() as websocket:
            for _ in range(self.random.randrange(1, 12)):
                message = websocket.recv(PATIENCE)
                self._check_news(websocket, int(str(message)[5:]))

    def closing(self) -> None:
        code = self.random.choice([1000, 1001, 3000, 4999])
        websocket = self.connect()
        websocket.close(code, "soak" * self.random.randrange(10))
        if websocket.close_code != code:
            self.figures.problem("wrong", f"{code} was answered by {websocket.close_code} {websocket.close_reason}")

    def http(self) -> None:
        with RawPeer(self.raw(), masks=True) as peer:
            peer.sock.settimeout(PATIENCE)
            for _ in range(self.random.randrange(1, 5)):
                peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.expect(peer.read_until(b"hello")[-9:], b"\r\n\r\nhello")

    def slow_writer(self) -> None:
        """Byte by byte, but whole in the end."""
        with self.peer() as peer:
            data = bytes(self.random.randrange(1, 125))
            for byte in frame(2, data, key=b"\x37\xfa\x21\x3d"):
                peer.send(bytes([byte]))
                self.pause(0.01)
            while (got := peer.read_frame()).opcode != 2:
                pass
            self.expect(got.payload, data)

    # Visits of those who are not honest: they may be answered as they deserve, and nobody else is to notice

    def abrupt(self) -> None:
        self.figures.count("fault: abort")
        websocket = self.connect()
        for _ in range(self.random.randrange(5)):
            websocket.send(self.message(14))
        websocket.abort()

    def rst(self) -> None:
        self.figures.count("fault: RST")
        peer = self.peer()
        for _ in range(self.random.randrange(5)):
            peer.frame(2, bytes(self.random.randrange(10_000)))
        if isinstance(peer.sock, ssl.SSLSocket):
            peer.sock = socket.socket(fileno=peer.sock.detach())  # type: ignore[assignment]
        reset(peer.sock)

    def slow_reader(self) -> None:
        self.figures.count("fault: slow reader")
        with self.peer() as peer:
            peer.sock.settimeout(1)
            for _ in range(30):
                peer.frame(2, bytes(100_000))
            for _ in range(self.random.randrange(1, 50)):
                peer.sock.recv(1000)
                self.pause(0.1)

    def slow_loris(self) -> None:
        self.figures.count("fault: slow-loris")
        with self.raw(tls=self.random.random() < 0.5) as sock:
            began = time.monotonic()
            half = HEAD[: self.random.randrange(len(HEAD))]
            with contextlib.suppress(OSError):
                for at in range(0, len(half), 20):
                    sock.sendall(half[at : at + 20])
                    self.pause(0.3)
                while sock.recv(1000):
                    pass
            if time.monotonic() - began > PATIENCE:
                self.figures.problem("wrong", f"a slow-loris was kept by {self.url}")

    def garbage(self) -> None:
        self.figures.count("fault: garbage")
        with self.peer() as peer:
            peer.send(self.random.randbytes(self.random.randrange(1, 3000)))
            if not isinstance(peer.sock, ssl.SSLSocket):
                peer.sock.shutdown(socket.SHUT_WR)
                peer.read_to_end()

    def bad_handshake(self) -> None:
        self.figures.count("fault: bad handshake")
        request = bytearray(HEAD)
        for _ in range(self.random.randrange(1, 5)):
            at = self.random.randrange(len(request))
            request[at : at + self.random.randrange(3)] = self.random.randbytes(self.random.randrange(3))
        with self.raw() as sock:
            sock.sendall(bytes(request) if self.random.random() < 0.8 else self.random.randbytes(300))
            answer = sock.recv(1000)
            if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self.figures.problem("wrong", f"{answer!r:.60} to {bytes(request)!r:.300}")

    def through_faults(self) -> None:
        """What comes back is the beginning of what was sent, whatever happens on the way."""
        plans = Plan.random(self.random), Plan.random(self.random)
        url = urlsplit(self.url)
        sent: list[str | bytes] = []
        options: dict[str, Any] = {**LIMITS, "compression": self.random.choice(COMPRESSIONS)}
        with FaultyProxy(("127.0.0.1", url.port), seed=self.random.random(), plans=lambda random: plans) as proxy:
            try:
                with self.connect(port=proxy.port, **options) as websocket:
                    for _ in range(self.random.randrange(1, 20)):
                        sent.append(self.message(14))
                        websocket.send(sent[-1])
                        if self.random.random() < 0.7:
                            self.expect(self.receive(websocket), sent.pop(0))
                    while sent:
                        self.expect(self.receive(websocket), sent.pop(0))
            except (ConnectionClosed, HandshakeError, OSError):  # TimeoutError is one of these
                if not any(proxy.injected[end] for end in ("drop", "reset", "stall")):
                    raise
            for what, number in proxy.injected.items():
                self.figures.count(f"fault: {what}", number)

    HONEST = ("echoes", "pieces", "both_ways", "pings", "idle", "closing", "http", "slow_writer")
    OTHERS = ("abrupt", "rst", "slow_reader", "slow_loris", "garbage", "bad_handshake", "through_faults")
    KINDS = (*HONEST, *OTHERS)
    WEIGHTS = (20, 8, 8, 5, 1, 6, 6, 1, 5, 5, 1, 1, 4, 4, 6)

    def visit(self, kind: str) -> None:
        """Make one visit; what must not happen becomes a problem."""
        self.figures.count("visits")
        try:
            getattr(self, kind)()
        except TimeoutError as error:
            if kind in self.HONEST:
                self.figures.problem("lost", f"{kind} at {self.url}: {error}")
        except (OSError, ConnectionClosed, HandshakeError, EOFError) as error:
            if kind in self.HONEST:
                self.figures.problem("failed", f"{kind} at {self.url}: {error!r}")
        except Exception as error:
            self.figures.problem("failed", f"{kind} at {self.url}: {error!r}")


def work(urls: list[str], random: Random, figures: Figures, end: float) -> None:
    while time.monotonic() < end:
        (kind,) = random.choices(Visitor.KINDS, Visitor.WEIGHTS)
        Visitor(random.choice(urls), random, figures).visit(kind)


def usage() -> dict[str, int]:
    gc.collect()
    trim_memory()
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory": memory("VmRSS"),
        "peak": memory("VmHWM"),
    }


def run(urls: list[str], threads: int, seconds: float, random: Random, tell: Callable[[Any], None]) -> None:
    figures = Figures()
    end = time.monotonic() + seconds
    workers = [run_in_thread(work, urls, Random(random.random()), figures, end) for _ in range(threads)]
    while any(worker.running for worker in workers):
        workers[0].thread.join(5)
        threading.Event().wait(0.2)
        now = figures.as_dict()
        tell({"progress": now["counts"], "problems": now["problems"]})
    for worker in workers:
        worker.result()
    del workers
    tell({**figures.as_dict(), "usage": usage()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--threads", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random = Random(arguments.seed)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        run(arguments.urls, arguments.threads, seconds, random, lambda line: print(json.dumps(line), flush=True))


if __name__ == "__main__":
    main()

"""Soak: everything at once, for as long as wanted, and what it has cost.

    python3 -m tests.soak --minutes 30 [--pure] [--seed 1]

Four servers (threaded and pooled, plain and TLS), and client processes that visit them: echoes of all sizes, in
fragments, compressed, from several threads, messages in pieces, pings, news broadcast to all, plain HTTP, slow writers;
and among them those who disconnect or reset in the middle, read nothing, send garbage or half a head, and connections
whose bytes a proxy delays, splits, cuts, resets and stalls (faults.py). Every echo is compared.

A first part warms up; then all comes to rest, and what each process uses is what it may use again at the end. Exits
with 1 if anything was lost or wrong, if threads, descriptors or connections have become more, or memory by 20 MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from websocketserver import WebSocketClient

from .stress_client import context

ROOT = Path(__file__).parent.parent
SERVERS = {
    "threaded": [],
    "threaded, TLS": ["--tls"],
    "pooled": ["--pool"],
    "pooled, TLS": ["--pool", "--tls"],
}
MOST_GROWTH = 20 * 1024  # KiB after warming up (R63)
POOL_THREADS = 8  # that a pool may call in later than while warming up
# New threads for each part get memory of their own from the C library, which keeps it: no leak, but it looks like one.
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
WARM = 180  # seconds of warming up at most
REST = 60.0  # seconds in which what is about to end may end


class Process:
    """A program of ours: a line in, lines out."""

    def __init__(self, module: str, arguments: Sequence[object], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def say(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def hear(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            raise SystemExit(f"{self.popen.args} has ended with {self.popen.wait()}")
        return line.rstrip("\n")

    def end(self) -> None:
        with self.popen, contextlib.suppress(OSError, subprocess.TimeoutExpired):
            assert self.popen.stdin is not None
            self.popen.stdin.close()
            self.popen.wait(20)
            return
        self.popen.kill()


@contextlib.contextmanager
def processes(pure: bool) -> Iterator[tuple[dict[str, Any], list[Process]]]:
    """Start the servers; yield their URLs by name, and a list for the clients; end them all."""
    environment = {**os.environ, **({"WEBSOCKETSERVER_PURE": "1"} if pure else {})}
    servers = {name: Process("tests.soak_server", options, environment) for name, options in SERVERS.items()}
    clients: list[Process] = []
    try:
        yield {name: server.hear() for name, server in servers.items()}, clients
    finally:
        for process in [*clients, *servers.values()]:
            process.end()


def usage_at_rest(url: str) -> dict[str, Any]:
    """Return what a server uses as soon as this is its only connection."""
    end = time.monotonic() + REST
    with WebSocketClient(url, ssl_context=context() if url.startswith("wss:") else None) as websocket:
        while True:
            websocket.send("usage")
            while (answer := str(websocket.recv(REST))).startswith("news "):
                pass
            usage: dict[str, Any] = json.loads(answer)
            if usage["accepted"] == 1 or time.monotonic() > end:
                return usage
            threading.Event().wait(0.2)


class Soak:
    """The clients' figures of one part of the run, in sum."""

    def __init__(self, clients: list[Process]) -> None:
        self._clients = clients
        self._progress: dict[Process, dict[str, int]] = {}
        self._told: set[str] = set()
        self.results: list[dict[str, Any]] = []

    def run(self, seconds: float, every: float = 30.0) -> None:
        """Have all clients visit for so long, and print how far they are."""
        readers = []
        for client in self._clients:
            client.say(f"run {seconds}")
            readers.append(threading.Thread(target=self._listen, args=(client,), daemon=True))
            readers[-1].start()
        began = last = time.monotonic()
        while any(reader.is_alive() for reader in readers):
            readers[0].join(0.5) if readers[0].is_alive() else readers[-1].join(0.5)
            if time.monotonic() - last >= every:
                last = time.monotonic()
                print(f"{last - began:6.0f} s  {summary(self._sum(self._progress.values()))}", flush=True)
        if len(self.results) < len(self._clients):
            raise SystemExit("a client has failed")

    def _listen(self, client: Process) -> None:
        while True:
            said = json.loads(client.hear())
            if "progress" not in said:
                self.results.append(said)
                return
            self._progress[client] = said["progress"]
            for problem in said["problems"]:
                if problem not in self._told:
                    self._told.add(problem)
                    print(problem, flush=True)

    @staticmethod
    def _sum(figures: Any) -> Counter[str]:
        total: Counter[str] = Counter()
        for counts in list(figures):
            total.update(counts)
        return total

    @property
    def counts(self) -> Counter[str]:
        return self._sum(result["counts"] for result in self.results)

    @property
    def problems(self) -> list[str]:
        return [problem for result in self.results for problem in result["problems"]]


def faults(counts: Counter[str]) -> int:
    return sum(number for what, number in counts.items() if what.startswith("fault: "))


def summary(counts: Counter[str]) -> str:
    return (
        f"{counts['connections']} connections, {counts['messages']} messages, {counts['bytes'] >> 20} MiB, "
        f"{faults(counts)} faults injected, lost {counts['lost']}, wrong {counts['wrong']}, failed {counts['failed']}"
    )


def leaks(name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what a process uses more than it may."""
    allowed = {
        "accepted": 0,
        "connections": 0,
        "threads": POOL_THREADS if "pool" in name else 0,
        "descriptors": 0,
        "memory": MOST_GROWTH,
    }
    return [
        f"{name}: {what} {before[what]} before, {after[what]} after"
        for what, more in allowed.items()
        if what in before and after[what] - before[what] > more
    ]


def report(counts: Counter[str], before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Print what came of it; return what must not be."""
    print("\n" + summary(counts))
    for what in sorted(counts):
        print(f"  {what:24} {counts[what]:>12}")
    print(f"\n  {'at rest, before and after':24} {'threads':>12} {'descriptors':>12} {'MiB':>16} {'peak MiB':>9}")
    found = []
    for name, now in after.items():
        was = before[name]
        pairs = [f"{was[what]:>5} {now[what]:>5}" for what in ("threads", "descriptors")]
        sizes = f"{was['memory'] / 1024:7.1f} {now['memory'] / 1024:7.1f}"
        print(f"  {name:24} {pairs[0]:>12} {pairs[1]:>12} {sizes:>16} {now['peak'] / 1024:9.1f}")
        found += leaks(name, was, now)
        if now.get("failures"):
            found.append(f"{name}: {now['failures']} exceptions escaped, the first: {now['failure']}")
    found += [f"{counts[what]} {what}" for what in ("lost", "wrong", "failed") if counts[what]]
    print(f"\n  leaked {len([line for line in found if 'before' in line])}, lost {counts['lost']}")
    return found


def soak(seconds: float, *, clients: int, threads: int, seed: int, pure: bool) -> list[str]:
    """Do it all; return what must not be, nothing if all is well."""
    with processes(pure) as (urls, started):
        environment = {**os.environ, **({"WEBSOCKETSERVER_PURE": "1"} if pure else {}), **FEW_ARENAS}
        for number in range(clients):
            options = ["--threads", threads, "--seed", seed + number, *urls.values()]
            started.append(Process("tests.soak_clients", options, environment))

        def part(length: float) -> tuple[Soak, dict[str, Any]]:
            soak = Soak(started)
            soak.run(length)
            usage = {f"server {name}": usage_at_rest(url) for name, url in urls.items()}
            usage.update({f"clients {number}": result["usage"] for number, result in enumerate(soak.results)})
            return soak, usage

        warm, before = part(min(max(10, seconds / 4), WARM))
        print(f"warm: {summary(warm.counts)}", flush=True)
        main, after = part(seconds)
        found = report(warm.counts + main.counts, before, after)
        for problem in warm.problems + main.problems:
            print(problem)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=2, help="processes")
    parser.add_argument("--threads", type=int, default=16, help="of each client process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pure", action="store_true", help="all in Python, on both sides")
    arguments = parser.parse_args()
    found = soak(
        arguments.minutes * 60,
        clients=arguments.clients,
        threads=arguments.threads,
        seed=arguments.seed,
        pure=arguments.pure,
    )
    if found:
        raise SystemExit("\n".join(["", *found]))
    print("  all is well")


if __name__ == "__main__":
    main()

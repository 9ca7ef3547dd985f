"""What we want to reach, each as a ratio to a peer of the same run or as a bound; printed, never asserted by a test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .results import Results, number

__all__ = ["TARGETS", "Target", "judge"]

THREADED, POOLED, PURE = "threaded", "pooled", "threaded (pure Python)"
CLIENT, PURE_CLIENT = "client", "client (pure Python)"
SYNC, PICOWS, NPM, C = "websockets sync", "picows+uvloop", "npm ws", "C threads"
SYNC_CLIENT, WSACCEL = "websockets.sync.client", "websocket-client+wsaccel"


class Target(NamedTuple):
    """``least`` times the baseline, or ``least`` itself without one; ``most`` for what is to be low."""

    contender: str
    scenario: str
    baseline: str | None
    least: float = 0.0
    most: float | None = None

    def text(self) -> str:
        if self.most is not None:
            return f"at most {number(self.most)}"
        return f"{self.least:g} x {self.baseline}" if self.baseline else f"at least {self.least:g}"

    def measured(self, results: Results) -> float | None:
        """Return what is compared with the bound; None where it was not measured."""
        if self.baseline is None:
            return results.median(self.scenario, self.contender)
        return results.ratio(self.scenario, self.contender, self.baseline)

    def reached(self, results: Results) -> bool | None:
        """Return whether the target is reached; None where it was not measured."""
        value = self.measured(results)
        if value is None:
            return None
        return value <= self.most if self.most is not None else value >= self.least


def _each(contenders: Iterable[str], scenarios: Iterable[str], baseline: str, least: float) -> list[Target]:
    return [Target(contender, scenario, baseline, least) for scenario in scenarios for contender in contenders]


BOTH = (THREADED, POOLED)
TARGETS = (
    Target(THREADED, "echo-1", C, 0.93),
    Target(THREADED, "echo-1", PICOWS, 1.0),
    *_each([THREADED], ["echo-10", "echo-100"], C, 0.85),
    Target(THREADED, "echo-1000-unpinned", SYNC, 20),
    *_each([POOLED], ["echo-100", "echo-1000"], PICOWS, 1.1),
    *_each([POOLED], ["echo-100", "echo-1000"], SYNC, 3.5),
    Target(THREADED, "pipe-1", PICOWS, 4),
    Target(THREADED, "pipe-1", SYNC, 10),
    Target(POOLED, "pipe-1", PICOWS, 1.3),
    *_each(BOTH, ["echo-16k", "echo-1m", "echo-16m", "text-str"], PICOWS, 1.0),
    *_each(BOTH, ["text-bytes"], SYNC, 8),
    Target(THREADED, "connect", SYNC, 2.9),
    Target(THREADED, "connect", NPM, 1.0),
    Target(POOLED, "connect", PICOWS, 1.0),
    Target(POOLED, "connect", SYNC, 3.6),
    *_each(BOTH, ["fanout-100", "fanout-1000"], PICOWS, 1.0),
    *_each(BOTH, ["deflate-1k"], SYNC, 1.5),
    *_each(BOTH, ["deflate-8k"], SYNC, 1.3),
    *_each(BOTH, ["deflate-64k"], SYNC, 1.0),
    Target(POOLED, "idle", None, most=8),
    Target(THREADED, "idle", None, most=24),
    Target(CLIENT, "rtt-32", SYNC_CLIENT, 2.1),
    Target(CLIENT, "rtt-64k", SYNC_CLIENT, 1.6),
    Target(CLIENT, "rtt-1m", SYNC_CLIENT, 1.4),
    *_each([CLIENT], ["rtt-32", "rtt-64k", "rtt-1m"], WSACCEL, 1.0),
    Target(CLIENT, "push-1k", SYNC_CLIENT, 3),
    Target(CLIENT, "pull-1k", SYNC_CLIENT, 3.5),
    Target(CLIENT, "push-1m", SYNC_CLIENT, 2.5),
    Target(CLIENT, "pull-1m", SYNC_CLIENT, 1.5),
    Target(CLIENT, "client-connect", SYNC_CLIENT, 2.5),
    *_each([PURE], ["echo-1", "echo-10", "echo-100", "echo-1000"], SYNC, 1.0),
    *_each([PURE_CLIENT], ["rtt-32", "rtt-1k"], SYNC_CLIENT, 1.0),
    Target(POOLED, "sleepers", None, most=25),
    Target(POOLED, "crowd", None, 0.7),
)


def judge(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the table of targets: what, target, measured, whether it is reached."""
    words = {True: "yes", False: "NO", None: "not measured"}
    head = ["", "target", "measured", "reached"]
    return head, [
        [
            f"{target.contender}: {target.scenario}",
            target.text(),
            number(target.measured(results)),
            words[target.reached(results)],
        ]
        for target in TARGETS
    ]

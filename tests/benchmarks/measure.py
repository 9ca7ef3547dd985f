"""One sample of one contender in one scenario, and the rounds of samples that make a result."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from json import loads
from typing import Any

from .contenders import CLIENT, Contender
from .kit import Kit
from .processes import Failed, Load, Process, free_port, pinned
from .scenarios import Scenario

__all__ = ["Measurement", "Options", "Sample"]

METRICS = {
    "messages/s": "msgs_s",
    "deliveries/s": "msgs_s",
    "connections/s": "conn_s",
    "MB/s": "mb_s",
    "KB": "kb",
    "ms": "p99_ms",
    "share": "share",
}
CPUS = sorted(os.sched_getaffinity(0))
GRACE = 60.0  # seconds that a load may take beyond its time
IDLE, CROWD = 1000, 10_000  # connections
CROWD_HOLDS = 8.0  # seconds: the server of the crowd pings every 3

Sample = dict[str, Any]


@dataclass(frozen=True)
class Options:
    rounds: int = 5
    seconds: float = 1.0
    warm: float = 0.3
    pin: str = "same"


class Measurement:
    """A scenario with all its servers running; ``with`` starts and ends them."""

    def __init__(self, kit: Kit, scenario: Scenario, contenders: list[Contender], options: Options) -> None:
        self.scenario = scenario
        self.failures: dict[str, str] = {}
        self._kit = kit
        self._options = options
        first, last = str(CPUS[0]), str(CPUS[-1])
        pin = scenario.pin or options.pin
        self._server_cpu = {"none": None, "split": first, "same": last}[pin]
        self._load_cpu = None if pin == "none" else last
        self._contenders = contenders
        self._servers: dict[str, tuple[Process, int]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Measurement:
        with self._stack as stack:
            if self.scenario.client:
                self._start(self._far_end())
            else:
                for contender in self._contenders:
                    self._start(contender)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def round(self) -> Iterator[tuple[Contender, Sample | None]]:
        """Take one sample of each contender, one after the other; None where it failed, which ends its part."""
        for contender in self._contenders:
            if contender.name in self.failures:
                continue
            sample = None
            try:
                sample = self._sample(contender)
            except Failed as error:
                self.failures[contender.name] = str(error)
            yield contender, sample

    def _start(self, contender: Contender) -> None:
        port = free_port()
        if contender.command[0].endswith("wssink"):
            arguments = ["-p", str(port), "-m", *contender.flags, *(["-z"] if self.scenario.deflate else [])]
        else:
            deflate = "1" if self.scenario.deflate else "0"
            arguments = [str(port), self.scenario.mode, deflate, self.scenario.payload, *contender.flags]
        process = Process([*contender.command, *arguments], contender.environment, self._server_cpu)
        self._stack.enter_context(process)
        try:
            process.wait_for(port)
        except Failed as error:
            self.failures[contender.name] = str(error)
        self._servers[contender.name] = process, port

    def _far_end(self) -> Contender:
        return Contender("far end", (str(self._kit.programs / "wssink"),), flags=("thread",))

    def _sample(self, contender: Contender) -> Sample:
        if contender.role == CLIENT:
            sample = self._run_client(contender)
        elif self.scenario.load.startswith("idle"):
            sample = self._hold_idle(contender)
        elif self.scenario.mode == "sleepers":
            sample = self._beside_sleepers(contender)
        elif self.scenario.mode == "crowd":
            sample = self._beside_crowd(contender)
        else:
            sample = self._run_load(contender)
        sample["value"] = sample[METRICS[self.scenario.unit]]
        return sample

    def _command(self, port: int, load: str) -> list[str]:
        mode, *arguments = load.split()
        return [str(self._kit.programs / "wsload"), mode, "-p", str(port), *arguments]

    def _run_load(self, contender: Contender, load: str | None = None) -> Sample:
        process, port = self._servers[contender.name]
        seconds, warm = self._options.seconds, self._options.warm
        command = [*self._command(port, load or self.scenario.load), "-T", str(seconds), "-w", str(warm)]
        with Load(command, self._load_cpu, seconds + warm + GRACE) as running:
            before = process.usage() if running.wait_for("WINDOW") else None
            after = process.usage() if running.wait_for("END") else None
            report = running.report()
        count = report["msgs"] or report["conn_s"] * report["secs"]
        if before and after and count:
            report["cpu_us"] = (after.cpu - before.cpu) * 1e6 / count
        if not count:
            raise Failed("nothing came back in time")
        report["wire_each"] = report["wire"] / count
        report["p99_ms"] = report["p99_us"] / 1000
        return report

    def _hold_idle(self, contender: Contender) -> Sample:
        process, port = self._servers[contender.name]
        time.sleep(0.2)  # what the start has left to free
        before = process.usage()
        with self._idle(port, self.scenario.load) as idle:
            time.sleep(0.5)
            after = process.usage()
            report = idle.report(release=True)
        report["kb"] = (after.resident - before.resident) / IDLE
        report["threads"] = (after.threads - before.threads) / IDLE
        return report

    @contextmanager
    def _idle(self, port: int, load: str) -> Iterator[Load]:
        with Load(self._command(port, load), self._load_cpu, 2 * GRACE) as idle:
            idle.wait_until_ready()
            yield idle

    def _beside_sleepers(self, contender: Contender) -> Sample:
        _, port = self._servers[contender.name]
        seconds = self._options.seconds + self._options.warm
        command = [*self._command(port, "echo -c 10 -s 32 -u /sleep"), "-T", str(seconds + 2), "-w", "0"]
        with Load(command, self._load_cpu, seconds + GRACE) as sleepers:
            if not sleepers.wait_for("WINDOW"):
                raise Failed("the sleeping connections could not be opened")
            sample = self._run_load(contender)
            sleepers.report()
        return sample

    def _beside_crowd(self, contender: Contender) -> Sample:
        _, port = self._servers[contender.name]
        alone = self._run_load(contender)
        with self._idle(port, f"idle -c {CROWD} -s 32") as crowd:
            held_until = time.monotonic() + CROWD_HOLDS
            beside = self._run_load(contender)
            time.sleep(max(0.0, held_until - time.monotonic()))
            report = crowd.report(release=True)
        if report["pings"] < CROWD:
            raise Failed(f"only {report['pings']} pings came to {CROWD} connections")
        return {"share": beside["msgs_s"] / alone["msgs_s"], "alone": alone, "beside": beside, "pings": report["pings"]}

    def _run_client(self, contender: Contender) -> Sample:
        _, port = self._servers["far end"]
        command = [*contender.command, f"ws://127.0.0.1:{port}", *self.scenario.load.split()]
        try:
            done = subprocess.run(
                pinned(command, self._load_cpu),
                env={**os.environ, **contender.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=GRACE,
            )
            report: Sample = loads(done.stdout.strip().splitlines()[-1])
        except subprocess.TimeoutExpired:
            raise Failed("took too long") from None
        except (ValueError, IndexError):
            raise Failed(done.stderr.strip()[-300:] or f"exit status {done.returncode}") from None
        rate = report["n"] / report["secs"]
        report.update(msgs_s=rate, conn_s=rate, mb_s=report["bytes"] / report["secs"] / 1e6)
        report["cpu_us"] = report["cpu"] * 1e6 / report["n"]
        return report

"""Programs under measurement: started, watched, and always ended."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, NamedTuple

__all__ = ["Failed", "Load", "Process", "Usage", "free_port", "lift_limits", "pinned"]

PAGE = os.sysconf("SC_PAGE_SIZE") // 1024
TICK = os.sysconf("SC_CLK_TCK")
STARTING, ENDING = 20.0, 3.0  # seconds that a program may take


class Failed(Exception):
    """A sample that says nothing: a program ended, answered wrongly, or took too long."""


class Usage(NamedTuple):
    """What a process and its children have used."""

    cpu: float  # seconds
    resident: int  # KB
    threads: int


class Process:
    """A program in the background; its output is kept for when it fails. Ended when the ``with`` block is left."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cpu: str | None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the program)
        self._process = subprocess.Popen(
            pinned(command, cpu),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def wait_for(self, port: int) -> None:
        """Wait until the program listens; Failed if it does not."""
        end = time.monotonic() + STARTING
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            time.sleep(0.05)
        self._log.seek(0)
        raise Failed("did not start: " + self._log.read()[-600:].decode(errors="replace").strip())

    def usage(self) -> Usage:
        """Return what the program and its children have used so far."""
        total = Usage(0, 0, 0)
        for pid in _tree(self._process.pid):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                seconds = (int(fields[11]) + int(fields[12])) / TICK
                total = Usage(
                    total.cpu + seconds, total.resident + int(fields[21]) * PAGE, total.threads + int(fields[17])
                )
        return total


class Load:
    """The load generator at work; killed after ``limit`` seconds. Use it in a ``with`` block."""

    def __init__(self, command: Sequence[str], cpu: str | None, limit: float) -> None:
        self._process = subprocess.Popen(
            pinned(command, cpu), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._timer = Timer(limit, self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._process.kill()
        with self._process:
            pass

    def wait_for(self, word: str) -> bool:
        """Wait for a line on stderr; False if the program ends before."""
        assert self._process.stderr is not None
        return any(line.strip() == word for line in self._process.stderr)

    def wait_until_ready(self) -> None:
        """Wait for the READY of an idle load."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("READY"):
            raise Failed(_first_error(line) or "the connections could not be opened")

    def report(self, *, release: bool = False) -> dict[str, Any]:
        """Return the report that the program ends with, letting go of idle connections with ``release``."""
        output, _ = self._process.communicate("\n" if release else None)
        try:
            report: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise Failed("the load generator did not end in time") from None
        if report.get("errors"):
            raise Failed(f"{report['errors']} errors, the first: {report['first_error']}")
        return report


def pinned(command: Sequence[str], cpu: str | None) -> list[str]:
    """Return the command bound to a CPU, or as it is."""
    return [*(["taskset", "-c", cpu] if cpu else []), *command]


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def lift_limits() -> None:
    """Allow as many descriptors as the system lets us have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first_error(line: str) -> str:
    with suppress(ValueError):
        return str(json.loads(line)["first_error"])
    return ""


def _tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found, todo = [], [pid]
    while todo:
        process = todo.pop()
        found.append(process)
        with suppress(OSError):
            todo += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return found

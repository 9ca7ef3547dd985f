"""A Python program that a test starts, talks to and ends, or waits for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from .support import SOON, run_in_thread

__all__ = ["ROOT", "Program", "run_program"]

ROOT = Path(__file__).parent.parent


class Program:
    """A running Python program: its output by lines, its end within SOON. Killed when the ``with`` block is left."""

    def __init__(self, *arguments: object, cwd: Path = ROOT, **streams: Any) -> None:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        self.process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, **streams)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        with self.process, contextlib.suppress(BrokenPipeError):
            if self.process.stdin:
                self.process.stdin.close()

    def type(self, data: bytes) -> None:
        """Write to its standard input (stdin=subprocess.PIPE)."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self, size: int) -> bytes:
        """Return so many bytes of standard output."""
        assert self.process.stdout is not None
        return bytes(run_in_thread(self.process.stdout.read, size).result())

    def line(self) -> str:
        """Return the next line of standard output, without its end."""
        return self._line(self.process.stdout)

    def error_line(self) -> str:
        """Return the next line of standard error, without its end."""
        return self._line(self.process.stderr)

    def _line(self, stream: Any) -> str:
        line = run_in_thread(stream.readline).result(SOON)
        assert line, ("ended", *self.wait())
        return str(line.decode().rstrip("\n"))

    def url(self) -> str:
        """Return the URL in the next line of standard output."""
        return re.findall(r"\S+://\S+", self.line())[0]

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, typed: bytes | None = None) -> tuple[int, str, str]:
        """Return the exit code and the rest of both outputs, the log of requests left out."""
        output, errors = self.process.communicate(typed, timeout=SOON)
        logged = errors.decode().splitlines(True) if errors else []
        return (
            self.process.returncode,
            output.decode() if output else "",
            "".join(line for line in logged if " - - [" not in line),
        )

    def seconds_to_end(self) -> float:
        """Press Ctrl-C and return how long the end takes."""
        began = time.monotonic()
        self.interrupt()
        self.process.wait(SOON)
        return time.monotonic() - began


def run_program(program: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, which must end by itself."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )

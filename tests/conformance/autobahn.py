"""Autobahn|Testsuite as a tool: finds or installs it, lists its cases, runs it as one of the two sides.

It is a Python 2 program: it wants a CPython 2.7 with headers and a C compiler, and gets a virtual environment
of its own below ``.cache``. It hangs on a case that it does not know and loses its reports when it is killed; so it
is only given names from its own list, one group of cases at a time, and is watched while it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["AGENT", "Autobahn", "Result", "Stalled", "find_python2"]

VERSION = "25.10.1"
AGENT = "websocketserver"
CACHE = Path(__file__).parents[2] / ".cache" / f"autobahn-{VERSION}"
# Without a word from the suite for so many seconds it is cut; some cases of groups 12 and 13 take 480 by right.
PATIENCE = 500.0
STARTING = 60.0

PROBE = """
import os, sys
from distutils.sysconfig import get_python_inc
sys.exit(sys.version_info[:2] != (2, 7) or not os.path.exists(os.path.join(get_python_inc(), "Python.h")))
"""
LIST = """
import json
from autobahntestsuite.case import Cases
print(json.dumps(sorted([int(n) for n in case.__name__[4:].split("_")] for case in Cases)))
"""


class Stalled(Exception):
    """The suite or the program under test came to a stop."""


class Result(NamedTuple):
    """What became of one case."""

    case: str
    behavior: str
    behavior_close: str
    report: Path


def find_python2() -> str:
    """Return a CPython 2.7 with headers: AUTOBAHN_PYTHON, one on the PATH, or one of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [os.environ.get("AUTOBAHN_PYTHON"), shutil.which("python2.7"), shutil.which("python2")]
    candidates += [str(path) for path in sorted(pyenv.glob("versions/2.7.*/bin/python2.7"), reverse=True)]
    for candidate in candidates:
        if candidate and shutil.which(candidate):
            probe = subprocess.run([candidate, "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True)
            if probe.returncode == 0:
                return candidate
    raise SystemExit(
        "Autobahn needs a CPython 2.7 with headers: set AUTOBAHN_PYTHON, or install one (pyenv install 2.7.18)"
    )


def _install() -> Path:
    """Return the Python of an environment that has the suite; the first time makes it, in half a minute."""
    python = CACHE / "python2" / "bin" / "python"
    finished = CACHE / "finished"
    if not finished.exists():
        python2 = find_python2()
        print(f"installing autobahntestsuite {VERSION} for {python2} into {CACHE}", flush=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        bootstrap = CACHE / "bootstrap"
        for command in (
            [sys.executable, "-m", "venv", bootstrap],
            [bootstrap / "bin" / "pip", "install", "-q", "virtualenv<20.22"],  # the last that makes one for 2.7
            [bootstrap / "bin" / "virtualenv", "-q", "-p", python2, CACHE / "python2"],
            [CACHE / "python2" / "bin" / "pip", "install", "-q", f"autobahntestsuite=={VERSION}"],
        ):
            done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
        finished.touch()
    return python


class Autobahn:
    """The installed suite; reports go below ``reports``."""

    def __init__(self, reports: Path) -> None:
        self.python = _install()
        self.reports = reports

    def cases(self) -> list[str]:
        """Return the names of all cases, in order."""
        listed = subprocess.run([self.python, "-c", LIST], capture_output=True, check=True, text=True)
        return [".".join(map(str, numbers)) for numbers in json.loads(listed.stdout)]

    def test_server(self, port: int, cases: Sequence[str], name: str) -> list[Result]:
        """Run cases, as a client, against the server at a port of the loopback."""
        outdir = self.reports / name
        servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}]
        with self._wstest("fuzzingclient", {"servers": servers}, cases, outdir) as (process, watch):
            watch.until(lambda: process.poll() is not None)
        return _results(outdir, cases)

    def test_client(self, client: Sequence[str], cases: Sequence[str], name: str) -> list[Result]:
        """Run cases, as a server, with a client program that is called with the URL and the number of cases."""
        outdir = self.reports / name
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        url = f"ws://127.0.0.1:{port}"
        with self._wstest("fuzzingserver", {"url": url}, cases, outdir) as (_, watch):
            watch.until(lambda: _listens(port), STARTING)
            with _process([*client, url, str(len(cases))], outdir / "client.log") as program:
                watch.until(lambda: program.poll() is not None)
            if program.returncode:
                raise Stalled(f"the client ended with {program.returncode}: {(outdir / 'client.log').read_text()}")
        return _results(outdir, cases)

    @contextlib.contextmanager
    def _wstest(
        self, mode: str, spec: dict[str, object], cases: Sequence[str], outdir: Path
    ) -> Iterator[tuple[subprocess.Popen[bytes], _Watch]]:
        shutil.rmtree(outdir, ignore_errors=True)
        outdir.mkdir(parents=True)
        spec_file = outdir / "spec.json"
        spec_file.write_text(json.dumps({**spec, "outdir": str(outdir), "cases": list(cases), "exclude-cases": []}))
        wstest = ["-u", str(self.python.with_name("wstest")), "-m", mode, "-s", str(spec_file), "--webport", "0"]
        log = outdir / "wstest.log"
        with _process([str(self.python), *wstest], log) as process:
            yield process, _Watch(log)


class _Watch:
    """Waits for something to end as long as the suite goes on, which its log shows."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def until(self, done: Callable[[], bool], patience: float = PATIENCE) -> None:
        size, since = -1, time.monotonic()
        pause = threading.Event()
        while not done():
            if (now := self._log.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                lines = self._log.read_text(errors="replace").splitlines()
                raise Stalled(f"nothing for {patience:.0f} s; the last line: {lines[-1] if lines else 'none'}")
            pause.wait(0.02)


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that writes into a log; it and its children are ended on the way out."""
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _results(outdir: Path, cases: Sequence[str]) -> list[Result]:
    """Return what the suite's report says of each case; one that it lacks counts as failed."""
    index = outdir / "index.json"
    report = json.loads(index.read_text()).get(AGENT, {}) if index.exists() else {}
    missing = {"behavior": "MISSING", "behaviorClose": "MISSING", "reportfile": "wstest.log"}
    found = ((case, report.get(case, missing)) for case in cases)
    return [Result(case, row["behavior"], row["behaviorClose"], outdir / row["reportfile"]) for case, row in found]

"""What holds for every test: it leaves no thread and no descriptor behind, and in CI it is not skipped."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from websocketserver import Role, WebSocketConnection

from .support import SOON, pipe, wait_until

# The package's one timer, and the one thread that tells of traces, serve all connections of the process and stay.
SHARED_THREADS = {"websocketserver-keepalive", "websocketserver-trace"}
GRACE = 10.0  # seconds in which what is about to end may end
DESCRIPTORS = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)

hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "suite")

# A shell that starts us in the background has us ignore Ctrl-C, and all that we start: some tests are about it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Half of what it takes to start one of our programs would go into compiling it, each time anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name not in SHARED_THREADS}


def _descriptors() -> set[tuple[str, str]]:
    """Return what is open, as pairs of number and target, so that a number used anew is seen."""
    found = set()
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS else ():
        try:
            found.add((name, os.readlink(DESCRIPTORS / name)))  # type: ignore[operator]
        except OSError:  # the one that listed the folder
            pass
    return found


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """With -n auto, run twice as many workers as there are cores: half of a test's time is waiting for a deadline."""
    cores = yield
    return cores if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else 2 * cores


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    """What is the same over TLS is tested with both."""
    return bool(request.param)


@pytest.fixture(params=list(Role), ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    """What is the same on both sides is tested on both."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those who wait read; what the timer does is another test's."""
    monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 1000.0)
    monkeypatch.setattr("websocketserver.keepalive.timer.schedule", lambda visited, at: None)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Blocks who waits for it; opened at the end of the test in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever looks up a name waits until the test is over; the thread that does ends by itself then."""
    over = threading.Event()

    def hang(host: str, *args: object, flags: int = 0, **options: object) -> None:
        if not flags & socket.AI_NUMERICHOST:
            over.wait(SOON)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    over.set()


@pytest.fixture
def ends(tls: bool) -> Iterator[tuple[WebSocketConnection, WebSocketConnection]]:
    """The two ends of one connection, the client's first."""
    with pipe(tls=tls) as pair:
        yield pair


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail the test that leaves a thread or a descriptor behind.

    What ends by itself gets GRACE seconds for it; an object that only the garbage collector would
    close counts as left.
    """
    threads, descriptors = _threads(), _descriptors()
    yield
    if _threads() <= threads and _descriptors() <= descriptors:
        return
    wait_until(lambda: _threads() <= threads and _descriptors() <= descriptors, GRACE, fail=False)
    left = [f"thread {thread.name}" for thread in _threads() - threads]
    left += [f"descriptor {number} ({target})" for number, target in _descriptors() - descriptors]
    assert not left, "left behind: " + ", ".join(sorted(left))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    return _not_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    return _not_skipped(report)


def _not_skipped(report: Report) -> Report:
    """In CI everything that a test needs is there: a skipped test is a failed one."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which CI does not allow: {reason}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how a test failed that passed when it was run again, which only CI does (see .ci/run)."""
    reports = terminalreporter.stats.get("rerun", ())
    if reports and "UNSTEADY" in os.environ and not hasattr(terminalreporter.config, "workerinput"):
        with open(os.environ["UNSTEADY"], "a", encoding="utf-8") as file:
            for report in reports:
                file.write(f"\nUNSTEADY {report.nodeid}\n{report.longreprtext}\n")

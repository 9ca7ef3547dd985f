"""The rules for every test are kept: a test that breaks one fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TESTS = """
import socket, threading, warnings
import pytest
from .support import run_in_thread

kept = []
stop = threading.Event()

def test_nothing_wrong():
    pass

def test_descriptor_left():
    kept.append(socket.socket())

def test_thread_left():
    run_in_thread(stop.wait)

def test_thread_that_ends_soon():
    run_in_thread(stop.wait, 0.05)

def test_thread_that_raises():
    threading.Thread(target=lambda: 1 / 0).start()

def test_warning():
    warnings.warn("careful")

@pytest.mark.timeout(0.3)
def test_hang():
    stop.wait()

def test_skipped():
    pytest.skip("no such tool")
"""


@pytest.fixture
def outcomes(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """Run the tests above under our rules; return the names by outcome."""
    folder = tmp_path / "tests"
    folder.mkdir()
    for name in ("__init__.py", "support.py"):
        shutil.copy(ROOT / "tests" / name, folder)
    rules = (ROOT / "tests" / "conftest.py").read_text()
    (folder / "conftest.py").write_text(re.sub(r"(?m)^GRACE = .*", "GRACE = 0.3", rules))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (folder / "test_probe.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("CI", "PYTEST_ADDOPTS", "UNSTEADY"):
        environment.pop(name, None)
    environment.update(request.param)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=15)
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        outcome, _, rest = line.partition(" ")
        if outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
            found.setdefault(outcome, set()).add(rest.partition("::")[2].partition(" ")[0] or rest.rpartition(" ")[2])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("outcomes", [{}], indirect=True)
def test_rules_for_a_user(outcomes: dict[str, set[str]]) -> None:
    check(outcomes)
    assert outcomes["SKIPPED"] == {"tool"}  # the reason's last word


@pytest.mark.slow
@pytest.mark.parametrize("outcomes", [{"CI": "true"}], indirect=True)
def test_rules_in_ci(outcomes: dict[str, set[str]]) -> None:
    check(outcomes)
    assert "test_skipped" in outcomes["FAILED"]
    assert "SKIPPED" not in outcomes


def check(outcomes: dict[str, set[str]]) -> None:
    assert {"test_nothing_wrong", "test_thread_that_ends_soon"} <= outcomes["PASSED"]
    assert {"test_warning", "test_hang"} <= outcomes["FAILED"]
    assert {"test_descriptor_left", "test_thread_left"} <= outcomes["ERROR"]
    # Told during the test or after it, whenever the thread got to it.
    assert "test_thread_that_raises" in outcomes["ERROR"] | outcomes["FAILED"]

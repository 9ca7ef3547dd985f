"""Ctrl-C, in programs of their own: it ends any blocking call within a second, and a second one at once."""

from __future__ import annotations

import pytest

from .interruptible import SCENARIOS
from .program import Program

# What waits for goodbyes after the first Ctrl-C.
POLITE = [
    "leaving_the_block",
    "run_forever",
    "serve_forever_threaded",
    "serve_forever_pooled",
    "serve_forever_in_a_handler",
]


# Of each kind one; the others run with pytest -m slow.
FIRST = {"recv", "send_over_tls", "close", "leaving_the_block", "connect_http", "serve_forever_threaded", "shutdown"}


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS]
)
def test_once_is_enough(name: str) -> None:
    """Every time-out in there is an hour."""
    with Program("-m", "tests.interruptible", name) as program:
        assert program.line() == "blocked"
        program.interrupt()
        code, output, errors = program.wait()
        assert (code, output.splitlines()[-1:], errors) == (0, ["interrupted"], "")


@pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in POLITE]
)
def test_a_second_one_ends_the_goodbyes(name: str) -> None:
    with Program("-m", "tests.interruptible", name, "--patient") as program:
        assert program.line() == "blocked"
        program.interrupt()
        assert program.line() == "blocked"
        program.interrupt()
        code, output, errors = program.wait()
        assert (code, output.splitlines()[-1:], errors) == (0, ["interrupted"], "")

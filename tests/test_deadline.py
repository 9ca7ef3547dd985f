"""Deadline: one moment, whatever the steps on the way to it."""

from __future__ import annotations

import math

import pytest

from websocketserver.deadline import Deadline

from .support import pipe, run_in_thread


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_wait_is_a_moment_in_the_main_thread_alone() -> None:
    for deadline in (Deadline(None), Deadline(100)):
        moment = deadline.one_wait().left()
        assert moment is not None and 0 < moment <= 0.2
        assert run_in_thread(deadline.one_wait).result() is deadline
    soon = Deadline(0.01)
    assert soon.one_wait() is soon


def test_left_shrinks_with_the_clock_and_is_never_negative() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    assert deadline.left() == 10
    clock.now += 4
    assert deadline.left() == 6
    clock.now += 40
    assert deadline.left() == 0


def test_passed_from_the_moment_on() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    assert not deadline.passed()
    clock.now += 10
    assert deadline.passed()


def test_zero_has_passed_at_once() -> None:
    assert Deadline(0, Clock()).passed()
    assert Deadline(-1, Clock()).left() == 0


def test_none_never_comes() -> None:
    clock = Clock()
    deadline = Deadline(None, clock)
    clock.now += 1e9
    assert deadline.left() is None
    assert not deadline.passed()


@pytest.mark.parametrize("seconds", [1e7, 1e300, math.inf, math.nan])
def test_more_than_the_system_can_wait_for_is_never(seconds: float) -> None:
    assert Deadline(seconds).left() is None
    with pipe() as (client, server):
        receiving = run_in_thread(client.recv, seconds)
        server.send("x", timeout=seconds)
        assert receiving.result() == "x"


def test_wrong_kind_of_number() -> None:
    with pytest.raises(TypeError, match="a time-out must be a number of seconds or None, not '5'"):
        Deadline("5")  # type: ignore[arg-type]


def test_sooner_is_the_earlier_of_two() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    assert deadline.sooner(20) is deadline
    assert deadline.sooner(None) is deadline
    assert deadline.sooner(5).left() == 5
    assert Deadline(None, clock).sooner(5).left() == 5
    assert Deadline(None, clock).sooner(None).left() is None


def test_sooner_counts_from_now() -> None:
    clock = Clock()
    deadline = Deadline(10, clock)
    clock.now += 8
    assert deadline.sooner(5).left() == 2

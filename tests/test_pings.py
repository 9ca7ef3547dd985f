"""Pings: which Pong answers which Ping (RFC 6455, sections 5.5.2 and 5.5.3)."""

from __future__ import annotations

import pytest

from websocketserver.deadline import Deadline
from websocketserver.pings import Pings, PingWaiter


def nobody_waits(waiter: PingWaiter, deadline: Deadline) -> None:
    raise AssertionError("answered already")


def sent(pings: Pings, payload: bytes) -> PingWaiter:
    waiter = PingWaiter(payload, nobody_waits)
    pings.add(waiter)
    return waiter


def test_pong_answers_its_ping() -> None:
    pings = Pings()
    waiter = sent(pings, b"one")
    assert waiter.round_trip is None
    round_trip = pings.answer(b"one")
    assert round_trip is not None
    assert round_trip >= 0
    assert waiter.round_trip == round_trip
    assert waiter.wait() == round_trip


def test_pong_answers_the_pings_before_its_own_too() -> None:
    pings = Pings()
    first, second, third = (sent(pings, payload) for payload in (b"1", b"2", b"3"))
    assert pings.answer(b"2") == second.round_trip is not None
    assert first.round_trip is not None
    assert third.round_trip is None


def test_unsolicited_pong_answers_nothing() -> None:
    pings = Pings()
    waiter = sent(pings, b"one")
    assert pings.answer(b"other") is None
    assert pings.answer(b"") is None
    assert waiter.round_trip is None


def test_pong_counts_once() -> None:
    pings = Pings()
    sent(pings, b"one")
    pings.answer(b"one")
    assert pings.answer(b"one") is None


def test_payloads_differ() -> None:
    pings = Pings()
    assert len({pings.new_payload() for _ in range(1000)}) == 1000


def test_pings_that_are_never_answered_are_forgotten() -> None:
    pings = Pings()
    forgotten = sent(pings, b"first")
    for _ in range(Pings.MOST):
        sent(pings, pings.new_payload())
    assert pings.answer(b"first") is None
    assert forgotten.round_trip is None


def test_wait_hands_the_deadline_on() -> None:
    asked: list[tuple[PingWaiter, float | None]] = []

    def wait(waiter: PingWaiter, deadline: Deadline) -> None:
        asked.append((waiter, deadline.left()))
        raise TimeoutError

    waiter = PingWaiter(b"x", wait)
    with pytest.raises(TimeoutError):
        waiter.wait(0)
    with pytest.raises(TimeoutError):
        waiter.wait()
    assert asked == [(waiter, 0.0), (waiter, None)]

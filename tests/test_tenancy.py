"""Tenancy: who is ready to be served, without a thread that does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from websocketserver.tenancy import Tenancy

from .support import SOON, run_in_thread
from .test_pool import Guest

Invite = Callable[[], Guest]


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    tenancy = Tenancy()
    yield tenancy
    tenancy._close()


@pytest.fixture
def invite(tenancy: Tenancy) -> Iterator[Invite]:
    """Return what makes another guest."""
    guests: list[Guest] = []

    def invite() -> Guest:
        guests.append(Guest(tenancy))
        tenancy.add(guests[-1])
        return guests[-1]

    yield invite
    for guest in guests:
        guest.ours.close()
        guest.theirs.close()


def polled(tenancy: Tenancy) -> list[Guest]:
    """Return who is ready after polling, which must not wait."""
    tenancy._waker.wake()
    tenancy._poll()
    found: list[Guest] = list(tenancy._ready)  # type: ignore[arg-type]
    tenancy._ready.clear()
    return found


def test_who_can_be_read_is_ready(tenancy: Tenancy, invite: Invite) -> None:
    guest, silent = invite(), invite()
    guest.say("x")
    assert polled(tenancy) == [guest]
    assert guest.polled == silent.polled == [True]


def test_who_is_announced_is_ready_and_wakes_who_polls(tenancy: Tenancy, invite: Invite) -> None:
    guest = invite()
    polling = run_in_thread(tenancy._poll)
    tenancy.announce(guest)
    polling.result()
    assert list(tenancy._ready) == [guest]


def test_who_expires_is_ready_then(tenancy: Tenancy, invite: Invite) -> None:
    guest = invite()
    guest.expires = time.monotonic() + SOON
    tenancy.expect(guest)
    assert polled(tenancy) == []
    guest.expires = time.monotonic()
    tenancy.expect(guest)
    assert polled(tenancy) == [guest]


def test_who_is_away_is_not_polled_for(tenancy: Tenancy, invite: Invite) -> None:
    guest = invite()
    with tenancy._lock:
        tenancy._take_away_locked(guest)
    guest.say("x")
    assert polled(tenancy) == []
    tenancy._put_back(guest)
    assert polled(tenancy) == [guest]
    assert guest.polled == [True, False, True]


def test_who_has_something_when_it_comes_back_is_ready(tenancy: Tenancy, invite: Invite) -> None:
    guest = invite()
    with tenancy._lock:
        tenancy._take_away_locked(guest)
    guest.ready = True
    tenancy._put_back(guest)
    assert polled(tenancy) == [guest]


def test_who_was_forgotten_is_not_ready(tenancy: Tenancy, invite: Invite) -> None:
    guest = invite()
    guest.say("x")
    guest.expires = time.monotonic()
    tenancy.expect(guest)
    tenancy.forget(guest)
    assert polled(tenancy) == []


def test_nobody_is_taken_after_the_end(tenancy: Tenancy, invite: Invite) -> None:
    tenancy._over.set()
    with pytest.raises(RuntimeError, match="has ended"):
        invite()

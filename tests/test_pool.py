"""The pool alone: who leads, who serves whom, what waits, and the end."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from websocketserver import pool as module
from websocketserver import tenancy
from websocketserver.deadline import Deadline
from websocketserver.pool import Pool
from websocketserver.tenancy import Tenancy, Tenant

from .support import MS, SOON, run_in_thread, wait_until


class Guest(Tenant):
    """A tenant on a pair of sockets, served byte by byte: each is put into ``served`` and calls what it stands for.

    ``overlaps`` counts how often it was served by two threads at once.
    """

    def __init__(self, pool: Tenancy, **acts: Callable[[], object]) -> None:
        self.pool = pool
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.acts = acts
        self.served: list[str] = []
        self.threads: list[int] = []
        self.polled: list[bool] = []
        self.overlaps = 0
        self.attended = 0
        self.urgent = False
        self.ready = False  # there is something that polling does not show
        self.inside = threading.Lock()

    def fileno(self) -> int:
        return self.ours.fileno()

    def serve(self) -> bool:
        if not self.inside.acquire(False):
            self.overlaps += 1
            return False
        try:
            self.threads.append(threading.get_ident())
            self.step()
        finally:
            self.inside.release()
        return not self.gone and self.is_ready()

    def step(self) -> None:
        if self.expires is not None and tenancy.time.monotonic() >= self.expires:
            self.served.append("expired")
            self.expires = None
        if self.ready:
            self.ready = False
            self.served.append("announced")
        try:
            data = self.ours.recv(1)
        except BlockingIOError:
            return
        if not data:
            self.end()
            return
        self.served.append(data.decode())
        if (act := self.acts.get(data.decode())) is not None:
            act()

    def end(self) -> None:
        self.pool.forget(self)
        self.served.append("end")
        self.ours.close()

    def attend(self) -> bool:
        self.attended += 1
        return True

    def is_urgent(self) -> bool:
        return self.urgent

    def is_ready(self) -> bool:
        return self.ready

    def set_polled(self, polled: bool) -> None:
        self.polled.append(polled)

    def say(self, text: str) -> None:
        self.theirs.sendall(text.encode())

    def has_served(self, text: str) -> None:
        wait_until(lambda: "".join(self.served) == text)


class House:
    """A pool and its guests."""

    def __init__(self, max_workers: int) -> None:
        self.pool = Pool(max_workers)
        self.pool.start()
        self.guests: list[Guest] = []

    def guest(self, **acts: Callable[[], object]) -> Guest:
        guest = Guest(self.pool, **acts)
        self.guests.append(guest)
        self.pool.add(guest)
        return guest

    def close(self) -> None:
        for guest in self.guests:
            guest.theirs.close()
        self.pool.stop(Deadline(SOON))
        for guest in self.guests:
            guest.ours.close()
            assert guest.overlaps == 0


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is found to serve for long, though the machine be slow; before ``house``."""
    monkeypatch.setattr(module, "TICK", 1000.0)


@pytest.fixture
def house() -> Iterator[House]:
    house = House(2)
    yield house
    house.close()


class TestServing:
    def test_one_thread_serves_all_as_long_as_that_is_quick(self, unhurried: None, house: House) -> None:
        guests = [house.guest() for _ in range(10)]
        for turn in range(20):
            for guest in guests:
                guest.say("x")
            for guest in guests:
                guest.has_served("x" * (turn + 1))
        assert len({guest.threads[0] for guest in guests}) == 1

    def test_what_is_announced_is_served(self, house: House) -> None:
        guest = house.guest()
        for turn in range(3):
            guest.ready = True
            house.pool.announce(guest)
            guest.has_served("announced" * (turn + 1))

    def test_what_the_leader_announces_while_it_serves_nobody_is_served(self, house: House, monkeypatch: Any) -> None:
        guest = house.guest()
        poller, announced = house.pool._poller, threading.Event()
        poll = poller.poll

        def collect_and_poll(seconds: float | None) -> list[int]:
            if not announced.is_set():  # as what garbage does that is collected just now
                guest.ready = True
                house.pool.announce(guest)
                announced.set()
            return poll(seconds)

        monkeypatch.setattr(poller, "poll", collect_and_poll)
        house.pool._waker.wake()
        wait_until(announced.is_set)
        guest.has_served("announced")

    def test_what_is_always_ready_does_not_keep_the_others_from_their_turn(self, house: House) -> None:
        class Greedy(Guest):
            def is_ready(self) -> bool:
                return not self.gone

        greedy = Greedy(house.pool)
        house.guests.append(greedy)
        house.pool.add(greedy)
        greedy.say("x")
        greedy.has_served("x")
        other = house.guest()
        other.say("y")
        other.has_served("y")

    def test_one_that_has_left_is_not_served_for_its_successor_in_the_descriptor(self, house: House) -> None:
        first = house.guest(q=lambda: first.end())
        number = first.fileno()
        first.say("q")
        first.has_served("qend")
        second = Guest(house.pool)
        assert number in (second.fileno(), second.theirs.fileno())
        if second.fileno() != number:
            second.ours, second.theirs = second.theirs, second.ours
            second.ours.setblocking(False)
            second.theirs.setblocking(True)
        house.guests.append(second)
        house.pool.add(second)
        house.pool.forget(first)  # once more: the number is not its own any longer
        second.say("x")
        second.has_served("x")
        assert first.served == ["q", "end"]


class TestLead:
    def test_passes_when_serving_blocks(self, house: House, gate: threading.Event) -> None:
        slow, quick = house.guest(w=gate.wait), house.guest()
        slow.say("w1")
        slow.has_served("w")
        for turn in range(5):
            quick.say("x")
            quick.has_served("x" * (turn + 1))
        assert slow.served == ["w"], "what comes next for the one that is being served waits"
        gate.set()
        slow.has_served("w1")

    def test_passes_with_the_rest_of_what_was_ready(self, house: House, gate: threading.Event) -> None:
        slow = house.guest(w=gate.wait)
        others = [house.guest() for _ in range(10)]
        for guest in [slow, *others]:
            guest.say("w")
        for guest in others:
            guest.has_served("w")
        gate.set()

    def test_passes_again_after_a_long_rest(self, house: House, gate: threading.Event, monkeypatch: Any) -> None:
        monkeypatch.setattr(module, "QUIET_TICKS", 1)
        slow, quick = house.guest(w=gate.wait), house.guest()
        quick.say("x")
        quick.has_served("x")
        wait_until(lambda: not house.pool._watching.is_set())  # the monitor has gone to sleep
        slow.say("w")
        slow.has_served("w")
        quick.say("x")
        quick.has_served("xx")
        gate.set()

    def test_one_that_is_served_for_long_is_looked_after_by_others(self, house: House, gate: threading.Event) -> None:
        slow = house.guest(w=gate.wait)
        assert slow.polled == [True]
        slow.say("w")
        wait_until(lambda: slow.polled == [True, False])
        gate.set()
        wait_until(lambda: slow.polled == [True, False, True])

    def test_what_was_announced_meanwhile_is_served_after(self, house: House, gate: threading.Event) -> None:
        slow = house.guest(w=gate.wait)
        slow.say("w")
        wait_until(lambda: slow.away)
        slow.ready = True
        house.pool.announce(slow)
        gate.set()
        slow.has_served("wannounced")

    def test_waits_for_a_thread_where_none_is_to_be_had(
        self, house: House, gate: threading.Event, monkeypatch: Any
    ) -> None:
        slow, quick = house.guest(w=gate.wait), house.guest()
        start, refused = threading.Thread.start, []

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("websocketserver"):
                refused.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        slow.say("w")
        quick.say("x")
        wait_until(lambda: refused)
        assert quick.served == []
        monkeypatch.setattr(threading.Thread, "start", start)
        quick.has_served("x")
        gate.set()


class TestWhenAllServe:
    """Two workers, both blocked."""

    @pytest.fixture
    def blocked(self, house: House, gate: threading.Event) -> list[Guest]:
        blocked = [house.guest(w=gate.wait) for _ in range(2)]
        for guest in blocked:
            guest.say("w")
        wait_until(lambda: all(guest.away for guest in blocked))
        return blocked

    def test_the_others_are_attended_to_and_wait(
        self, house: House, blocked: list[Guest], gate: threading.Event
    ) -> None:
        waiting = [house.guest() for _ in range(5)]
        for guest in waiting:
            guest.say("123")
        wait_until(lambda: all(guest.attended and guest.away for guest in waiting))
        assert all(guest.served == [] for guest in waiting)
        gate.set()
        for guest in waiting:
            guest.has_served("123")

    def test_what_is_urgent_gets_a_thread(self, house: House, blocked: list[Guest]) -> None:
        for _ in range(5):
            guest = house.guest()
            guest.urgent = True
            guest.say("1")
            guest.has_served("1")
            guest.say("2")
            guest.has_served("12")

    def test_of_what_is_urgent_the_rest_waits_too(
        self, house: House, blocked: list[Guest], gate: threading.Event
    ) -> None:
        urgent = [house.guest(w=gate.wait) for _ in range(5)]
        for guest in urgent:
            guest.urgent = True
            guest.say("w")
        wait_until(lambda: all(guest.away for guest in urgent))
        wait_until(lambda: sum(guest.served == ["w"] for guest in urgent) == 2)
        gate.set()
        for guest in urgent:
            guest.has_served("w")

    def test_of_what_is_urgent_one_after_the_other_though_nobody_else_becomes_free(
        self, house: House, blocked: list[Guest]
    ) -> None:
        turns = threading.Semaphore(0)
        urgent = [house.guest(w=lambda: turns.acquire(timeout=SOON)) for _ in range(5)]
        for guest in urgent:
            guest.urgent = True
            guest.say("w")
        wait_until(lambda: all(guest.away for guest in urgent))
        turns.release(5)
        for guest in urgent:
            guest.has_served("w")

    def test_one_whose_time_is_up_while_it_waits_is_served_then(
        self, house: House, blocked: list[Guest], gate: threading.Event
    ) -> None:
        guest = house.guest()
        guest.say("1")
        wait_until(lambda: guest.away)
        guest.expires = time.monotonic() + 10 * MS
        house.pool.expect(guest)
        wait_until(lambda: guest.expires is None or time.monotonic() >= guest.expires)
        gate.set()
        wait_until(lambda: sorted(guest.served) == ["1", "expired"])


class TestMoments:
    def test_served_when_it_expires(self, house: House) -> None:
        guest = house.guest()
        for turn in range(3):
            guest.expires = time.monotonic() + 10 * MS
            house.pool.expect(guest)
            guest.has_served("expired" * (turn + 1))

    def test_not_served_where_that_was_put_off_or_called_off(self, house: House, monkeypatch: Any) -> None:
        later, never, due = house.guest(), house.guest(), house.guest()
        now = 0.0
        monkeypatch.setattr(tenancy, "time", SimpleNamespace(monotonic=lambda: now))
        for guest in (later, never):
            guest.expires = 20
            house.pool.expect(guest)
        later.expires, never.expires, due.expires = 60, None, 40
        for guest in (later, never, due):
            house.pool.expect(guest)
        now = 50
        house.pool._waker.wake()
        due.has_served("expired")
        assert (later.served, never.served) == ([], [])
        later.expires = 45
        house.pool.expect(later)
        later.has_served("expired")
        assert never.served == []

    def test_far_ahead_wake_nobody(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        """The leader looks up before: each new connection would wake it otherwise, to tell it that it has time."""
        woken: list[None] = []
        monkeypatch.setattr(house.pool._waker, "wake", lambda: woken.append(None))
        far, near = house.guest(), house.guest()
        far.expires = time.monotonic() + 2 * tenancy.LOOK_UP
        house.pool.expect(far)
        assert not woken
        near.expires = time.monotonic() + tenancy.LOOK_UP / 2
        house.pool.expect(near)
        assert woken

    def test_come_though_the_leader_was_not_woken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tenancy, "LOOK_UP", 20 * MS)
        with contextlib.closing(House(2)) as house:
            guest = house.guest()
            guest.expires = time.monotonic() + 40 * MS
            house.pool.expect(guest)
            guest.has_served("expired")

    def test_kept_for_nobody_who_has_left_or_is_served_again_and_again(self, house: House) -> None:
        lasting = house.guest()
        for _ in range(1000):
            lasting.expires = time.monotonic() + 60
            house.pool.expect(lasting)
            passing = Guest(house.pool)
            passing.expires = time.monotonic() + 60
            house.pool.add(passing)
            house.pool.forget(passing)
            passing.ours.close()
            passing.theirs.close()
        assert len(house.pool._agenda) < 300


class TestFailures:
    def test_no_exception_ends_a_thread(
        self, house: House, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise failure

        def wait_and_fail() -> None:
            gate.wait()
            raise failure

        guest, slow = house.guest(f=fail), house.guest(w=wait_and_fail)
        for kind in (ValueError, SystemExit, KeyboardInterrupt, MemoryError):
            failure = kind("on purpose")
            guest.say("fx")
            guest.has_served("fx")
            guest.served.clear()
        slow.say("wx")
        wait_until(lambda: slow.away)
        gate.set()
        slow.has_served("wx")
        assert all(thread.is_alive() for thread in house.pool._threads)
        assert sum("on purpose" in str(record.exc_info) for record in caplog.records) == 5

    def test_nor_one_of_asking_or_attending(
        self, house: House, gate: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Failing(Guest):
            def is_ready(self) -> bool:
                raise ValueError("on purpose")

            def attend(self) -> bool:
                self.attended += 1
                self.ours.recv(1)
                raise ValueError("on purpose")

        failing = Failing(house.pool, w=gate.wait)
        house.guests.append(failing)
        house.pool.add(failing)
        failing.say("1w")
        failing.has_served("1w")
        blocked = house.guest(w=gate.wait)
        blocked.say("w")
        wait_until(lambda: blocked.away and failing.away)
        other = Failing(house.pool)
        house.guests.append(other)
        house.pool.add(other)
        other.say("x")
        wait_until(lambda: other.attended)
        gate.set()
        wait_until(lambda: not house.pool._busy)  # or it would be attended to, and lose what it has to say
        failing.say("2")
        failing.has_served("1w2")

    def test_one_whose_descriptor_was_closed_behind_our_back_is_served_to_find_out(
        self, house: House, gate: threading.Event
    ) -> None:
        def close() -> None:
            gate.wait()
            guest.ours.close()

        class Careless(Guest):
            number = -1

            def fileno(self) -> int:
                return self.number

            def step(self) -> None:
                if self.ours.fileno() < 0:
                    self.end()
                else:
                    super().step()

        guest = Careless(house.pool, w=close)
        guest.number = guest.ours.fileno()
        house.guests.append(guest)
        house.pool.add(guest)
        guest.say("w")
        wait_until(lambda: guest.away)
        gate.set()
        guest.has_served("wend")

    def test_what_the_system_does_not_take_is_said_and_forgotten(self, house: House) -> None:
        guest = Guest(house.pool)
        house.pool.add(guest)
        with pytest.raises(OSError):
            house.pool.add(guest)
        guest.ours.close()
        guest.theirs.close()
        lost = Guest(house.pool)
        lost.ours.close()
        lost.theirs.close()
        with pytest.raises(OSError):
            house.pool.add(lost)

    @pytest.mark.parametrize("survivor", ["worker", "monitor"])
    def test_start_without_threads_leaves_nothing(self, monkeypatch: Any, survivor: str) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("websocketserver") and survivor not in thread.name:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            Pool(2).start()


class TestEnd:
    def test_comes_when_the_last_has_left(self) -> None:
        house = House(2)
        guest = house.guest()
        house.pool.stop(Deadline(0))
        assert house.pool.is_stopping()
        guest.say("x")
        guest.has_served("x")
        guest.theirs.close()
        house.pool.stop(Deadline(SOON))
        with pytest.raises(RuntimeError, match="ended"):
            house.pool.add(guest)
        house.close()

    def test_of_one_who_is_busy_is_waited_for_until_the_deadline(self, gate: threading.Event) -> None:
        house = House(1)
        guest = house.guest(w=gate.wait)
        guest.say("w")
        wait_until(lambda: guest.away)
        guest.theirs.close()
        began = time.monotonic()
        house.pool.stop(Deadline(50 * MS))
        assert time.monotonic() - began < SOON
        gate.set()
        house.close()
        assert guest.served == ["w", "end"]

    def test_can_be_asked_for_by_one_who_is_being_served(self) -> None:
        house = House(1)
        guest = house.guest(s=lambda: house.pool.stop(Deadline(50 * MS)))
        guest.say("s")
        guest.has_served("s")
        house.close()

    def test_of_nobody_comes_at_once(self) -> None:
        pool = Pool(1)
        pool.start()
        pool.stop(Deadline(SOON))
        pool.announce(Guest.__new__(Guest))  # too late, and no harm
        pool.stop(Deadline(SOON))


@pytest.mark.parametrize("max_workers", [1, 3])
def test_under_stress_nobody_is_forgotten_served_twice_or_out_of_order(
    max_workers: int, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(module, "TICK", 0.0005)
    monkeypatch.setattr(module, "QUIET_TICKS", 1)
    house = House(max_workers)
    chance = random.Random(max_workers)
    nap = threading.Event()

    def act() -> None:
        if chance.random() < 0.05:
            nap.wait(chance.random() * 0.004)

    texts: dict[Guest, str] = {}
    letters = "abcdefghij"
    for number in range(40):
        guest = house.guest(**dict.fromkeys(letters, act))
        guest.urgent = number % 4 == 0
        texts[guest] = ""
    callers = [run_in_thread(talk, house, list(texts)[part::2], letters, texts) for part in range(2)]
    for caller in callers:
        caller.result(15)
    for guest, text in texts.items():
        wait_until(lambda: [c for c in guest.served if c != "announced"] == list(text))  # noqa: B023
    house.close()
    assert not caplog.records


def talk(house: House, guests: list[Guest], letters: str, texts: dict[Guest, str]) -> None:
    chance = random.Random(len(guests))
    for number in range(2000):
        guest = chance.choice(guests)
        letter = letters[number % len(letters)]
        texts[guest] += letter
        guest.say(letter)
        if number % 7 == 0:
            guest.ready = True
            house.pool.announce(guest)


def test_who_was_slow_is_not_waited_for_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    slow, quick = house.guest(s=lambda: go_on.wait(SOON)), house.guest()
    slow.say("s")
    wait_until(lambda: slow.slow)  # the monitor has passed the lead
    go_on.set()
    slow.has_served("s")
    wait_until(lambda: not slow.away)
    go_on.clear()
    monkeypatch.setattr(house.pool, "_turn", lambda: None)  # the monitor sees nothing any more
    slow.say("s")
    slow.has_served("ss")
    quick.say("q")
    quick.has_served("q")
    assert slow.away
    go_on.set()
    wait_until(lambda: not slow.away)
    while slow.slow:  # until it is quick: then it is waited for again
        slow.served.clear()
        slow.say("x")
        slow.has_served("x")
        wait_until(lambda: not slow.away)

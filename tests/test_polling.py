"""Pollers, on whatever the system has, and the agenda."""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import polling
from websocketserver.polling import Agenda, SelectorPoller, make_poller

from .support import run_in_thread, wait_until


class Woken:
    """A poller, what wakes it, and a pair of sockets; ``wakes`` counts."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.reader, self.writer = socket.socketpair()
        self.wakes = 0
        if kind != "best":
            monkeypatch.delattr(polling.select, "epoll", raising=False)
            monkeypatch.setattr(polling.selectors, "DefaultSelector", getattr(selectors, kind))
        self.poller: Any = make_poller(self.wake)
        self.poller.add(self.reader.fileno())

    def wake(self) -> None:
        self.wakes += 1
        self.writer.send(b"\0")

    def close(self) -> None:
        self.poller.close()
        for sock in (self.ours, self.theirs, self.reader, self.writer):
            sock.close()


@pytest.fixture(params=["best", "PollSelector", "SelectSelector"])
def woken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Woken]:
    woken = Woken(request.param, monkeypatch)
    assert isinstance(woken.poller, SelectorPoller) is (request.param != "best" or not hasattr(polling.select, "epoll"))
    yield woken
    woken.close()


class TestPollers:
    def test_say_what_can_be_read(self, woken: Woken) -> None:
        woken.poller.add(woken.ours.fileno())
        if woken.wakes:
            woken.reader.recv(100)
        assert woken.poller.poll(0) == []
        woken.theirs.send(b"x")
        assert woken.poller.poll(5) == [woken.ours.fileno()]
        assert woken.poller.poll(0) == [woken.ours.fileno()], "as long as it is not read"

    def test_say_where_the_stream_has_ended(self, woken: Woken) -> None:
        woken.poller.add(woken.ours.fileno())
        if woken.wakes:
            woken.reader.recv(100)
        woken.theirs.close()
        assert woken.poller.poll(None) == [woken.ours.fileno()]

    def test_see_at_once_what_is_added_while_they_poll(self, woken: Woken) -> None:
        woken.theirs.send(b"x")
        polled = run_in_thread(self.poll_until, woken, woken.ours.fileno())
        woken.poller.add(woken.ours.fileno())
        polled.result()

    def poll_until(self, woken: Woken, fileno: int) -> None:
        while fileno not in (found := woken.poller.poll(None)):
            if woken.reader.fileno() in found:
                woken.reader.recv(100)

    def test_forget_what_is_removed(self, woken: Woken) -> None:
        woken.poller.add(woken.ours.fileno())
        woken.poller.remove(woken.ours.fileno())
        woken.theirs.send(b"x")
        assert woken.ours.fileno() not in woken.poller.poll(0)
        woken.poller.remove(woken.ours.fileno())
        woken.poller.remove(9999)

    def test_refuse_what_cannot_be(self, woken: Woken) -> None:
        fileno = woken.ours.fileno()
        woken.poller.add(fileno)
        with pytest.raises(OSError):
            woken.poller.add(fileno)
        with pytest.raises(OSError):
            woken.poller.add(-1)


class TestAgenda:
    def test_gives_what_is_due_in_order_of_time(self) -> None:
        agenda = Agenda()
        for moment in (3.0, 1.0, 2.0, 1.0):
            agenda.add(moment, str(moment))
        assert agenda.first() == 1.0
        assert [agenda.take(2.5) for _ in range(4)] == ["1.0", "1.0", "2.0", None]
        assert (agenda.first(), len(agenda)) == (3.0, 1)

    def test_of_an_empty_one_there_is_nothing(self) -> None:
        assert (Agenda().first(), Agenda().take(1e9), len(Agenda())) == (None, None, 0)

    def test_forgets_what_was_struck_out(self) -> None:
        agenda = Agenda()
        entry = agenda.add(1.0, "never")
        agenda.add(1.0, "once")
        agenda.strike(entry)
        assert [agenda.take(2.0), agenda.take(2.0)] == ["once", None]
        first, second = agenda.add(1.0, "never"), agenda.add(2.0, "never")
        agenda.strike(second)
        assert len(agenda) == 2
        agenda.strike(first)
        assert len(agenda) == 0, "nobody wakes up for them"

    def test_does_not_grow_by_what_is_struck_out(self) -> None:
        agenda = Agenda()
        kept = [agenda.add(float(number), number) for number in range(100)]
        for number in range(10_000):
            agenda.strike(agenda.add(1e6 + number, "struck"))
        assert len(agenda) < 400
        assert [agenda.take(1e9) for _ in range(101)] == [*range(100), None]
        assert len(kept) == 100

    def test_holds_against_a_plain_list(self) -> None:
        chance = random.Random(1)
        agenda, entries = Agenda(), {}
        for number in range(3000):
            if entries and chance.random() < 0.4:
                agenda.strike(entries.pop(chance.choice(list(entries))))
            else:
                entries[number] = agenda.add(chance.random(), number)
        taken = []
        while (what := agenda.take(1.0)) is not None:
            taken.append(what)
        assert taken == sorted(entries, key=lambda number: entries[number][0])
        wait_until(lambda: len(agenda) == 0)

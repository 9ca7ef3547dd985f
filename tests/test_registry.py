"""Registry: what was accepted, and how its end begins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver.admission import Admission
from websocketserver.counters import Stats
from websocketserver.deadline import Deadline
from websocketserver.exceptions import Close
from websocketserver.registry import Accepted, Registry

from .support import SOON, run_in_thread, socket_pair, wait_until

GOING_AWAY = Close(1001, "soon")


class Connection:
    """Notes what it is told."""

    stats = Stats(1, 2, 3, 4, 5, 6, 7.0, 0.25, 1000, 1001, False)

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start_close(self, code: int, reason: str) -> None:
        self.told.append((code, reason))

    def abort(self) -> None:
        self.told.append("abort")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket_pair()
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def is_cut(theirs: socket.socket) -> bool:
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


class TestAccepted:
    def test_is_served_by_the_thread_that_begins_before_it_is_given_up(self, ends: Any) -> None:
        accepted = Accepted(ends[0])
        assert run_in_thread(accepted.begin).result()
        assert not accepted.give_up()
        accepted = Accepted(ends[0])
        assert accepted.give_up()
        assert not run_in_thread(accepted.begin).result()
        accepted = Accepted(ends[0])
        assert accepted.begin()
        assert accepted.give_up()  # this thread's own: it was interrupted

    def test_is_cut_at_once_while_it_waits_for_a_request(self, ends: Any) -> None:
        accepted = Accepted(ends[0])
        accepted.start_closing(GOING_AWAY)
        assert is_cut(ends[1])

    def test_may_finish_an_answer(self, ends: Any) -> None:
        accepted = Accepted(ends[0])
        assert accepted.begin_request() and accepted.admits()
        accepted.start_closing(GOING_AWAY)
        assert not is_cut(ends[1])
        assert not accepted.admits()
        assert not accepted.begin_request()
        accepted.await_request()
        assert is_cut(ends[1])

    def test_is_closed_once_it_is_a_connection(self, ends: Any) -> None:
        accepted, connection = Accepted(ends[0]), Connection()
        accepted.upgrade(connection)  # type: ignore[arg-type]
        accepted.start_closing(GOING_AWAY)
        assert connection.told == [(1001, "soon")]
        accepted.cut()
        assert connection.told == [(1001, "soon"), "abort"]
        assert not is_cut(ends[1])  # that is the connection's to do

    def test_is_closed_if_it_becomes_a_connection_too_late(self, ends: Any) -> None:
        accepted, connection = Accepted(ends[0]), Connection()
        accepted.begin_request()
        accepted.start_closing(GOING_AWAY)
        accepted.upgrade(connection)  # type: ignore[arg-type]
        assert connection.told == [(1001, "soon")]

    def test_is_cut_if_it_becomes_a_connection_much_too_late(self, ends: Any) -> None:
        accepted, connection = Accepted(ends[0]), Connection()
        accepted.begin_request()
        accepted.cut()
        accepted.upgrade(connection)  # type: ignore[arg-type]
        assert connection.told == ["abort"]

    def test_cuts_the_socket_that_took_the_first_ones_place(self, ends: Any) -> None:
        first, _ = socket_pair()
        accepted = Accepted(first)
        first.close()
        _.close()
        accepted.cut()
        assert not is_cut(ends[1])
        accepted.adopt(ends[0])
        assert is_cut(ends[1])

    def test_touches_nothing_that_was_released(self, ends: Any) -> None:
        accepted = Accepted(ends[0])
        accepted.release()
        accepted.cut()
        assert not is_cut(ends[1])

    def test_gives_way_only_while_it_waits_for_a_request(self, ends: Any) -> None:
        admission = Admission()
        accepted = Accepted(ends[0], admission=admission)
        for _ in range(2):
            accepted.await_request()
            assert list(admission._waiting) == [accepted]
            accepted.begin_request()
            assert not admission._waiting
            assert not accepted.give_way()
            assert not is_cut(ends[1])
        accepted.await_request()
        assert accepted.give_way()
        assert is_cut(ends[1])

    def test_gives_way_no_more_as_a_connection(self, ends: Any) -> None:
        accepted, connection = Accepted(ends[0]), Connection()
        accepted.upgrade(connection)  # type: ignore[arg-type]
        assert not accepted.give_way()
        assert connection.told == []


class TestRegistry:
    def test_knows_what_it_was_told(self, ends: Any) -> None:
        registry = Registry()
        registry.add(ends[0])
        assert len(registry) == 1
        accepted = registry.get(ends[0])
        assert accepted is not None
        assert registry.get(ends[1]) is None
        assert registry.connections() == []
        connection: Any = Connection()
        accepted.upgrade(connection)
        assert registry.connections() == [connection]
        registry.remove(ends[0])
        assert len(registry) == 0
        registry.remove(ends[0])

    def test_closes_what_comes_late(self, ends: Any) -> None:
        registry = Registry()
        registry.start_closing(GOING_AWAY)
        registry.add(ends[0])
        assert is_cut(ends[1])

    def test_can_be_opened_again(self, ends: Any) -> None:
        registry = Registry()
        registry.start_closing(GOING_AWAY)
        registry.reopen()
        registry.add(ends[0])
        assert not is_cut(ends[1])
        registry.cut()
        assert is_cut(ends[1])

    def test_waits_for_the_end_of_all(self, ends: Any) -> None:
        registry = Registry()
        assert registry.wait(Deadline(0))
        registry.add(ends[0])
        assert not registry.wait(Deadline(0.01))
        waiting = run_in_thread(registry.wait, Deadline(SOON))
        registry.remove(ends[0])
        assert waiting.result()

    def test_gives_those_that_were_given_up_one_moment_whoever_waits(
        self, ends: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("websocketserver.registry.GRACE", 0.01)
        registry = Registry()
        registry.add(ends[0])
        registry.give_up()
        assert registry.wait(Deadline(SOON))
        monkeypatch.setattr("websocketserver.registry.GRACE", 3600)
        registry.give_up()  # nobody new
        assert run_in_thread(registry.wait, Deadline(None)).result()
        registry.add(ends[1])
        registry.give_up()
        waiting = run_in_thread(registry.wait, Deadline(None))
        registry.remove(ends[1])
        assert waiting.running
        registry.remove(ends[0])
        assert waiting.result()

    def test_waits_for_no_handler_that_waits_itself(self, ends: Any) -> None:
        registry = Registry()
        registry.add(ends[0])
        accepted = registry.get(ends[0])
        assert accepted is not None
        accepted.thread = 7
        waiting = run_in_thread(registry.wait, Deadline(SOON), leaving=False)
        wait_until(lambda: waiting.running)
        assert not registry.leave(8)
        assert registry.leave(7)
        assert waiting.result()
        assert registry.threads_not_awaited(leaving=False) == {7}
        assert registry.threads_not_awaited(leaving=True) == set()
        assert not registry.wait(Deadline(0.01))

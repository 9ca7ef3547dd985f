"""Accepted: how far a socket has got, and how its end begins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver.accepted import Accepted
from websocketserver.admission import Admission
from websocketserver.counters import Stats
from websocketserver.exceptions import Close

from .support import run_in_thread, socket_pair

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

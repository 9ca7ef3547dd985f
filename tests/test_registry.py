"""Registry: what was accepted, and the wait for the end of it."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver.deadline import Deadline
from websocketserver.registry import Registry

from .support import SOON, run_in_thread, wait_until
from .test_accepted import GOING_AWAY, Connection, ends, is_cut

__all__ = ["ends"]


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

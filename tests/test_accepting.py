"""What an accept loop needs: to be woken, to wait out a shortage, to turn somebody away, a deputy."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from websocketserver.accepting import Backoff, Deputy, Refusals, Waker
from websocketserver.deadline import Deadline

from .support import SOON, run_in_thread, socket_pair, wait_until


class TestWaker:
    def test_ends_a_wait_that_is_under_way(self) -> None:
        waker = Waker()
        waiting = run_in_thread(waker.wait, 1000)
        waker.wake()
        waiting.result()
        waker.close()

    def test_ends_the_next_wait_if_nobody_waits(self) -> None:
        waker = Waker()
        waker.wake()
        run_in_thread(waker.wait, 1000).result()
        waker.drain()
        waker.wait(0)
        waker.close()

    def test_never_blocks_and_never_fails(self) -> None:
        waker = Waker()
        for _ in range(2000):
            waker.wake()
        waker.close()
        waker.wake()


class TestBackoff:
    def test_doubles_up_to_its_longest(self) -> None:
        backoff = Backoff()
        assert backoff.left() == 0
        pauses = []
        for _ in range(10):
            backoff.failed()
            pauses.append(backoff.left())
        assert 0 < pauses[0] <= Backoff.SHORTEST
        assert pauses[:5] == sorted(pauses[:5])  # then they are all the same
        assert 0.9 * Backoff.LONGEST < pauses[-1] <= Backoff.LONGEST < 0.5  # soon after the want has ended

    def test_ends_with_a_success(self) -> None:
        backoff = Backoff()
        for _ in range(10):
            backoff.failed()
        backoff.succeeded()
        assert backoff.left() == 0
        backoff.failed()
        assert backoff.left() <= Backoff.SHORTEST


class TestRefusals:
    def test_answer_now_and_close_in_a_moment(self) -> None:
        refusals = Refusals()
        ours, theirs = socket_pair(tcp=True)
        with theirs:
            refusals.add(ours, b"no")
            theirs.settimeout(SOON)
            assert theirs.recv(100) == b"no"
            assert theirs.recv(100) == b""
            refusals.close_due()
            assert ours.fileno() >= 0
            refusals.MOMENT = 0
            refusals.close_all()
            assert ours.fileno() == -1

    def test_do_not_wait_for_ever(self) -> None:
        refusals = Refusals()
        refusals.MOMENT = 0
        ours, theirs = socket_pair()
        with theirs:
            refusals.add(ours, b"")
            refusals.close_due()
            assert ours.fileno() == -1

    def test_are_bounded(self) -> None:
        refusals = Refusals()
        refusals.MOST = 2
        pairs = [socket_pair() for _ in range(3)]
        for ours, _ in pairs:
            refusals.add(ours, b"no")
        assert [ours.fileno() >= 0 for ours, _ in pairs] == [False, True, True]
        refusals.close_all()
        for _, theirs in pairs:
            theirs.close()

    def test_of_who_is_gone_are_quiet(self) -> None:
        refusals = Refusals()
        ours, theirs = socket_pair()
        theirs.close()
        refusals.add(ours, b"no")
        refusals.close_all()


class TestDeputy:
    def deputy(self, seconds: float | None) -> tuple[Deputy[str], queue.SimpleQueue[str]]:
        done: queue.SimpleQueue[str] = queue.SimpleQueue()

        def phases(order: str) -> Iterator[Deadline]:
            done.put(order)
            yield Deadline(seconds)
            done.put("finished")
            yield Deadline(None)

        return Deputy(phases), done

    def test_has_nothing_to_do_mostly(self) -> None:
        deputy, done = self.deputy(0)
        with deputy:
            pass
        assert done.empty()

    def test_begins_and_finishes(self) -> None:
        deputy, done = self.deputy(0.01)
        with deputy:
            deputy.order("go")
            assert done.get(timeout=SOON) == "go"
            assert done.get(timeout=SOON) == "finished"

    @pytest.mark.parametrize("seconds", [None, 60])
    def test_does_not_finish_what_has_ended(self, seconds: float | None) -> None:
        deputy, done = self.deputy(seconds)
        with deputy:
            deputy.order("go")
            assert done.get(timeout=SOON) == "go"
        assert done.empty()

    def test_takes_a_second_order(self) -> None:
        deputy, done = self.deputy(60)
        with deputy:
            deputy.order("one")
            deputy.order("two")
            assert [done.get(timeout=SOON) for _ in range(2)] == ["one", "two"]

    def test_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        deputy, done = self.deputy(0)
        monkeypatch.setattr(threading.Thread, "start", fail)
        with deputy:
            deputy.order("go")
        assert done.empty()


def test_nothing_here_waits_for_a_client() -> None:
    refusals = Refusals()
    ours, theirs = socket_pair(tcp=True)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with theirs:
        run_in_thread(refusals.add, ours, bytes(10_000_000)).result()
        run_in_thread(refusals.close_all).result()
    wait_until(lambda: ours.fileno() == -1)

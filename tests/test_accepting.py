"""What an accept loop needs: to be woken, to wait out a shortage, to turn somebody away, a deputy."""

from __future__ import annotations

import queue
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from websocketserver.accepting import MOST_SPARE, Backoff, Deputy, Refusals, Threads, Waker
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


class TestThreads:
    def test_are_waited_for(self) -> None:
        threads, go = Threads(), threading.Event()
        threads.start(threading.Thread(target=go.wait))
        threads.join(Deadline(0.01), set())
        go.set()
        threads.join(Deadline(SOON), set())
        assert [thread for thread in threading.enumerate() if thread.name.endswith("(wait)")] == []

    def test_but_not_for_all(self) -> None:
        threads, go = Threads(), threading.Event()
        thread = threading.Thread(target=go.wait)
        threads.start(thread)
        run_in_thread(threads.join, Deadline(1000), {thread.ident}).result()
        go.set()
        threads.join(Deadline(SOON), set())

    def test_are_forgotten_when_they_have_ended(self) -> None:
        threads = Threads()
        thread = threading.Thread(target=threads.ending)
        threads.start(thread)
        thread.join()
        threads.reap()
        assert threads._threads == set()

    def test_that_cannot_start_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        threads = Threads()
        monkeypatch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            threads.start(threading.Thread())
        threads.join(Deadline(SOON), set())


class TestSpareThreads:
    """A thread whose connection is over serves the next that comes soon enough."""

    def serve(self, threads: Threads, *, patience: float = 1000, daemon: bool = True) -> threading.Thread:
        served: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        threads.call((lambda: served.put(threading.current_thread()),), daemon, patience)
        return served.get(timeout=SOON)

    def test_serve_again(self) -> None:
        threads = Threads()
        first = self.serve(threads)
        wait_until(lambda: threads._spare)
        assert self.serve(threads) is first
        threads.dismiss()
        threads.join(Deadline(SOON), set())
        assert not first.is_alive()

    def test_serve_the_next_with_a_context_of_its_own(self) -> None:
        variable: ContextVar[int] = ContextVar("variable", default=0)
        seen: queue.SimpleQueue[int] = queue.SimpleQueue()

        def serve() -> None:
            seen.put(variable.get())
            variable.set(1)

        threads = Threads()
        threads.call((serve,), True, 1000)
        wait_until(lambda: threads._spare)
        thread = threads._spare[0]
        threads.call((serve,), True, 1000)
        wait_until(lambda: threads._spare)
        assert threads._spare == [thread]
        assert (seen.get(), seen.get()) == (0, 0)
        threads.dismiss()
        threads.join(Deadline(SOON), set())

    def test_hold_on_to_nobody(self) -> None:
        class Request:
            pass

        threads, request = Threads(), Request()
        gone = weakref.ref(request)
        threads.call((lambda request: None, request), True, 1000)
        del request
        wait_until(lambda: threads._spare and gone() is None)
        threads.dismiss()
        threads.join(Deadline(SOON), set())

    @pytest.mark.parametrize("how", [{"patience": 0}, {"patience": 0.001}, {"daemon": False}])
    def test_end_where_none_comes(self, how: dict[str, Any]) -> None:
        threads = Threads()
        self.serve(threads, **how).join(SOON)
        assert threads._spare == []
        threads.join(Deadline(SOON), set())
        assert threads._threads == set()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_end_with_what_they_have_raised(self) -> None:
        threads = Threads()
        threads.call((sys.exit,), True, 1000)
        threads.join(Deadline(SOON), set())
        assert threads._spare == []

    def test_are_few(self) -> None:
        threads, go = Threads(), threading.Event()
        for _ in range(MOST_SPARE + 1):
            threads.call((go.wait, SOON), True, 1000)
        go.set()
        wait_until(lambda: len(threads._spare) == MOST_SPARE and len(threads._ended) == 1)
        threads.dismiss()
        threads.join(Deadline(SOON), set())

    def test_that_are_dismissed_wait_no_more(self) -> None:
        threads, go = Threads(), threading.Event()
        threads.call((go.wait, SOON), True, 1000)
        self.serve(threads)
        wait_until(lambda: threads._spare)
        threads.dismiss()
        go.set()  # one was still at work
        threads.join(Deadline(SOON), set())
        assert threads._threads == set()

    def test_stay_with_the_parent_of_a_fork(self) -> None:
        threads = Threads()
        thread = self.serve(threads)
        wait_until(lambda: threads._spare)
        held = threads._lock
        with held:
            run_in_thread(threads.disown).result()
            assert run_in_thread(self.serve, threads).result() is not thread
        thread.orders.put(None)  # type: ignore[attr-defined]
        threads.dismiss()
        threads.join(Deadline(SOON), set())
        thread.join(SOON)


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

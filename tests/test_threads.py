"""The threads of handlers: started, kept for the next connection, waited for."""

from __future__ import annotations

import functools
import queue
import sys
import threading
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

from websocketserver.deadline import Deadline
from websocketserver.threads import MOST_SPARE, Threads

from .support import SOON, run_in_thread, wait_until


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

    def test_may_be_called_with_what_has_no_name(self) -> None:
        threads, served = Threads(), threading.Event()
        threads.call((functools.partial(served.set),), True, 0)
        assert served.wait(SOON)
        threads.join(Deadline(SOON), set())

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

"""Keepalive: one timer thread that nothing stops, and the clock of pings and pongs."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocketserver import keepalive
from websocketserver.connection import Role, WebSocketConnection
from websocketserver.keepalive import THREAD_NAME, Heartbeat, Timer
from websocketserver.settings import Settings

from .program import run_program
from .support import MS, SOON, pipe, wait_until


class Visitor:
    """Something to visit: ``visits`` counts, ``visited`` tells the first."""

    visit_at: float | None = None

    def __init__(self, answer: Callable[[float], float | None] = lambda now: None) -> None:
        self.answer = answer
        self.visits = 0
        self.visited = threading.Event()
        self.thread: threading.Thread | None = None

    def visit(self, now: float) -> float | None:
        self.thread = threading.current_thread()
        self.visits += 1
        self.visited.set()
        return self.answer(now)


class Counted:
    """A function whose calls are counted."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.function()


@pytest.fixture
def timer() -> Timer:
    """The shared timer: one of a test's own would leave its thread behind."""
    return keepalive.timer


def keepalive_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


class TestTimer:
    def test_visits_when_it_is_time(self, timer: Timer) -> None:
        visitor = Visitor()
        at = time.monotonic() + 20 * MS
        timer.schedule(visitor, at)
        assert visitor.visited.wait(SOON)
        assert time.monotonic() >= at

    def test_comes_again_when_told(self, timer: Timer) -> None:
        visitor = Visitor(lambda now: now + MS)
        timer.schedule(visitor, time.monotonic())
        wait_until(lambda: visitor.visits >= 3)
        visitor.answer = lambda now: None

    def test_earlier_time_wins(self, timer: Timer) -> None:
        visitor = Visitor()
        timer.schedule(visitor, time.monotonic() + 1000)
        timer.schedule(visitor, time.monotonic())
        assert visitor.visited.wait(SOON)

    def test_later_time_does_not_delay(self, timer: Timer) -> None:
        visitor, later = Visitor(), Visitor()
        timer.schedule(visitor, time.monotonic() + 10 * MS)
        timer.schedule(visitor, time.monotonic() + 1000)
        timer.schedule(later, time.monotonic() + 20 * MS)
        assert later.visited.wait(SOON)
        assert visitor.visits == 1

    def test_failing_visit_is_logged_and_stops_nobody(self, timer: Timer, caplog: pytest.LogCaptureFixture) -> None:
        failing, other = Visitor(lambda now: 1 // 0), Visitor()  # type: ignore[arg-type, return-value]
        with caplog.at_level(logging.ERROR, "websocketserver"):
            timer.schedule(failing, time.monotonic())
            timer.schedule(other, time.monotonic() + MS)
            assert other.visited.wait(SOON)
        assert failing.visits == 1
        assert "ZeroDivisionError" in caplog.text

    def test_failing_visitor_may_be_scheduled_again(self, timer: Timer, caplog: pytest.LogCaptureFixture) -> None:
        visitor = Visitor(lambda now: 1 // 0)  # type: ignore[arg-type, return-value]
        timer.schedule(visitor, time.monotonic())
        assert visitor.visited.wait(SOON)
        wait_until(lambda: caplog.records)
        visitor.answer = lambda now: None
        timer.schedule(visitor, time.monotonic())
        wait_until(lambda: visitor.visits == 2)

    def test_keeps_nobody_alive(self, timer: Timer) -> None:
        visitor = Visitor()
        gone = weakref.ref(visitor)
        timer.schedule(visitor, time.monotonic() + 20 * MS)
        del visitor
        assert gone() is None
        after = Visitor()
        timer.schedule(after, time.monotonic() + 30 * MS)
        assert after.visited.wait(SOON)  # the place in the queue of the one that is gone did no harm

    def test_those_that_are_gone_wake_it_once(self, timer: Timer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timer, "_next_due", count := Counted(timer._next_due))
        now = time.monotonic()
        visitors = [Visitor() for _ in range(200)]
        for number, visitor in enumerate(visitors):
            timer.schedule(visitor, now + (100 + number / 10) * MS)
        last = Visitor()
        timer.schedule(last, now + 125 * MS)
        visitors.clear()
        del visitor
        assert last.visited.wait(SOON)
        assert count.calls < 20

    def test_keeps_nobody_alive_after_a_visit(self, timer: Timer) -> None:
        visitor = Visitor(lambda now: now + 1000)
        gone = weakref.ref(visitor)
        timer.schedule(visitor, time.monotonic())
        assert visitor.visited.wait(SOON)
        del visitor
        wait_until(lambda: gone() is None)

    def test_keeps_nobody_alive_after_a_failing_visit(self, timer: Timer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keepalive.logger, "disabled", True)  # the record would
        visitor = Visitor(lambda now: 1 // 0)  # type: ignore[arg-type, return-value]
        gone = weakref.ref(visitor)
        timer.schedule(visitor, time.monotonic())
        assert visitor.visited.wait(SOON)
        del visitor
        wait_until(lambda: gone() is None)

    def test_survives_that_no_thread_can_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        timer, visitor = Timer(), Visitor()

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        timer.schedule(visitor, time.monotonic())
        assert visitor.visits == 0
        monkeypatch.setattr(timer, "_run", lambda: None)
        monkeypatch.undo()
        started: list[bool] = []
        monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(True))
        timer.schedule(Visitor(), time.monotonic())
        assert started  # the next call tried again

    def test_begins_again_after_its_end(self) -> None:
        """Which is that of the interpreter, where others may still come."""
        timer = Timer()
        for _ in range(2):
            visitor = Visitor()
            timer.schedule(Visitor(), time.monotonic() + 60)
            timer.schedule(visitor, time.monotonic())
            assert visitor.visited.wait(SOON) and visitor.thread is not None
            timer.end()
            assert not visitor.thread.is_alive()
        timer.end()

    def test_a_subinterpreter_comes_and_goes(self) -> None:
        pytest.importorskip("_testcapi")  # it is CPython's own tests'
        done = run_program("""
            import _testcapi

            script = '''if True:
                from tests.support import pipe
                with pipe() as (client, server):
                    client.trace(lambda frame: print(frame.payload, flush=True))
                    client.send("x")
                    assert server.recv(10) == "x"
            '''
            for _ in range(3):
                assert _testcapi.run_in_subinterp(script) == 0
        """)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["b'x'"] * 3  # the end waits for what a trace is still to tell

    def test_one_thread_for_all_connections(self) -> None:
        with pipe() as (_, _), pipe() as (_, _), pipe(tls=True) as (_, _):
            assert len(keepalive_threads()) == 1
            assert keepalive_threads()[0].daemon


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
class TestFork:
    def run_in_child(self, function: Callable[[], bool]) -> None:
        child = os.fork()
        if not child:
            try:
                os._exit(0 if function() else 1)
            finally:
                os._exit(2)
        end = time.monotonic() + SOON
        done, status = os.waitpid(child, os.WNOHANG)
        while not done and time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert done, "the child hangs"
        assert os.waitstatus_to_exitcode(status) == 0

    def test_child_has_a_timer_of_its_own(self, timer: Timer) -> None:
        first = Visitor()
        timer.schedule(first, time.monotonic())
        assert first.visited.wait(SOON)

        def child() -> bool:
            visitor = Visitor()
            timer.schedule(visitor, time.monotonic())
            return visitor.visited.wait(SOON)

        self.run_in_child(child)

    def test_child_does_not_touch_the_parents_connections(self) -> None:
        with pipe(client=Settings(ping_interval=20 * MS)) as (client, server):

            def child() -> bool:
                with pipe() as (one, two):
                    one.send("in the child")
                    return two.recv(SOON) == "in the child"

            self.run_in_child(child)
            client.send("after")
            assert server.recv(SOON) == "after"


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    yield Heartbeat(20, 10, 0.0)


class TestHeartbeat:
    def test_pings_at_the_interval(self, heartbeat: Heartbeat) -> None:
        assert not heartbeat.ping_due(19)
        assert heartbeat.ping_due(20)
        assert not heartbeat.ping_due(20)
        assert not heartbeat.ping_due(39)
        assert heartbeat.ping_due(40)

    def test_dead_when_nothing_moves_after_a_ping(self, heartbeat: Heartbeat) -> None:
        assert not heartbeat.dead(20, 7, stands=False)
        heartbeat.ping_due(20)
        assert not heartbeat.dead(29, 7, stands=False)
        assert heartbeat.dead(30, 7, stands=False)

    def test_alive_as_long_as_no_ping_was_sent(self, heartbeat: Heartbeat) -> None:
        assert not heartbeat.dead(1, 7, stands=False)
        assert not heartbeat.dead(19, 7, stands=False)

    def test_any_progress_proves_life(self, heartbeat: Heartbeat) -> None:
        heartbeat.dead(20, 7, stands=False)
        heartbeat.ping_due(20)
        assert not heartbeat.dead(30, 8, stands=False)
        assert not heartbeat.dead(39, 8, stands=False)  # and the clock starts with the next Ping only

    def test_clock_stands_while_input_is_unread(self, heartbeat: Heartbeat) -> None:
        heartbeat.dead(20, 7, stands=False)
        heartbeat.ping_due(20)
        assert not heartbeat.dead(30, 7, stands=True)
        assert not heartbeat.dead(39, 7, stands=False)
        assert heartbeat.dead(40, 7, stands=False)

    def test_further_pings_do_not_restart_the_clock(self) -> None:
        heartbeat = Heartbeat(5, 20, 0.0)
        heartbeat.dead(5, 7, stands=False)
        for now in (5, 10, 15, 20):
            assert heartbeat.ping_due(now)
            assert not heartbeat.dead(now, 7, stands=False)
        assert heartbeat.dead(25, 7, stands=False)

    def test_next_visit_is_the_next_moment_that_matters(self, heartbeat: Heartbeat) -> None:
        assert heartbeat.next_visit() == 20
        heartbeat.ping_due(20)
        assert heartbeat.next_visit() == 30  # of the Ping's answer
        assert Heartbeat(5, 20, 0.0).next_visit() == 5

    def test_none_turns_it_off(self) -> None:
        never = Heartbeat(None, 10, 0.0)
        assert never.next_visit() is None
        assert not never.ping_due(1e9)
        assert not never.dead(1e9, 0, stands=False)
        patient = Heartbeat(20, None, 0.0)
        patient.dead(20, 7, stands=False)
        assert patient.ping_due(20)
        assert not patient.dead(1e9, 7, stands=False)
        assert patient.next_visit() == 40


def test_abandoned_connection_is_collected_and_its_descriptor_closed() -> None:
    ours, theirs = socket.socketpair()
    connection = WebSocketConnection(ours, role=Role.CLIENT)
    gone = weakref.ref(connection)
    del connection, ours
    with warnings.catch_warnings(), theirs:
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        assert gone() is None
        theirs.settimeout(SOON)
        assert theirs.recv(1) == b""

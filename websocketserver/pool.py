"""Pool: one poller and a few threads for any number of tenants, each served when there is something for it.

One of the threads is the leader: it polls, and serves what is ready itself, so nothing is handed
over as long as serving is quick. A monitor looks every few milliseconds: where the leader has been
serving the same tenant since its last look, the lead passes to another thread, together with the
rest of what was ready. At most ``max_workers`` threads serve at once; one more always polls, and
while all others serve it only attends to what must not wait.

A tenant is never served by two threads at once: when the lead passes, the one being served leaves
the poll set (it is "away"), and its own thread puts it back.
"""

from __future__ import annotations

import heapq
import itertools
import select
import selectors
import threading
import time
from abc import ABC, abstractmethod
from collections import deque

from .accepting import Waker
from .deadline import Deadline

__all__ = ["Pool", "Tenant"]

TICK = 0.005  # seconds that serving one tenant may take before the lead passes
QUIET_TICKS = 40  # ticks without anybody being served after which the monitor goes to sleep


class Tenant(ABC):
    """Something with a descriptor that is to be served when that is readable, or when it is announced.

    ``away`` and ``gone`` are the pool's. A tenant calls ``Pool.forget`` before its descriptor is closed.
    """

    away = False
    gone = False
    expires: float | None = None  # when to be served at the latest (time.monotonic); set before Pool.add or Pool.expect

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor: the same from ``Pool.add`` to ``Pool.forget``."""

    @abstractmethod
    def serve(self) -> None:
        """Do what there is to do, maybe running code of the application; never called twice at once."""

    @abstractmethod
    def attend(self) -> bool:
        """Do what must not wait until a thread is free to serve; return whether there is something to serve."""

    @abstractmethod
    def is_urgent(self) -> bool:
        """Return whether it may not wait for a thread: another is made for it."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether there is something to serve that polling does not show."""

    @abstractmethod
    def set_polled(self, polled: bool) -> None:
        """The tenant is being polled for, or being served by a thread that may take long."""


class _Worker:
    """A thread of the pool. The pool's lock guards ``passed`` and ``away``; the rest is the thread's own."""

    __slots__ = ("away", "lead", "passed", "tenant", "thread", "turns")

    def __init__(self) -> None:
        self.lead = threading.Semaphore(0)  # released to make it the leader
        self.tenant: Tenant | None = None  # whom it serves as the leader
        self.turns = 0  # how many it has served
        self.passed = False  # it has lost the lead, and is still serving
        self.away: Tenant | None = None  # whom it has to put back into the poll set
        self.thread: threading.Thread | None = None


class Pool:
    """Threads that serve tenants. Any method may be called from any thread."""

    def __init__(self, max_workers: int) -> None:
        self._max_workers = max_workers
        self._poller = _EpollPoller() if hasattr(select, "epoll") else _SelectorPoller()
        self._waker = Waker()
        self._poller.add(self._waker.fileno())
        self._announced: deque[Tenant] = deque()
        self._ready: deque[Tenant] = deque()  # the leader's, and its successor's
        self._watching = threading.Event()  # the monitor is awake
        self._stopping = threading.Event()
        self._lock = threading.RLock()  # guards all that follows; never held while polling or serving
        self._tenants: dict[int, Tenant] = {}
        self._waiting: deque[Tenant] = deque()  # ready, and away until a thread is free
        self._deadlines: list[tuple[float, int, Tenant]] = []
        self._order = itertools.count()
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._busy = 0  # threads that serve without having the lead
        self._extra = 0  # threads beyond the pool's that serve what is urgent
        self._leader: _Worker | None = None
        self._monitor = threading.Thread(target=self._watch, name="websocketserver-monitor", daemon=True)

    def start(self) -> None:
        """Start polling; raises RuntimeError where no thread is to be had."""
        self._monitor.start()
        with self._lock:
            self._leader = self._free_worker_locked()
            if self._leader is None:
                raise RuntimeError("can't start new thread")
            self._leader.lead.release()

    def stop(self, deadline: Deadline) -> None:
        """End the threads, and wait for them; one that is serving ends when it is done."""
        self._stopping.set()
        self._watching.set()
        self._waker.wake()
        with self._lock:
            threads = [worker.thread for worker in self._workers if worker.thread is not None]
            for worker in self._workers:
                worker.lead.release()
        for thread in [*threads, self._monitor]:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(deadline.left())
        if not any(thread.is_alive() for thread in threads):
            self._poller.close()
            self._waker.close()

    def add(self, tenant: Tenant) -> None:
        """Poll for a tenant from now on, and serve it at ``expires`` at the latest."""
        with self._lock:
            self._tenants[tenant.fileno()] = tenant
            tenant.set_polled(True)
            self._poller.add(tenant.fileno())
        self.expect(tenant)

    def expect(self, tenant: Tenant) -> None:
        """Serve a tenant at its ``expires`` at the latest."""
        at = tenant.expires  # which may change at any moment: another thread may be serving it already
        if at is None:
            return
        with self._lock:
            heapq.heappush(self._deadlines, (at, next(self._order), tenant))
            first = self._deadlines[0][2] is tenant
        if first:  # the leader may be polling for longer
            self._waker.wake()

    def forget(self, tenant: Tenant) -> None:
        """Poll for a tenant no more."""
        with self._lock:
            if not tenant.gone:
                tenant.gone = True
                self._tenants.pop(tenant.fileno(), None)
                if not tenant.away:
                    self._poller.remove(tenant.fileno())

    def announce(self, tenant: Tenant) -> None:
        """There is something to serve that polling does not show."""
        self._announced.append(tenant)
        self._waker.wake()

    # The leader

    def _work(self, worker: _Worker) -> None:
        """What each thread runs."""
        while True:
            worker.lead.acquire()
            while self._leader is worker and not self._stopping.is_set():
                if not self._ready:
                    self._poll()
                elif self._busy >= self._max_workers:
                    self._attend(self._ready.popleft())
                else:
                    self._serve_as_leader(worker, self._ready.popleft())
            self._come_back(worker)
            if self._stopping.is_set():
                return

    def _serve_as_leader(self, worker: _Worker, tenant: Tenant) -> None:
        if tenant.away or tenant.gone:
            return
        if not self._watching.is_set():
            self._watching.set()
        worker.turns += 1
        worker.tenant = tenant  # first this, then the look at the lead: the monitor does it the other way round
        if self._leader is not worker:
            self._ready.appendleft(tenant)
            return
        tenant.serve()
        worker.tenant = None
        if not (tenant.gone or tenant.away) and tenant.is_ready():
            self._ready.append(tenant)

    def _attend(self, tenant: Tenant) -> None:
        """All other threads are serving: let a tenant wait for one, if it has to."""
        if tenant.away or tenant.gone or not tenant.attend() or tenant.gone:
            return
        with self._lock:
            self._take_away_locked(tenant)
            if not (tenant.is_urgent() and self._start_extra_locked(tenant)):
                self._waiting.append(tenant)
            idle = self._busy < self._max_workers
        if idle:  # a thread has become free meanwhile, and has seen nobody waiting
            self._serve_waiting()

    def _start_extra_locked(self, tenant: Tenant) -> bool:
        """Serve an urgent tenant in a thread beyond the pool's; False if there are enough of those."""
        if self._extra >= self._max_workers:
            return False
        try:
            threading.Thread(target=self._serve_extra, args=(tenant,), daemon=True).start()
        except (RuntimeError, MemoryError):
            return False
        self._extra += 1
        return True

    def _serve_extra(self, tenant: Tenant) -> None:
        tenant.serve()
        self._put_back(tenant)
        with self._lock:
            self._extra -= 1

    def _serve_waiting(self) -> None:
        """Put back who waits: polling, or the announcement, brings them to the front again."""
        while True:
            with self._lock:
                tenant = self._waiting.popleft() if self._waiting else None
            if tenant is None:
                return
            self._put_back(tenant)

    def _poll(self) -> None:
        """As the leader, wait for something to serve."""
        for fileno in self._poller.poll(self._seconds()):
            tenant = self._tenants.get(fileno)
            if tenant is not None:
                self._ready.append(tenant)
            else:
                self._waker.drain()
        while self._announced:
            self._ready.append(self._announced.popleft())
        if self._deadlines:
            self._take_expired()

    def _seconds(self) -> float | None:
        with self._lock:
            return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _take_expired(self) -> None:
        now = time.monotonic()
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                at, _, tenant = heapq.heappop(self._deadlines)
                if tenant.expires == at:
                    self._ready.append(tenant)

    # Passing the lead

    def _watch(self) -> None:
        """What the monitor runs."""
        last: tuple[_Worker, int] | None = None
        quiet = 0
        while not self._stopping.wait(TICK):
            worker = self._leader
            now = None if worker is None or worker.tenant is None else (worker, worker.turns)
            if now is not None and now == last:
                self._pass_lead(*now)
            last = now
            quiet = 0 if now is not None else quiet + 1
            if quiet > QUIET_TICKS:
                self._watching.clear()
                self._watching.wait()
                quiet = 0

    def _pass_lead(self, worker: _Worker, turn: int) -> None:
        """Give the lead to another thread, if the leader is still in the same turn."""
        with self._lock:
            if self._leader is not worker or worker.tenant is None or worker.turns != turn:
                return
            successor = self._free_worker_locked()
            if successor is None:
                return  # no thread to be had: try again at the next tick
            self._leader = successor
            worker.passed = True
            self._busy += 1
            tenant = worker.tenant  # maybe another by now, if it was quick: but its last as the leader
            if tenant is not None and not tenant.gone:
                worker.away = tenant
                self._take_away_locked(tenant)
            successor.lead.release()

    def _free_worker_locked(self) -> _Worker | None:
        """Return a thread that has nothing to do, a new one if need be; None if there is none."""
        if self._idle:
            return self._idle.pop()
        if len(self._workers) > self._max_workers:
            return None
        worker = _Worker()
        name = f"websocketserver-worker-{len(self._workers)}"
        worker.thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
        try:
            worker.thread.start()
        except (RuntimeError, MemoryError):
            return None
        self._workers.append(worker)
        return worker

    def _take_away_locked(self, tenant: Tenant) -> None:
        tenant.away = True
        tenant.set_polled(False)
        self._poller.remove(tenant.fileno())

    def _put_back(self, tenant: Tenant) -> None:
        with self._lock:
            tenant.away = False
            if tenant.gone:
                return
            tenant.set_polled(True)
            self._poller.add(tenant.fileno())
        if tenant.is_ready():
            self.announce(tenant)

    def _come_back(self, worker: _Worker) -> None:
        """As a thread that has lost the lead: put the tenant back, serve those that wait, then have nothing to do."""
        worker.tenant = None
        tenant = worker.away
        while tenant is not None:
            self._put_back(tenant)
            with self._lock:
                tenant = worker.away = self._waiting.popleft() if self._waiting else None
            if tenant is not None and not tenant.gone:
                tenant.serve()
        with self._lock:
            if worker.passed:
                worker.passed = False
                self._busy -= 1
                self._idle.append(worker)


class _EpollPoller:
    """Linux's: a descriptor may be added and removed while another thread polls."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fileno: int) -> None:
        self._epoll.register(fileno, select.EPOLLIN)

    def remove(self, fileno: int) -> None:
        try:
            self._epoll.unregister(fileno)
        except (OSError, ValueError):  # not there
            pass

    def poll(self, seconds: float | None) -> list[int]:
        """Return the descriptors that can be read, or have failed."""
        return [fileno for fileno, _ in self._epoll.poll(-1 if seconds is None else seconds)]

    def close(self) -> None:
        self._epoll.close()


class _SelectorPoller:
    """The standard library's best elsewhere."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fileno: int) -> None:
        self._selector.register(fileno, selectors.EVENT_READ)

    def remove(self, fileno: int) -> None:
        try:
            self._selector.unregister(fileno)
        except KeyError:  # not there
            pass

    def poll(self, seconds: float | None) -> list[int]:
        """Return the descriptors that can be read, or have failed."""
        return [key.fd for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        self._selector.close()

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

import logging
import threading
import time
from collections import deque
from threading import get_ident

from .deadline import Deadline
from .express import serve_at_once
from .tenancy import Tenancy, Tenant

__all__ = ["Pool"]

TICK = 0.005  # seconds that serving one tenant may take before the lead passes
QUIET_TICKS = 40  # ticks without anybody being served after which the monitor goes to sleep

logger = logging.getLogger("websocketserver")


class _Worker:
    """A thread of the pool. The pool's lock guards ``tenant`` once it is set, ``passed`` and ``passing``."""

    __slots__ = ("lead", "passed", "passing", "tenant", "thread", "turns")  # express.py goes by them, too

    def __init__(self) -> None:
        self.lead = threading.Semaphore(0)  # released to make it the leader
        self.tenant: Tenant | None = None  # whom it serves
        self.turns = 0  # how many it has served as the leader
        self.thread = 0  # its identifier
        self.passed = False  # it has lost the lead while serving, and its tenant is away
        self.passing = False  # somebody looks whether it is to lose it: only with the lock may its turn end


class Pool(Tenancy):
    """Threads that serve tenants. Any method may be called from any thread."""

    __slots__ = ("_awake",)  # what express.py looks at

    def __init__(self, max_workers: int) -> None:
        super().__init__()
        self._max_workers = max_workers
        self._watching = threading.Event()  # set to wake the monitor
        self._awake = True  # the monitor is, or is about to look once more
        # The lock guards all that follows, too.
        self._waiting: deque[Tenant] = deque()  # ready, and away until a thread is free
        self._urgent: deque[Tenant] = deque()  # likewise, and served before those
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._busy = 0  # workers that serve without having the lead
        self._extras = 0  # threads beyond the workers, for what is urgent
        self._leader: _Worker | None = None
        self._monitor = threading.Thread(target=self._watch, name="websocketserver-monitor", daemon=True)
        self._threads = [self._monitor]  # all but the extras

    def start(self) -> None:
        """Start polling; raises RuntimeError or MemoryError where no thread is to be had."""
        with self._lock:
            self._leader = self._free_worker_locked()
        if self._leader is None:
            self._close()
            raise RuntimeError("can't start new thread")
        try:
            self._monitor.start()
        except (RuntimeError, MemoryError):
            self.stop(Deadline(0))
            raise
        finally:
            self._leader.lead.release()

    def stop(self, deadline: Deadline) -> None:
        """End the threads when the last tenant is gone, and wait for that."""
        with self._lock:
            self._stopping = True
        self._waker.wake()
        for thread in self._threads:  # which may grow meanwhile
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(deadline.left())

    def is_stopping(self) -> bool:
        """Return whether ``stop`` was called."""
        return self._stopping

    def announce(self, tenant: Tenant) -> None:
        """As inherited, without waking a leader that will look of itself."""
        self._announced.append(tenant)
        leader = self._leader
        # The leader looks before it polls, as who gets the lead; but where it serves nobody, it may just have looked,
        # and this may be garbage that goes.
        if leader is None or leader.thread != get_ident() or leader.tenant is None:
            self._waker.wake()

    # The leader

    def _work(self, worker: _Worker) -> None:
        """What each worker runs."""
        worker.thread = get_ident()
        while not self._over.is_set():
            worker.lead.acquire()
            while self._leader is worker and not self._over.is_set():
                try:
                    self._lead(worker)
                except Exception:  # a tenant's, and the others need the thread
                    logger.exception("a tenant of the pool failed")
            if worker.passed:
                self._come_back(worker)
        with self._lock:
            self._workers.remove(worker)
            last = not self._workers
        if last:
            self._close()

    def _lead(self, worker: _Worker) -> None:
        """As the leader, take one step."""
        ready = self._ready
        if not ready:
            self._poll()
            if self._stopping:
                self._end_if_empty()
        while ready and not worker.passed:
            if self._busy < self._max_workers:
                self._serve_next(worker)
            elif not ((tenant := ready.popleft()).away or tenant.gone):
                self._attend(tenant)

    def _serve_next(self, worker: _Worker) -> None:
        """Serve those that are ready up to one that is not simple to serve."""
        error: BaseException | None = None
        try:
            tenant: Tenant | None = serve_at_once(self, worker, self._ready)
        except BaseException as raised:
            if worker.tenant is None:
                raise
            tenant, error = worker.tenant, raised
        try:
            if tenant is not None and (tenant is worker.tenant or not (tenant.away or tenant.gone)):
                self._serve_as_leader(worker, tenant, error)
        finally:
            error = None  # it knows this frame

    def _serve_as_leader(self, worker: _Worker, tenant: Tenant, error: BaseException | None) -> None:
        worker.turns += 1
        worker.tenant = tenant
        if not self._awake:  # looked at behind the tenant: the monitor does it the other way round
            self._watching.set()
        if tenant.slow:
            began = time.monotonic()
            self._pass_lead(worker, worker.turns)
            more = self._serve(tenant, error)
            tenant.slow = time.monotonic() - began >= TICK
        else:
            more = self._serve(tenant, error)
        if self._end_turn(worker) and more:
            self._announced.append(tenant)  # behind all others, and behind a look at the descriptors

    def _end_turn(self, worker: _Worker) -> bool:
        """The leader has served its tenant; False if it has lost the lead: who puts the tenant back asks again."""
        with self._lock:
            if not worker.passed:
                worker.tenant = None
            return not worker.passed

    def _serve(self, tenant: Tenant, error: BaseException | None = None) -> bool:
        try:
            return tenant.serve() if error is None else tenant.serve(error)
        except BaseException:  # whatever it was, the thread has others to serve
            logger.exception("serving a tenant of the pool failed")
            return not tenant.gone and self._is_ready(tenant)

    def _attend(self, tenant: Tenant) -> None:
        """All other threads are serving: let a tenant wait for one, if it has to."""
        if not tenant.attend() or tenant.gone:
            return
        with self._lock:
            if self._busy < self._max_workers:  # no longer
                self._announced.append(tenant)
                return
            self._take_away_locked(tenant)
            if not tenant.is_urgent():
                self._waiting.append(tenant)
            elif not self._start_extra_locked(tenant):
                self._urgent.append(tenant)

    def _start_extra_locked(self, tenant: Tenant) -> bool:
        """Serve an urgent tenant in a thread beyond the workers; False if there are enough of those."""
        if self._extras >= self._max_workers:
            return False
        thread = threading.Thread(target=self._serve_extra, args=(tenant,), name="websocketserver-extra", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return False
        self._extras += 1
        return True

    def _serve_extra(self, tenant: Tenant | None) -> None:
        while tenant is not None:
            self._serve(tenant)
            self._put_back(tenant)
            with self._lock:
                tenant = self._urgent.popleft() if self._urgent else None
                if tenant is None:
                    self._extras -= 1

    def _end_if_empty(self) -> None:
        with self._lock:
            if self._tenants:
                return
            self._over.set()
            self._watching.set()
            for worker in self._workers:
                worker.lead.release()

    # Passing the lead

    def _watch(self) -> None:
        """What the monitor runs."""
        last: tuple[_Worker, int] | None = None
        quiet = 0
        while not self._over.wait(TICK):
            now = self._turn()
            if now is not None and now == last:
                self._pass_lead(*now)
            last = now
            quiet = 0 if now is not None else quiet + 1
            if quiet > QUIET_TICKS:
                self._watching.clear()
                self._awake = False
                if self._turn() is None and not self._over.is_set():
                    self._watching.wait()
                self._awake = True
                quiet = 0

    def _turn(self) -> tuple[_Worker, int] | None:
        """Return the leader and which turn it is serving in, None if it is not."""
        worker = self._leader
        return None if worker is None or worker.tenant is None else (worker, worker.turns)

    def _pass_lead(self, worker: _Worker, turn: int) -> None:
        """Give the lead to another thread, if the leader is still in the same turn."""
        with self._lock:
            worker.passing = True
            try:
                tenant = worker.tenant
                if self._leader is worker and tenant is not None and worker.turns == turn:
                    self._pass_lead_locked(worker, tenant)
            finally:
                worker.passing = False

    def _pass_lead_locked(self, worker: _Worker, tenant: Tenant) -> None:
        successor = self._free_worker_locked()
        if successor is None:
            return  # no thread to be had: try again at the next tick
        self._leader = successor
        self._busy += 1
        worker.passed = tenant.slow = True
        if not tenant.gone:
            self._take_away_locked(tenant)
        successor.lead.release()

    def _free_worker_locked(self) -> _Worker | None:
        """Return a thread that has nothing to do, if need be a new one; None if there is none to be had."""
        if self._idle:
            return self._idle.pop()
        worker = _Worker()
        name = f"websocketserver-worker-{len(self._workers)}"
        thread = threading.Thread(target=self._work, args=(worker,), name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return None
        self._workers.append(worker)
        self._threads.append(thread)
        return worker

    def _come_back(self, worker: _Worker) -> None:
        """As a thread that has lost the lead: put the tenant back, serve those that wait, then have nothing to do."""
        while (tenant := worker.tenant) is not None:
            self._put_back(tenant)
            with self._lock:
                waiting = self._urgent or self._waiting
                worker.tenant = waiting.popleft() if waiting else None
                if worker.tenant is None:
                    worker.passed = False
                    self._busy -= 1
                    self._idle.append(worker)
                    return
            self._serve(worker.tenant)

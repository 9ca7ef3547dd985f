"""Tenancy: whom a pool polls for, and who is ready to be served.

Owns     the poller, the list of tenants, and the moments at which they want to be served at the latest.
Never    serves anybody, nor knows which thread does: pool.py does.

A tenant that is served for long is out of the poll set meanwhile: it is "away".
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from .accepting import Waker
from .polling import Agenda, make_poller

__all__ = ["Tenancy", "Tenant"]

LOOK_UP = 5.0  # seconds that the leader polls at once: for what is to happen later nobody need wake it

logger = logging.getLogger("websocketserver")


class Tenant(ABC):
    """Something with a descriptor that is to be served when that is readable, or when it is announced.

    ``away``, ``gone``, ``slow`` and ``appointment`` are the pool's. A tenant calls ``Pool.forget`` before its
    descriptor is closed.
    """

    away = False
    gone = False
    slow = False  # the lead had to pass while it was served last: it passes beforehand now
    appointment: list[Any] | None = None
    expires: float | None = None  # when to be served at the latest (time.monotonic); Pool.expect looks at it

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor: the same from ``Pool.add`` to ``Pool.forget``."""

    @abstractmethod
    def serve(self, error: BaseException | None = None) -> bool:
        """Do what there is to do, maybe running code of the application; never called twice at once.

        Return whether there is more, which polling does not show. With an error, that has begun in C (express.py),
        and code of the application has raised it.
        """

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


class Tenancy:
    """The tenants of a pool. Any method may be called from any thread, unless it is the leader's."""

    __slots__ = ("__dict__",)

    def __init__(self) -> None:
        self._waker = Waker()
        self._poller = make_poller(self._waker.wake)
        self._poller.add(self._waker.fileno())
        self._announced: deque[Tenant] = deque()
        self._ready: deque[Tenant] = deque()  # the leader's
        self._over = threading.Event()  # nobody is taken any more
        self._lock = threading.RLock()  # guards all that follows; never held while polling or serving
        self._stopping = False
        self._tenants: dict[int, Tenant] = {}
        self._agenda = Agenda()

    def add(self, tenant: Tenant) -> None:
        """Poll for a tenant from now on, and serve it at ``expires`` at the latest.

        Raises OSError where the system takes no more, and RuntimeError where the pool has ended.
        """
        tenant.away = tenant.gone = tenant.slow = False  # in itself: found sooner there than in the class
        fileno = tenant.fileno()
        with self._lock:
            if self._over.is_set():
                raise RuntimeError("the pool has ended")
            self._tenants[fileno] = tenant
            try:
                self._poller.add(fileno)
            except OSError:
                del self._tenants[fileno]
                raise
            tenant.set_polled(True)
            self._expect_locked(tenant)

    def expect(self, tenant: Tenant) -> None:
        """Serve a tenant at its ``expires`` at the latest; None: wait for the descriptor alone."""
        with self._lock:
            self._expect_locked(tenant)

    def forget(self, tenant: Tenant) -> None:
        """Poll for a tenant no more."""
        fileno = tenant.fileno()
        with self._lock:
            tenant.gone = True
            tenant.expires = None
            if tenant.appointment is not None:
                self._expect_locked(tenant)
            if self._tenants.get(fileno) is tenant:  # or the number is another's by now
                del self._tenants[fileno]
                if not tenant.away:
                    self._poller.remove(fileno)
            last = self._stopping and not self._tenants
        if last:
            self._waker.wake()

    def announce(self, tenant: Tenant) -> None:
        """There is something to serve that polling does not show."""
        self._announced.append(tenant)
        self._waker.wake()

    def disown(self) -> None:
        """In the child of a fork: the threads are the parent's, and so is what the poller waits for."""
        self._poller.close()
        self._waker.disown()

    # The leader's

    def _poll(self) -> None:
        """As the leader, which has nobody to serve, wait for somebody."""
        timed = bool(self._announced or self._agenda)  # what is added meanwhile is for the next time
        polled = self._poller.poll(self._seconds() if timed else LOOK_UP)
        self._ready.extend(filter(None, map(self._tenants.get, polled)))
        if len(self._ready) < len(polled):
            self._waker.drain()
        while self._announced:
            self._ready.append(self._announced.popleft())
        if timed:
            self._take_expired()

    def _seconds(self) -> float:
        if self._announced:
            return 0.0
        with self._lock:
            first = self._agenda.first()
        return LOOK_UP if first is None else min(max(0.0, first - time.monotonic()), LOOK_UP)

    def _is_ready(self, tenant: Tenant) -> bool:
        try:
            return tenant.is_ready()
        except Exception:
            logger.exception("asking a tenant of the pool failed")
            return False

    # Moments

    def _expect_locked(self, tenant: Tenant) -> None:
        """See to it that there is an appointment at ``expires`` or before: then it will be looked at again."""
        at, appointment = tenant.expires, tenant.appointment
        if appointment is not None:
            if at is not None and appointment[0] <= at:
                return
            self._agenda.strike(appointment)
            tenant.appointment = None
        if at is not None:
            tenant.appointment = self._agenda.add(at, tenant)
            if self._agenda.first() == at and at < time.monotonic() + LOOK_UP:  # the leader may be polling for longer
                self._waker.wake()

    def _take_expired(self) -> None:
        now = time.monotonic()
        with self._lock:
            while (tenant := self._agenda.take(now)) is not None:
                tenant.appointment = None
                if tenant.away:  # looked at when it comes back
                    continue
                if tenant.expires is not None and tenant.expires <= now:
                    self._ready.append(tenant)
                else:
                    self._expect_locked(tenant)

    # Away

    def _take_away_locked(self, tenant: Tenant) -> None:
        tenant.away = True
        tenant.set_polled(False)
        if self._tenants.get(tenant.fileno()) is tenant:  # or the application has closed it, and another has the number
            self._poller.remove(tenant.fileno())

    def _put_back(self, tenant: Tenant) -> None:
        """Poll for a tenant again that was away."""
        with self._lock:
            tenant.away = False
            if tenant.gone:
                return
            tenant.set_polled(True)
            try:
                if self._tenants.get(tenant.fileno()) is tenant:
                    self._poller.add(tenant.fileno())
                else:
                    self.announce(tenant)
            except OSError:  # the application has closed it: the tenant finds out when it is served
                self.announce(tenant)
            self._expect_locked(tenant)
        if self._is_ready(tenant):
            self.announce(tenant)

    def _close(self) -> None:
        self._poller.close()
        self._waker.close()

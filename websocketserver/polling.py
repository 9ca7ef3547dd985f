"""Polling: what a pool waits with: descriptors that can be read, and moments that come.

A poller may be asked to add and remove descriptors while another thread polls. An Agenda is guarded
by a lock of its owner's.
"""

from __future__ import annotations

import heapq
import itertools
import select
import selectors
from collections.abc import Callable
from typing import Any, Protocol

from .express import poll_at_once

__all__ = ["Agenda", "EpollPoller", "Poller", "SelectorPoller", "make_poller"]

MOST_STRUCK = 64  # entries struck out that an agenda keeps in any case


class Poller(Protocol):
    """Descriptors that are waited for until they can be read."""

    def add(self, fileno: int) -> None:
        """Wait for a descriptor too; raises OSError where that cannot be."""

    def remove(self, fileno: int) -> None:
        """Wait for a descriptor no more, if it was waited for."""

    def poll(self, seconds: float | None) -> list[int]:
        """Return descriptors that can be read or have failed, once there are any or so many seconds are over.

        There may be more than are returned; and it may come back early, with none.
        """

    def close(self) -> None:
        """Give back what the poller has of the system."""


class EpollPoller:
    """Linux's: its system calls know of the descriptors beforehand."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fileno: int) -> None:
        try:
            self._epoll.register(fileno, select.EPOLLIN)
        except ValueError as error:  # no descriptor any more
            raise OSError(str(error)) from error

    def remove(self, fileno: int) -> None:
        try:
            self._epoll.unregister(fileno)
        except (OSError, ValueError):  # not there
            pass

    def poll(self, seconds: float | None) -> list[int]:
        return poll_at_once(self._epoll, seconds)

    def close(self) -> None:
        self._epoll.close()


class SelectorPoller:
    """The standard library's best elsewhere. ``wake`` ends the poll under way, which may not see what is added."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake = wake

    def add(self, fileno: int) -> None:
        try:
            self._selector.register(fileno, selectors.EVENT_READ)
        except (KeyError, ValueError) as error:
            raise OSError(str(error)) from error
        self._wake()

    def remove(self, fileno: int) -> None:
        try:
            self._selector.unregister(fileno)
        except (KeyError, ValueError):  # not there
            pass

    def poll(self, seconds: float | None) -> list[int]:
        return [key.fd for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        self._selector.close()


def make_poller(wake: Callable[[], None]) -> Poller:
    """Return the best poller of this system."""
    return EpollPoller() if hasattr(select, "epoll") else SelectorPoller(wake)


class Agenda:
    """Moments (``time.monotonic``) at which to look after something: a heap whose entries can be struck out."""

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []  # moment, a number so that nothing else is compared, what or None
        self._order = itertools.count()
        self._struck = 0

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> float | None:
        """Return the first moment, which may be one that was struck out; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, at: float, what: object) -> list[Any]:
        """Note a moment; return the entry to strike it out by."""
        entry = [at, next(self._order), what]
        heapq.heappush(self._heap, entry)
        return entry

    def strike(self, entry: list[Any]) -> None:
        """Forget an entry that has not been taken; what is struck out in front goes at once."""
        entry[2] = None
        self._struck += 1
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
            self._struck -= 1
        if self._struck > max(MOST_STRUCK, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)
            self._struck = 0

    def take(self, now: float) -> Any:
        """Return something whose moment has come, None if there is nothing."""
        while self._heap and self._heap[0][0] <= now:
            what = heapq.heappop(self._heap)[2]
            if what is not None:
                return what
            self._struck -= 1
        return None

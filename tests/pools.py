"""A server with a pool, for tests: handlers that wait for a gate, and what is known of its threads and tenants."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import PoolingWebSocketServer

from .serving import Page, Quiet, log_message, serving
from .support import (
    SOON,
    RawPeer,
    Running,
    raw_client,
    wait_until,
)

__all__ = ["Echo", "EchoPage", "away", "blocked", "echo", "pooled", "pooling_server", "tenants", "workers"]


@pytest.fixture(autouse=True)
def pooling_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "default_server", PoolingWebSocketServer)


class Echo(Quiet):
    """Answers with the message and where it was served; "wait" waits for the gate first."""

    gate: threading.Event

    def on_message(self, message: str | bytes) -> None:
        self.events.append(message)
        if message == "wait":
            self.gate.wait(SOON)
        self.websocket.send(message)


class EchoPage(Echo, Page):
    """The same, and pages."""


def pooled(handler: Any = Echo, *, max_workers: int = 2, **options: Any) -> Any:
    return serving(handler, server_attributes={"max_workers": max_workers, "log_message": log_message}, **options)


def tenants(running: Running) -> list[Any]:
    pool = running.server._pool
    return [] if pool is None else list(pool._tenants.values())


def away(running: Running) -> int:
    """Return how many of the pool's tenants are being served for long, or wait for that."""
    return sum(tenant.away for tenant in tenants(running))


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("websocketserver-worker")]


def echo(peer: RawPeer, text: bytes) -> None:
    peer.frame(1, text)
    assert peer.read_frame()[:2] == (1, text)


@contextlib.contextmanager
def blocked(running: Running, count: int = 2) -> Iterator[list[RawPeer]]:
    """Yield clients whose handlers wait for the gate, each keeping a thread."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(raw_client(running)) for _ in range(count)]
        for peer in peers:
            peer.frame(1, b"wait")
        wait_until(lambda: away(running) == count)
        yield peers

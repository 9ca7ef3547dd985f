"""The soak: every kind of visit once, that it sees what goes wrong, and a short run of all."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from websocketserver import ThreadingWebSocketServer
from websocketserver.pooling import PoolingWebSocketServer

from . import soak_server
from .program import Program
from .soak import MOST_GROWTH, leaks
from .soak_clients import Figures, Visitor
from .soak_server import Echo, routes, tell_news
from .support import Running, run_in_thread, running_server


@pytest.fixture(params=[(ThreadingWebSocketServer, False), (PoolingWebSocketServer, True)], ids=["threads", "pool-tls"])
def running(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    kind, tls = request.param
    for name, seconds in (("handshake_timeout", 0.3), ("ping_interval", 0.3), ("ping_timeout", 0.3)):
        monkeypatch.setattr(Echo, name, seconds)
    monkeypatch.setattr(soak_server, "NEWS", 0.05)
    with running_server(routes(), server_class=kind, tls=tls) as running:
        over = threading.Event()
        news = run_in_thread(tell_news, running.server, over)
        yield running
        over.set()
        news.result()


def visit(url: str, kind: str) -> dict[str, Any]:
    figures = Figures()
    Visitor(url, Random(1), figures).visit(kind)
    return figures.as_dict()


@pytest.mark.parametrize("kind", Visitor.KINDS)
def test_a_visit(running: Running, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"ping_interval": 0.3, "ping_timeout": 0.3, "send_timeout": 1, "close_timeout": 1, "connect_timeout": 1}
    monkeypatch.setattr("tests.soak_clients.LIMITS", limits)  # its own are for a busy machine
    seen = visit(running.url(), kind)
    assert seen["problems"] == []
    assert seen["counts"]["visits"] == 1
    assert seen["counts"].get("connections") == 1 or kind == "through_faults"
    assert kind in Visitor.HONEST or any(what.startswith("fault: ") for what in seen["counts"])


def test_what_goes_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def garble(self: Echo, message: str | bytes) -> None:
        self.websocket.send(message[1:])

    monkeypatch.setattr(Echo, "on_message", garble)
    with running_server(routes()) as running:
        assert visit(running.url(), "echoes")["counts"]["wrong"] > 0


def test_what_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.soak_clients.PATIENCE", 0.2)
    monkeypatch.setattr(Echo, "on_message", lambda self, message: None)
    with running_server(routes()) as running:
        assert visit(running.url(), "echoes")["counts"]["lost"] == 1


def test_news_that_are_missing_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(self: Echo) -> None:
        for number in range(1, 99, 2):
            self.websocket.send(f"news {number}")

    monkeypatch.setattr(Echo, "on_open", tell)
    with running_server(routes()) as running:
        assert visit(running.url(), "idle")["counts"]["lost"] > 0


def test_a_connection_that_fails_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "on_message", lambda self, message: self.websocket.close(1011))
    with running_server(routes()) as running:
        assert visit(running.url(), "echoes")["counts"]["failed"] == 1


@pytest.mark.parametrize("what", ["accepted", "connections", "threads", "descriptors", "memory"])
def test_a_leak_is_seen(what: str) -> None:
    before = {"accepted": 1, "connections": 1, "threads": 5, "descriptors": 8, "memory": 30_000}
    assert leaks("server threaded", before, before) == []
    after = {**before, what: before[what] + (MOST_GROWTH + 1 if what == "memory" else 1)}
    assert len(leaks("server threaded", before, after)) == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_soak(capfd: pytest.CaptureFixture[str]) -> None:
    with Program("-m", "tests.soak", "--minutes", "0.3", "--threads", "8") as program:
        output, errors = program.process.communicate(timeout=200)
    assert program.process.returncode == 0, (output, errors)
    assert re.search(r"leaked 0, lost 0\n  all is well$", output.decode().rstrip())

"""Serving at once, with C: Python is called for the hook alone."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver import ThreadingWebSocketServer, express
from websocketserver.protocol.events import AppEvent, Message

from ..serving import Quiet
from ..support import raw_client
from .kit import Forgetful, ask, ask_together, growth, pooling, turning


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python has been called for, to serve: nothing."""
    steps: list[str] = []
    serve_ready = Quiet.serve_ready

    def counting(self: Any, error: BaseException | None = None) -> bool:
        steps.append("serve_ready")
        return serve_ready(self, error)

    monkeypatch.setattr("websocketserver.handler.WebSocketRequestHandler.serve_ready", counting)
    return steps


def test_a_thread_takes_no_step_in_python_but_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AppEvent] = []
    handle = Quiet._handle_event

    def counting(self: Any, event: AppEvent) -> None:
        seen.append(event)
        handle(self, event)

    monkeypatch.setattr("websocketserver.hooks.Hooks._handle_event", counting)
    with turning(server_class=ThreadingWebSocketServer) as running, raw_client(running) as peer:
        for number in range(50):
            ask(peer, f"{number}")
        ask_together(peer, 50)
        assert seen == [Message("0", True)]


def test_a_pool_takes_no_step_in_python_but_the_hook(steps: list[str]) -> None:
    with pooling() as running, raw_client(running) as peer:
        for number in range(50):
            ask(peer, f"{number}")
        assert len(steps) < 10  # where the monitor has been asleep
        ask_together(peer, 2)
        before = len(steps)
        for _ in range(5):
            ask_together(peer, 50)
        assert len(steps) <= before + 1


@pytest.mark.usefixtures("kind", "no_timer")
def test_nothing_leaks_where_hooks_are_called() -> None:
    with turning(Forgetful) as running, raw_client(running) as peer:

        def talk() -> None:
            for _ in range(300):
                ask(peer, "some text")
                ask_together(peer, 5)

        assert growth(talk) < 2000


@pytest.mark.parametrize("arguments", [(), (None, None, None), (1, 2)])
def test_arguments(arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        express.serve_at_once(*arguments)  # type: ignore[call-arg,arg-type]

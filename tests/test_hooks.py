"""Hooks: from an event to the method that is called with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from websocketserver.connection import State
from websocketserver.exceptions import Close, ConnectionClosed
from websocketserver.hooks import Hooks
from websocketserver.protocol.events import Fragment, Message, Ping, Pong

NAMES = ("on_open", "on_message", "on_fragment", "on_ping", "on_pong", "on_close")


class Recording(Hooks):
    def __init__(self, state: State = State.OPEN, **closed: Any) -> None:
        self.websocket: Any = SimpleNamespace(state=state, **closed)
        self.calls: list[tuple[Any, ...]] = []

    def on_message(self, message: str | bytes) -> None:
        self.calls.append(("message", message))

    def on_fragment(self, fragment: Fragment) -> None:
        self.calls.append(("fragment", fragment))

    def on_ping(self, payload: bytes) -> None:
        self.calls.append(("ping", payload))

    def on_pong(self, payload: bytes) -> None:
        self.calls.append(("pong", payload))

    def on_close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))


@pytest.mark.parametrize(
    ("event", "call"),
    [
        (Message("text", True), ("message", "text")),
        (Message("é".encode(), True), ("message", "é")),
        (Message(b"bytes", False), ("message", b"bytes")),
        (Fragment("a", True, False), ("fragment", Fragment("a", True, False))),
        (Ping(b"p"), ("ping", b"p")),
        (Pong(b"q"), ("pong", b"q")),
    ],
)
def test_each_event_has_its_hook(event: Any, call: tuple[Any, ...]) -> None:
    hooks = Recording()
    hooks._handle_event(event)
    assert hooks.calls == [call]


def test_hooks_that_are_not_overridden_do_nothing() -> None:
    hooks = Hooks()
    for event in (Message("m", True), Fragment("f", True, True), Ping(b""), Pong(b"")):
        hooks._handle_event(event)
    hooks.on_open()
    hooks.on_close(1000, "")


@pytest.mark.parametrize(
    ("closed", "call"),
    [
        ({"close_code": 4000, "close_reason": "bye"}, ("close", 4000, "bye")),
        ({"close_code": None, "close_reason": None}, ("close", 1006, "")),
    ],
)
def test_on_close_is_told_how(closed: dict[str, Any], call: tuple[Any, ...]) -> None:
    hooks = Recording(**closed)
    hooks._call_on_close()
    assert hooks.calls == [call]


def test_what_is_overridden_is_known() -> None:
    assert [name for name in NAMES if Hooks()._overrides(name)] == []
    assert [name for name in NAMES if Recording()._overrides(name)] == list(NAMES[1:])
    hooks = Hooks()
    hooks.on_pong = lambda payload: None  # type: ignore[method-assign]
    assert hooks._wanted_events() == {"pong"}
    assert Recording()._wanted_events() == {"ping", "pong"}


class TestTheEnd:
    """Which exceptions of a hook only say that its connection is over."""

    closed = ConnectionClosed(Close(1000), None)

    @pytest.mark.parametrize(
        ("error", "states"),
        [
            (closed, {State.CONNECTING, State.CLOSING, State.CLOSED}),
            (TimeoutError(), {State.CLOSED}),
            (OSError(), set()),
            (ValueError(), set()),
        ],
    )
    def test_in_which_state(self, error: Exception, states: set[State]) -> None:
        assert {state for state in State if Recording(state)._is_end(error)} == states

    def test_it_does_not_leave_the_dispatch(self) -> None:
        hooks = Recording(State.CLOSED)
        hooks.on_message = self.fail  # type: ignore[method-assign]
        hooks._handle_event(Message("m", True))
        assert hooks._end_error is self.closed

    def test_another_connections_end_does(self) -> None:
        hooks = Recording(State.OPEN)
        hooks.on_message = self.fail  # type: ignore[method-assign]
        with pytest.raises(ConnectionClosed):
            hooks._handle_event(Message("m", True))

    def fail(self, message: str | bytes) -> None:
        raise self.closed

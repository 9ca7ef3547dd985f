"""Events: values that a connection's queue and its users take apart."""

from __future__ import annotations

import pytest

from websocketserver.protocol.events import Closed, Event, Fragment, Message, Ping, Pong


@pytest.mark.parametrize(
    ("event", "values"),
    [
        (Message("a", True), ("a", True)),
        (Fragment(b"a", False, True), (b"a", False, True)),
        (Ping(b"a"), (b"a",)),
        (Pong(b"a"), (b"a",)),
        (Closed(1000, "bye"), (1000, "bye")),
    ],
)
def test_an_event_is_a_value_in_this_order(event: Event, values: tuple[object, ...]) -> None:
    assert tuple(event) == values
    assert event == type(event)(*values)


def test_the_kinds_can_be_matched() -> None:
    def describe(event: Event) -> str:
        match event:
            case Message(str() as text, True):
                return text
            case Ping(payload) | Pong(payload):
                return payload.hex()
            case _:
                return "other"

    assert [describe(event) for event in (Message("a", True), Ping(b"\1"), Pong(b"\2"), Closed(1000, ""))] == [
        "a",
        "01",
        "02",
        "other",
    ]

"""Sharing at once, with C: what one message is to many connections."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver import Role, Settings, express, sharing
from websocketserver.output import GATHERED

from ..support import half, run_in_thread
from .kit import NOT_SENDING, Ends, change, counted

pytestmark = pytest.mark.usefixtures("no_timer")


@pytest.mark.parametrize("name", NOT_SENDING)
def test_sharing(server: Ends, name: str) -> None:
    connection, peer = server
    undo = change(connection, name, NOT_SENDING[name])
    assert express.share_at_once(connection, b"\x81\x04text", None) is False
    undo()
    assert counted(connection) == (0, 0)
    assert express.share_at_once(connection, b"\x81\x04text", None) is True
    assert peer.read_frame().payload == b"text"
    assert connection.stats.messages_sent == 1
    assert not connection._output.lock.locked()


@pytest.mark.parametrize("name", [n for n in NOT_SENDING if n not in ("_gathering", "_output.gathered")])
def test_sharing_with_guests_and_flushing(server: Ends, name: str) -> None:
    connection, peer = server
    output = connection._output
    guests: dict[Any, None] = {}
    undo = change(connection, name, NOT_SENDING[name])
    assert express.share_at_once(connection, b"\x81\x04text", guests) is False
    undo()
    assert not guests and not output.gathered
    assert express.flush_at_once(connection) is False  # there is nothing
    assert express.share_at_once(connection, b"\x81\x04text", guests) is True
    assert list(guests) == [connection]
    if name not in ("_output.sender.plain", "_output.sender._new_key"):
        undo = change(connection, name, NOT_SENDING[name])
        assert express.flush_at_once(connection) is False
        undo()
    assert output.gathered == b"\x81\x04text"
    assert express.flush_at_once(connection) is True
    assert peer.read_frame().payload == b"text"
    assert not output.gathered and not output.lock.locked()
    assert connection.stats.messages_sent == 1
    assert connection.stats.bytes_sent == 6


def test_a_client_masks_for_itself() -> None:
    with half(Role.CLIENT, settings=Settings(ping_interval=None)) as (connection, _):
        assert express.share_at_once(connection, b"\x81\x04text", None) is False


def test_guests_that_have_enough_to_leave(server: Ends) -> None:
    connection, _ = server
    connection._output.gathered += bytes(GATHERED - 6)
    assert express.share_at_once(connection, b"\x81\x04text", {}) is False


@pytest.mark.parametrize("guests", [None, {}], ids=["at once", "with others"])
def test_sharing_with_a_full_socket(server: Ends, guests: dict[Any, None] | None) -> None:
    """What was not taken is pending, nothing overtakes it, and no lock is held."""
    connection, peer = server
    message = sharing.SharedMessage(bytes(10_000))
    late: list[sharing.SharingChannel] = []
    message.frames(connection._output.sender)
    while connection.offer(message, guests, late) and not connection._output.rest:
        assert not connection._output.lock.locked()
        if guests is not None and not express.flush_at_once(connection):
            break
    assert bool(late) is (guests is None and bool(connection._output.rest))  # or just nothing more was taken
    sent = connection.stats.messages_sent
    assert guests is not None or not express.share_at_once(connection, message.plain or b"", guests)
    assert not express.flush_at_once(connection)
    catching_up = run_in_thread(connection.catch_up)
    assert all(peer.read_frame().payload == bytes(10_000) for _ in range(sent))
    catching_up.result()
    assert connection.stats.bytes_sent == sent * 10_004

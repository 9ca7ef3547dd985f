"""Sending at once, with C: nothing is done, and nothing waited for, where it is not simple."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import ConnectionClosed, PerMessageDeflate, Role, Settings, WebSocketConnection, express
from websocketserver import connection as module
from websocketserver.trace import TracedFrame

from ..support import frame, half, pipe, run_in_thread, wait_until
from .kit import NOT_SENDING, Ends, change, counted, growth

pytestmark = pytest.mark.usefixtures("no_timer")


@pytest.fixture(params=[0, 1], ids=["alone", "while another reads"])
def others(request: pytest.FixtureRequest) -> Iterator[None]:
    """Who is alone keeps the GIL while sending, and takes no lock."""
    with half() as (other, _):
        reading = [run_in_thread(other.recv) for _ in range(request.param)]
        wait_until(lambda: other._pumping is bool(request.param))
        yield
        other.abort()
        for each in reading:
            with pytest.raises(ConnectionClosed):
                each.result()


@pytest.mark.parametrize("name", [name for name in NOT_SENDING if name != "_output.gathered"])
def test_sending(ends: Ends, name: str) -> None:
    connection, peer = ends
    undo = change(connection, name, NOT_SENDING[name])
    assert express.send_at_once(connection, "text") is False
    undo()
    assert counted(connection) == (0, 0)
    assert express.send_at_once(connection, "text") is True
    assert peer.read_frame().payload == b"text"
    assert connection.stats.messages_sent == 1
    assert not connection._output.lock.locked()


@pytest.mark.parametrize("name", [*NOT_SENDING, "_announce"])
def test_pinging(name: str) -> None:
    with half() as (connection, peer):
        connection.park(lambda: None)
        undo = change(connection, name, NOT_SENDING.get(name))
        simple = name in ("_gathering", "_output.sender.plain")
        assert express.ping_at_once(connection, b"ping") is simple
        undo()
        if simple:
            assert peer.read_frame()[:2] == (9, b"ping")
        assert express.ping_at_once(connection, b"pong") is True
        assert peer.read_frame()[:2] == (9, b"pong")
        with connection._output.lock:
            assert express.ping_at_once(connection, b"ping") is False
        connection.unpark()


@pytest.mark.parametrize("message", [bytearray(b"x"), memoryview(b"x"), None, "\ud800"])
def test_messages(ends: Ends, message: object) -> None:
    assert express.send_at_once(ends[0], message) is False


def test_large_messages(ends: Ends) -> None:
    """A client masks what it sends, hence copies it in any case."""
    connection, peer = ends
    most = 128 << 10 if connection.role is Role.CLIENT else 16384
    assert express.send_at_once(connection, bytes(most + 1)) is False
    assert express.send_at_once(connection, "é" * (most // 2 + 1)) is False
    assert express.send_at_once(connection, bytes(most // 4)) is True
    assert peer.read_frame().payload == bytes(most // 4)


def test_compression() -> None:
    settings = Settings(compression=PerMessageDeflate(threshold=0))
    with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):
        assert express.send_at_once(client, "text") is False
        client.send("text")
        assert server.recv() == "text"


@pytest.mark.usefixtures("others")
def test_a_full_socket(ends: Ends) -> None:
    """What is begun is left pending; where nothing is taken, nothing is done."""
    connection, peer = ends
    sent = 0
    while (done := express.send_at_once(connection, bytes(16384))) is True:
        sent += 1
    assert connection.stats.messages_sent == sent
    assert not connection._output.lock.locked()
    if done is None:
        assert len(connection._output.rest) == 1
        sending = run_in_thread(connection._send_rest, module.NEVER)
        sent += 1
    else:
        sending = run_in_thread(lambda: None)
    assert not any(peer.read_frame().payload.strip(b"\0") for _ in range(sent))
    sending.result()
    assert not connection._output.lock.locked()


@pytest.mark.usefixtures("others")
def test_what_is_gathered_and_a_full_socket(server: Ends) -> None:
    """It leaves with the message, or is pending with it, or is gathered still."""
    connection, peer = server
    output = connection._output
    sent = begun = 0
    while not begun:
        output.gathered += frame(2, bytes(5000))
        done = express.send_at_once(connection, bytes(6000))
        begun = done is not True
        sent += done is not False
    assert connection.stats.messages_sent == sent - (done is None)
    assert bool(output.rest) is (done is None)
    assert len(output.gathered) == (0 if done is None else 5004)
    assert not output.lock.locked()
    if done is None:
        sending = run_in_thread(connection._send_rest, module.NEVER)
    else:
        sending = run_in_thread(connection.catch_up)
    sizes = [len(peer.read_frame().payload) for _ in range(2 * sent + (done is False))]
    assert sizes == ([5000, 6000] * (sent + 1))[: len(sizes)]
    sending.result()
    assert connection.stats.messages_sent == sent


@pytest.mark.parametrize("arguments", [(), (None, False), (5, "x"), (None,)])
def test_arguments(arguments: tuple[object, ...]) -> None:
    for function in (
        express.receive_at_once,
        express.send_at_once,
        express.share_at_once,
        express.flush_at_once,
        express.handle_at_once,
    ):
        with pytest.raises(TypeError):
            function(*arguments)  # type: ignore[arg-type,call-arg]


def send_until_full(connection: WebSocketConnection) -> None:
    while True:
        connection.send(bytes(16384))


def test_what_is_queued_meanwhile_leaves_too(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, peer = ends
    lock = connection._output.lock
    sending = run_in_thread(send_until_full, connection)
    wait_until(lambda: lock.locked() or not sending.running)
    connection._output.queue(9, b"ping")
    while peer.read_frame().payload != b"ping":
        pass
    connection.abort()
    with pytest.raises(ConnectionClosed):
        sending.result()


def test_gathering(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the first the timer is told; the one that makes it enough goes the long way."""
    connection, peer = ends
    output = connection._output
    visits: list[object] = []
    monkeypatch.setattr("websocketserver.keepalive.timer.schedule", lambda visited, at: visits.append(visited))
    connection._gathering = 1
    assert express.send_at_once(connection, "another thread's") is False
    connection._gathering = threading.get_ident()
    assert express.send_at_once(connection, "one") is True
    assert express.send_at_once(connection, "two") is True
    assert len(visits) == 1
    gathered = bytes(output.gathered)
    output.gathered += bytes(1 << 16)
    assert express.send_at_once(connection, "three") is False
    output.gathered = bytearray(gathered)
    connection._gathering = None
    assert express.send_at_once(connection, "four") is True
    assert [peer.read_frame().payload for _ in range(3)] == [b"one", b"two", b"four"]
    assert not output.gathered and not output.lock.locked()
    assert connection.stats.messages_sent == 3
    assert connection.stats.bytes_sent == len(gathered) + (6 if connection.role is Role.SERVER else 10)


def test_a_close_while_the_timer_is_told(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, _ = ends
    connection._gathering = threading.get_ident()
    monkeypatch.setattr(
        "websocketserver.keepalive.timer.schedule", lambda visited, at: setattr(connection, "_sent", object())
    )
    assert express.send_at_once(connection, "text") is False
    assert not connection._output.gathered


def test_a_trace_that_begins_while_the_timer_is_told(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, _ = ends
    told: list[TracedFrame] = []
    connection._gathering = threading.get_ident()
    monkeypatch.setattr("websocketserver.keepalive.timer.schedule", lambda visited, at: connection.trace(told.append))
    assert express.send_at_once(connection, "text") is False
    assert not connection._output.gathered


def test_the_timer_fails(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, _ = ends
    connection._gathering = threading.get_ident()
    monkeypatch.setattr("websocketserver.keepalive.timer.schedule", lambda visited, at: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        express.send_at_once(connection, "text")
    assert not connection._output.gathered


@pytest.mark.usefixtures("others")
def test_nothing_leaks(ends: Ends) -> None:
    connection, peer = ends
    guests: dict[Any, None] = {}

    def talk() -> None:
        for _ in range(256):  # so many masking keys are drawn at once: as many are left afterwards as before
            peer.frame(1, b"some text")
            assert connection.recv() == "some text"
            connection.send(b"some bytes")
            peer.read_frame()
            express.send_at_once(connection, "\ud800")
            if connection.role is Role.SERVER:
                express.share_at_once(connection, b"\x81\x04text", None)
                express.share_at_once(connection, b"\x81\x04text", guests)
                express.flush_at_once(connection)
                assert peer.read_frame().payload == peer.read_frame().payload == b"text"

    assert growth(talk) < 1000

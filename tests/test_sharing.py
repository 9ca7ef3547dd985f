"""Sharing: one message for many connections."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import (
    PerMessageDeflate,
    PoolingWebSocketServer,
    ThreadingWebSocketServer,
    TracedFrame,
    WebSocketClient,
    WebSocketRequestHandler,
)
from websocketserver.protocol.endpoint import Role
from websocketserver.protocol.extensions import Codec
from websocketserver.protocol.sender import Sender
from websocketserver.sharing import SharedMessage
from websocketserver.transport import PlainTransport

from .support import SOON, Running, frame, half, raw_client, run_in_thread, running_server, wait_until

TEXT_FRAME = 1
TEXT = "so it goes, and goes, and goes: " * 20


class Quiet(WebSocketRequestHandler):
    compression = PerMessageDeflate(threshold=100)


class Relay(Quiet):
    def on_message(self, message: str | bytes) -> None:
        self.server.broadcast(message)


@contextlib.contextmanager
def clients(running: Running, count: int, **options: Any) -> Iterator[list[WebSocketClient]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(WebSocketClient(running.url(), **options)) for _ in range(count)]


def codec() -> Codec:
    answer = PerMessageDeflate(threshold=0).answer([])
    assert answer is not None
    return answer


def sender(*codecs: Codec, role: Role = Role.SERVER, fragment_size: int | None = None) -> Sender:
    return Sender((lambda: b"\1\2\3\4") if role is Role.CLIENT else None, codecs=codecs, fragment_size=fragment_size)


class TestSharedMessage:
    def test_is_serialised_once_for_all_that_send_the_same(self) -> None:
        message = SharedMessage("hello")
        one = message.frames(sender())
        assert one == b"\x81\x05hello"
        assert message.frames(sender()) is one
        assert message.frames(sender(fragment_size=3)) == b"\x01\x03hel\x80\x02lo"

    def test_is_no_clients(self) -> None:
        assert SharedMessage("hello").frames(sender(role=Role.CLIENT)) is None

    def test_is_compressed_once_and_refers_to_nothing_before_it(self) -> None:
        one, other = codec(), codec()
        first, second = sender(one), sender(other)
        for each in (first, second):
            each.message(TEXT.encode(), text=True)
        message = SharedMessage(TEXT)
        frames = message.frames(first)
        assert frames is not None
        assert message.frames(second) is frames
        assert frames == b"".join(sender(codec()).message(TEXT.encode(), text=True))
        after = b"".join(second.message(b"so it goes", text=True))
        assert after == b"".join(sender(codec()).message(b"so it goes", text=True))  # nor does what comes after it

    def test_an_extension_that_shares_nothing_is_left_alone(self) -> None:
        own = codec()
        own.encoder.sharing = None
        assert SharedMessage(TEXT).frames(sender(own)) is None


@pytest.fixture(params=[ThreadingWebSocketServer, PoolingWebSocketServer], ids=["threaded", "pooled"])
def server_class(request: pytest.FixtureRequest) -> type:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"compression": None}], ids=["compressed", "plain"])
class TestBroadcast:
    def test_comes_to_all_in_order_among_what_each_is_sent_alone(self, server_class: type, options: Any) -> None:
        with running_server(Quiet, server_class=server_class) as running, clients(running, 3, **options) as peers:
            wait_until(lambda: len(running.server.connections) == 3)
            for number in range(4):
                assert running.server.broadcast(TEXT + str(number)) == 3
                for at, connection in enumerate(running.server.connections):
                    connection.send(f"{TEXT}{number} to {at}")
            for peer in peers:
                got = [peer.recv(SOON) for _ in range(8)]
                assert got[::2] == [TEXT + str(number) for number in range(4)]
                assert [str(each)[:-1] for each in got[1::2]] == [f"{TEXT}{number} to " for number in range(4)]

    def test_of_what_comes_together_is_whole_and_in_order(self, server_class: type, options: Any) -> None:
        with running_server(Relay, server_class=server_class) as running, clients(running, 3, **options) as peers:
            wait_until(lambda: len(running.server.connections) == 3)
            for round_trip in range(5):
                messages = [f"{round_trip} {number} {TEXT[: number * 30]}" for number in range(20)]
                for message in messages:
                    peers[0].send(message)
                for peer in peers:
                    assert [peer.recv(SOON) for _ in messages] == messages


class TestGathering:
    def test_what_comes_together_leaves_in_one_piece(self, server_class: type, monkeypatch: pytest.MonkeyPatch) -> None:
        with running_server(Relay, server_class=server_class) as running:
            with raw_client(running) as speaker, raw_client(running) as listener:
                wait_until(lambda: len(running.server.connections) == 2)
                sent: list[bytes] = []
                send = PlainTransport.send

                def recording(self: PlainTransport, buffers: Any, more: bool = False) -> int:
                    sent.append(b"".join(buffers))
                    return send(self, buffers, more)

                monkeypatch.setattr(PlainTransport, "send", recording)
                speaker.send(b"".join(frame(TEXT_FRAME, b"%d" % number, key=b"\1\2\3\4") for number in range(4)))
                assert [listener.read_frame().payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]
                assert [speaker.read_frame().payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]
                assert sent == [b"\x81\x010\x81\x011\x81\x012\x81\x013"] * 2

    @pytest.mark.parametrize("path", ["timer", "failure"])
    def test_a_hook_that_takes_long_or_fails_keeps_nothing_back(self, server_class: type, path: str) -> None:
        go_on = threading.Event()
        in_time: list[bool] = []

        class Slow(Relay):
            def on_message(self, message: str | bytes) -> None:
                super().on_message(message)
                if path == "failure":
                    raise LookupError("mine")
                in_time.append(go_on.wait(SOON))

        with running_server(Slow, server_class=server_class, errors_expected=path == "failure") as running:
            with raw_client(running) as speaker, raw_client(running) as listener:
                wait_until(lambda: len(running.server.connections) == 2)
                speaker.send(b"".join(frame(TEXT_FRAME, b"%d" % number, key=b"\1\2\3\4") for number in range(3)))
                assert listener.read_frame().payload == b"0"
                go_on.set()
            assert all(in_time)


def test_who_is_sent_more_just_when_the_first_host_leaves_gets_all() -> None:
    """The lock is then the second host's, and the first has to leave what it has gathered to that one."""
    with half() as (guest, peer), half() as (first, _), half() as (second, _):

        class Slow(SharedMessage):
            def frames(self, sender: Sender) -> bytes | None:
                first._see_guests_off()
                return super().frames(sender)

        first._guests, second._guests = {}, {}
        assert guest.offer(SharedMessage("one"), first._guests, [])
        assert guest.offer(Slow("two"), second._guests, [])
        second._see_guests_off()
        assert not guest._output.gathered
        assert [peer.read_frame().payload for _ in range(2)] == [b"one", b"two"]


class TestSlowPeers:
    def test_others_are_not_held_up_and_who_never_reads_is_cut(self, server_class: type) -> None:
        class Impatient(Quiet):
            compression = None
            send_timeout = 0.5

        message = b"x" * 500_000
        with running_server(Impatient, server_class=server_class) as running:
            with raw_client(running) as deaf, WebSocketClient(running.url()) as peer:
                wait_until(lambda: len(running.server.connections) == 2)
                received = run_in_thread(lambda: [peer.recv(SOON) for _ in range(20)])
                for _ in range(20):
                    running.server.broadcast(message)
                assert received.result() == [message] * 20
                wait_until(lambda: len(running.server.connections) == 1)
                assert deaf is not None

    def test_the_rest_of_a_message_comes_before_the_next(self, server_class: type) -> None:
        class Handler(Quiet):
            compression = None

        messages = [bytes([number]) * 300_000 for number in range(20)]
        with running_server(Handler, server_class=server_class) as running, clients(running, 2) as peers:
            wait_until(lambda: len(running.server.connections) == 2)
            sending = run_in_thread(lambda: [running.server.broadcast(message) for message in messages])
            received = [run_in_thread(lambda peer=peer: [peer.recv(SOON) for _ in messages]) for peer in peers]
            assert sending.result() == [2] * 20
            assert [each.result() for each in received] == [messages] * 2


def test_what_is_broadcast_is_traced(server_class: type) -> None:
    with running_server(Quiet, server_class=server_class) as running, clients(running, 2, compression=None) as peers:
        wait_until(lambda: len(running.server.connections) == 2)
        told: list[TracedFrame] = []
        running.server.connections[0].trace(told.append)
        assert running.server.broadcast("seen") == 2
        assert [peer.recv(SOON) for peer in peers] == ["seen"] * 2
        wait_until(lambda: [frame.payload for frame in told] == [b"seen"])

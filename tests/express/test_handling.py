"""A handler: its hooks are called, and its pool takes turns, the same both ways."""

from __future__ import annotations

import zlib
from contextlib import ExitStack

import pytest

from websocketserver.protocol.deflate import TAIL
from websocketserver.pump import gatherers

from ..pools import tenants
from ..serving import events, leave
from ..support import MASK, RawFrame, frame, raw_client, wait_until
from .kit import Overriding, Pinged, ask, ask_together, counted, pooling, turning


def inflated(answer: RawFrame) -> str:
    """Return what a message says that refers to none before it."""
    assert answer.rsv in (0, 4)
    content = zlib.decompressobj(wbits=-15).decompress(answer.payload + TAIL) if answer.rsv else answer.payload
    return content.decode()


@pytest.mark.usefixtures("way", "kind")
class TestHandling:
    def test_messages_are_answered(self) -> None:
        with turning() as running, raw_client(running) as one, raw_client(running) as other:
            for number in range(20):
                ask(one, f"one {number}")
                ask(other, "grüß")
            wait_until(lambda: [counted(each) for each in running.server.connections] == [(20, 20)] * 2)

    def test_what_comes_together_is_gathered_and_in_order(self) -> None:
        with turning() as running, raw_client(running) as peer:
            texts = [f"{number}" for number in range(30)]
            for _ in range(5):
                ask(peer, "alone")
                peer.send(b"".join(frame(1, text.encode(), key=MASK) for text in texts))
                assert [peer.read_frame().payload.decode() for _ in texts] == texts
            assert events(running) == ["open", *(["alone", *texts] * 5)]

    def test_what_comes_together_may_be_of_all_kinds(self) -> None:
        with turning(Pinged) as running, raw_client(running) as peer:
            ask(peer, "first")
            for _ in range(3):
                data = [frame(1, b"one", key=MASK), frame(9, b"ping", key=MASK), frame(2, b"two", key=MASK)]
                data += [frame(1, b"th", fin=False, key=MASK), frame(10, b"pong", key=MASK), frame(0, b"ree", key=MASK)]
                peer.send(b"".join(data) + frame(1, b"four", key=MASK)[:-1])
                answers = [peer.read_frame().payload for _ in range(4)]
                assert answers == [b"ping", b"one", b"two", b"three"]  # all that is here is looked at first
                peer.send(frame(1, b"four", key=MASK)[-1:])
                assert peer.read_frame().payload == b"four"
            once = ["one", ("ping", b"ping"), b"two", ("pong", b"pong"), "three", "four"]
            assert events(running) == ["open", "first", *once * 3]

    def test_compressed_ones_come_alone_and_together_and_with_others(self) -> None:
        headers: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
        with turning(Pinged) as running, raw_client(running, headers=headers) as peer:
            compress = zlib.compressobj(wbits=-15)

            def compressed(text: str) -> bytes:
                data = compress.compress(text.encode()) + compress.flush(zlib.Z_SYNC_FLUSH)
                return frame(1, data[:-4], rsv=4, key=MASK)

            texts = ["grüß", "x" * 1000, "grüß again", "y" * 5000, ""]
            for text in texts:
                peer.send(compressed(text))
                assert inflated(peer.read_frame()) == text
            together = [*texts, "plain", "last"]
            for _ in range(3):
                data = [*map(compressed, texts), frame(9, b"ping", key=MASK), frame(1, b"plain", key=MASK)]
                peer.send(b"".join(data) + compressed("last"))
                answers = [peer.read_frame() for _ in range(len(together) + 1)]
                assert [inflated(answer) for answer in answers if answer.opcode == 1] == together
            assert events(running) == ["open", *texts, *[*texts, ("ping", b"ping"), *together[-2:]] * 3]
            peer.send(frame(1, b"\xff" * 10, rsv=4, key=MASK))
            assert peer.read_close() == 1007

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a thread that ends so
    @pytest.mark.parametrize("message, code", [("fail", 1011), ("exit", 1001), ("close", 1000)])
    def test_a_hook_that_ends_it_among_what_comes_together(self, message: str, code: int) -> None:
        """What it has gathered leaves before the Close; where it merely closed, the others are handled too."""
        with turning(errors_expected=True) as running, raw_client(running) as peer:
            ask(peer, "well")
            for _ in range(2):
                ask_together(peer, 3)
            texts = ["a", "b", message, "c", "d"]
            peer.send(b"".join(frame(1, text.encode(), key=MASK) for text in texts))
            assert [peer.read_frame().payload for _ in range(2)] == [b"a", b"b"]
            assert peer.read_close() == code
            leave(peer, code)
            wait_until(lambda: isinstance(events(running)[-1], tuple))
            handled = texts if message == "close" else texts[:3]
            assert events(running) == ["open", "well", *"012012", *handled, (code, "")]
            assert len(running.errors) == (message == "fail")
            wait_until(lambda: not running.server.connections)
            assert not gatherers

    def test_hooks_that_do_more_among_what_comes_together(self) -> None:
        with turning() as running, raw_client(running) as peer, raw_client(running) as other:
            ask(peer, "well")
            ask(other, "well")
            for _ in range(2):
                texts = ["a", "broadcast", "two", "broadcast"]
                peer.send(b"".join(frame(1, text.encode(), key=MASK) for text in texts))
                answers = ["a", "to all", "broadcast", "one", "two", "to all", "broadcast"]
                assert [peer.read_frame().payload.decode() for _ in answers] == answers
                assert [other.read_frame().payload for _ in range(2)] == [b"to all"] * 2
            texts = ["receive", "taken", "other", "last"]
            peer.send(b"".join(frame(1, text.encode(), key=MASK) for text in texts))
            assert [peer.read_frame().payload for _ in range(3)] == [b"receive", b"other", b"last"]
            assert events(running)[-4:] == ["receive", ("received", "taken"), "other", ("other", "last")]

    def test_pieces_pings_and_binary(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "first")
            peer.frame(1, b"he", fin=False)
            peer.frame(9, b"ping")
            assert peer.read_frame()[:2] == (10, b"ping")
            peer.frame(0, b"llo")
            assert peer.read_frame().payload == b"hello"
            peer.frame(2, b"\x00\xff")
            assert peer.read_frame()[:2] == (2, b"\x00\xff")
            for byte in frame(1, b"slowly", key=MASK):
                peer.send(bytes([byte]))
            assert peer.read_frame().payload == b"slowly"
            assert events(running) == ["open", "first", "hello", b"\x00\xff", "slowly"]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # a thread that ends so
    @pytest.mark.parametrize("message, code", [("fail", 1011), ("exit", 1001)])
    def test_a_hook_that_fails(self, message: str, code: int) -> None:
        with turning(errors_expected=True) as running, raw_client(running) as peer, raw_client(running) as other:
            ask(peer, "well")
            peer.frame(1, message.encode())
            assert peer.read_close() == code
            leave(peer, code)
            wait_until(lambda: len(events(running)) == 5)
            ask(other, "the pool goes on")
            assert sorted(events(running), key=str) == sorted(
                ["open", "open", "well", message, (code, ""), "the pool goes on"], key=str
            )
            assert [(type(error), error.args) for error in running.errors] == (
                [(ValueError, ("fail",))] if message == "fail" else []
            )
            if running.errors:  # where it failed is told, and nothing of that is kept
                trace = running.errors[0].__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                assert trace is not None and trace.tb_frame.f_code.co_name == "on_message"
                assert running.errors[0].__context__ is None

    def test_a_hook_that_finds_its_connection_closed_ends_as_usual(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            peer.frame(1, b"close")
            assert peer.read_close() == 1000
            leave(peer)
            wait_until(lambda: events(running)[-1] == (1000, ""))
            assert events(running) == ["open", "well", "close", (1000, "")]
            wait_until(lambda: not running.server.connections)

    def test_a_peer_that_leaves(self) -> None:
        with turning() as running, raw_client(running) as peer, raw_client(running) as other:
            ask(peer, "well")
            leave(peer, 1000, "bye")
            assert peer.read_close() == 1000
            ask(other, "well")
            other.sock.close()
            wait_until(lambda: not running.server.connections)
            assert set(events(running)) == {"open", "well", (1000, "bye"), (1006, "the stream ended without a Close")}

    def test_hooks_that_are_replaced_that_broadcast_and_that_send_twice(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "broadcast", "to all")
            assert peer.read_frame().payload == b"broadcast"
            ask(peer, "two", "one")
            assert peer.read_frame().payload == b"two"
            ask(peer, "other")
            ask(peer, "new")
            assert events(running) == ["open", "broadcast", "two", "other", ("other", "new")]

    def test_what_others_have_gathered_leaves_behind_the_answer(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            (connection,) = running.server.connections
            output = connection._output
            with output.lock:  # as a broadcast of a host's
                output.gathered += frame(1, b"gathered")
            ask(peer, "next", "gathered")
            assert peer.read_frame().payload == b"next"

    def test_text_is_str_though_somebody_else_has_asked_for_bytes(self) -> None:
        with turning() as running, raw_client(running) as peer:
            for text in ("well", "next", "and \N{SNOWMAN}"):
                ask(peer, text)
                assert events(running)[-1] == text
                (connection,) = running.server.connections
                if running.server.__class__.__name__.startswith("Threading"):
                    wait_until(lambda: connection._pumping)  # noqa: B023
                with pytest.raises(TimeoutError):
                    connection.recv(timeout=0, decode=False)

    def test_a_stream_of_bytes_that_is_none(self) -> None:
        with turning() as running, raw_client(running) as peer:
            ask(peer, "well")
            peer.frame(1, b"\xff")
            assert peer.read_close() == 1007
            leave(peer, 1007)
            wait_until(lambda: len(events(running)) == 3)
            assert events(running)[:2] == ["open", "well"]
            assert events(running)[2][1] == "text is not valid UTF-8"

    def test_many_at_once(self) -> None:
        with turning() as running, ExitStack() as stack:
            peers = [stack.enter_context(raw_client(running)) for _ in range(20)]
            for number in range(30):
                for peer in peers:
                    peer.frame(1, f"{number}".encode())
                assert {peer.read_frame().payload for peer in peers} == {f"{number}".encode()}


@pytest.mark.usefixtures("way")
class TestTurnsInAPool:
    def test_end(self) -> None:
        with pooling() as running, raw_client(running) as one, raw_client(running) as other:
            for number in range(20):
                ask(one, f"one {number}")
                ask(other, "x")
            wait_until(lambda: [each._accepted.thread for each in tenants(running)] == [None, None])
            wait_until(lambda: running.server._pool._leader.tenant is None)
            assert not any(each._connection._pumping for each in tenants(running))

    def test_a_hook_that_blocks_keeps_no_other(self) -> None:
        with pooling() as running, raw_client(running) as peer, raw_client(running) as other:
            gate = running.server.RequestHandlerClass.gate
            for _ in range(3):
                peer.frame(1, b"wait")
                wait_until(lambda: sum(each.away for each in tenants(running)) == 1)
                peer.frame(1, b"behind")
                for number in range(5):
                    ask(other, f"{number}")
                gate.set()
                assert [peer.read_frame().payload for _ in range(2)] == [b"wait", b"behind"]
                gate.clear()
                wait_until(lambda: not any(each.away for each in tenants(running)))

    def test_a_handler_that_serves_in_its_own_way(self) -> None:
        with pooling(Overriding) as running, raw_client(running) as peer:
            for _ in range(3):
                ask(peer, "x")
            wait_until(lambda: events(running).count("ready") == 3)

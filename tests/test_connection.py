"""WebSocketConnection: what its users see, the same on both sides."""

from __future__ import annotations

import array
import signal
import socket
import threading
import time

import pytest

from websocketserver.connection import Role, State, WebSocketConnection
from websocketserver.counters import Stats
from websocketserver.exceptions import ConnectionClosed, ConnectionClosedOK
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.protocol.events import Fragment, Ping
from websocketserver.settings import Settings

from .support import MS, SOON, frame, half, pipe, run_in_thread, wait_until

KEY = b"\x01\x02\x03\x04"
MB = 1 << 20


Ends = tuple[WebSocketConnection, WebSocketConnection]


class TestMessages:
    @pytest.mark.parametrize("message", ["", "text", "häßlich 🙂", b"", b"\x00\xff", "x" * 200_000, bytes(200_000)])
    def test_go_both_ways(self, ends: Ends, message: str | bytes) -> None:
        for sender, receiver in (ends, ends[::-1]):
            sending = run_in_thread(sender.send, message)
            assert receiver.recv(SOON) == message
            sending.result()

    @pytest.mark.parametrize("size", [125, 126, 127, 16383, 16384, 16385, 65535, 65536, 65537])
    def test_of_every_length_encoding(self, ends: Ends, size: int) -> None:
        data = bytes(range(256)) * (size // 256 + 1)
        for sender, receiver in (ends, ends[::-1]):
            sending = run_in_thread(sender.send, data[:size])
            assert receiver.recv(SOON) == data[:size]
            sending.result()

    @pytest.mark.parametrize(
        "message, expected",
        [
            (bytearray(b"abc"), b"abc"),
            (memoryview(b"abc"), b"abc"),
            (memoryview(bytearray(b"abc")), b"abc"),
            (memoryview(b"abcdef")[1:4], b"bcd"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (memoryview(b"abc")[::-1], b"cba"),
            (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
            (memoryview(array.array("d")), b""),
            (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
            (memoryview(b""), b""),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_bytes_of_every_kind(self, message: bytearray | memoryview, expected: bytes) -> None:
        with pipe() as (client, server):
            client.send(message)
            assert server.recv(SOON) == expected
            server.send(message)
            assert client.recv(SOON) == expected

    def test_bytearray_is_free_again_after_the_send(self) -> None:
        with pipe() as (client, server):
            message = bytearray(100_000)
            sending = run_in_thread(server.send, message)
            assert client.recv(SOON) == message
            sending.result()
            message += b"x"  # BufferError if anybody still looked at it

    def test_str_subclass_and_bytes_subclass(self) -> None:
        class Text(str):
            pass

        class Data(bytes):
            pass

        with pipe() as (client, server):
            client.send(Text("x"))
            client.send(Data(b"y"))
            assert [server.recv(SOON), server.recv(SOON)] == ["x", b"y"]

    @pytest.mark.parametrize("message", [None, 1, ["x"], {"a": 1}, object()])
    def test_other_types_are_refused(self, message: object) -> None:
        with pipe() as (client, server):
            with pytest.raises(TypeError, match="must be str, bytes, bytearray or memoryview"):
                client.send(message)  # type: ignore[arg-type]
            with pytest.raises(UnicodeEncodeError):
                client.send("\ud800")
            assert client._output.bytes_sent == 0
            client.send("fine")
            assert server.recv(SOON) == "fine"

    def test_text_says_what_the_message_is(self) -> None:
        with half() as (connection, peer):
            connection.send(b"text", text=True)
            connection.send("binary", text=False)
            connection.send("text", text=True)
            assert [peer.read_frame()[:2] for _ in range(3)] == [(1, b"text"), (2, b"binary"), (1, b"text")]

    def test_compress_overrides_the_extension(self) -> None:
        settings = Settings(compression=PerMessageDeflate(threshold=1000))
        with pipe(client=settings, server=settings, negotiate_extensions=True) as (client, server):
            for compress, expected in ((None, 3000), (False, 3000), (True, 100)):
                before = client.stats.bytes_sent
                client.send("x" * 900, compress=compress)
                assert server.recv(SOON) == "x" * 900
                sent = client.stats.bytes_sent - before
                assert sent < expected
                assert compress or sent > 900

    def test_fragment_size_splits(self) -> None:
        with half(settings=Settings(fragment_size=4)) as (connection, peer):
            connection.send("abcdefghij")
            frames = [peer.read_frame() for _ in range(3)]
            assert [(got.opcode, got.payload, got.fin) for got in frames] == [
                (1, b"abcd", False),
                (0, b"efgh", False),
                (0, b"ij", True),
            ]

    def test_client_masks_with_a_fresh_key_and_the_server_does_not(self) -> None:
        """5.1, 5.3."""
        with half(Role.CLIENT) as (connection, peer):
            wire = set()
            for _ in range(3):
                connection.send(bytes(20))
                wire.add(peer.sock.recv(26))
            assert len(wire) == 3
        with half() as (connection, peer):
            connection.send("x")
            assert not peer.read_frame().masked


class TestRecv:
    def test_decode_false_gives_text_as_bytes(self) -> None:
        with half() as (connection, peer):
            for _ in range(2):
                peer.frame(1, "häßlich".encode())
            assert connection.recv(SOON, decode=False) == "häßlich".encode()
            assert connection.recv(SOON) == "häßlich"

    def test_decode_false_checks_all_the_same(self) -> None:
        with half() as (connection, peer):
            peer.frame(1, b"\xff")
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON, decode=False)
            assert peer.read_close() == 1007

    def test_text_in_the_inbox_comes_as_asked(self) -> None:
        with half() as (connection, peer):
            for _ in range(2):
                peer.frame(1, b"text")
            peer.frame(1, b"te", fin=False)
            peer.frame(0, b"xt")
            peer.frame(10, b"p")
            connection.ping(b"p").wait(SOON)  # which has all read as str
            assert connection.recv(0, decode=False) == b"text"
            assert connection.recv(0) == "text"
            assert connection.recv(0) == "text"

    def test_what_came_with_the_handshake_comes_first(self) -> None:
        received = frame(1, b"first", key=KEY) + frame(1, b"second", key=KEY)[:5]
        with half(received=received) as (connection, peer):
            assert connection.recv(0) == "first"
            peer.send(frame(1, b"second", key=KEY)[5:])
            assert connection.recv(SOON) == "second"

    def test_fragments(self) -> None:
        with half(fragments=True) as (connection, peer):
            peer.frame(1, b"one", fin=False)
            peer.frame(0, b"two")
            assert connection.next_event(SOON) == Fragment("one", True, False)
            assert connection.next_event(SOON) == Fragment("two", True, True)


class TestIteration:
    @pytest.mark.parametrize("code", [1000, 1001])
    def test_ends_with_a_normal_closure(self, code: int) -> None:
        with half() as (connection, peer):
            peer.frame(1, b"one")
            peer.frame(2, b"two")
            peer.close_frame(code)
            assert list(connection) == ["one", b"two"]

    def test_raises_otherwise(self) -> None:
        with half() as (connection, peer):
            peer.frame(1, b"one")
            peer.close_frame(1011, "broken")
            got = []
            with pytest.raises(ConnectionClosed, match="broken"):
                for message in connection:
                    got.append(message)
            assert got == ["one"]

    def test_may_be_taken_up_again(self) -> None:
        with half() as (connection, peer):
            for number in range(4):
                peer.frame(1, b"%d" % number)
            for message in connection:
                assert message == "0"
                break
            assert connection.recv(SOON) == "1"
            messages = iter(connection)
            assert [next(messages), next(messages)] == ["2", "3"]


class TestClose:
    @pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, -1, 1 << 20])
    def test_codes_that_may_not_be_sent(self, code: int) -> None:
        with half() as (connection, _):
            for close in (connection.close, connection.start_close):
                with pytest.raises(ValueError, match="close code"):
                    close(code)
            assert connection.state is State.OPEN

    def test_reasons_that_may_not_be_sent(self) -> None:
        with half() as (connection, _):
            with pytest.raises(ValueError, match="123"):
                connection.close(1000, "ä" * 62)
            with pytest.raises(TypeError):
                connection.close(1000, b"bytes")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                connection.close("1000")  # type: ignore[arg-type]
            assert connection.state is State.OPEN

    def test_everything_raises_after_it(self, ends: Ends) -> None:
        client, server = ends
        closing = run_in_thread(server.close)
        client.close(1000, "done")
        closing.result()
        for end in ends:
            for call in (end.recv, lambda end=end: end.send("x"), end.ping, end.pong, end.next_event):
                with pytest.raises(ConnectionClosedOK):
                    call()
            assert list(end) == []
            assert end.close_code == 1000

    def test_error_tells_both_closes(self) -> None:
        with half() as (connection, peer):
            peer.close_frame(4001, "theirs")
            with pytest.raises(ConnectionClosed, match="received 4001 theirs, sent 4001"):
                connection.recv(SOON)

    def test_sender_that_finds_the_stream_gone_learns_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The peer's Close was here, and nobody had read it."""
        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 1000.0)
        for call in ("send", "ping", "pong"):
            with half() as (connection, peer):
                peer.frame(1, b"last words")
                peer.close_frame(1000, "bye")
                peer.sock.close()
                with pytest.raises(ConnectionClosedOK, match="bye"):
                    getattr(connection, call)(b"x")
                assert connection.recv() == "last words"
                with pytest.raises(ConnectionClosedOK):
                    connection.recv()

    def test_zero_does_not_wait(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            start = time.monotonic()
            connection.close(timeout=0)
            assert time.monotonic() - start < SOON / 2
            assert connection.state is State.CLOSED
            assert peer.read_close() == 1000


class TestWith:
    def read_code(self, error: type[BaseException] | None) -> int:
        with half(settings=Settings(close_timeout=20 * MS)) as (connection, peer):
            try:
                with connection as same:
                    assert same is connection
                    if error is not None:
                        raise error
            except BaseException as caught:
                assert type(caught) is error
            assert connection.state is State.CLOSED
            return peer.read_close()

    def test_closes(self) -> None:
        assert self.read_code(None) == 1000

    def test_says_that_something_went_wrong(self) -> None:
        assert self.read_code(ZeroDivisionError) == 1011

    def test_goes_away_on_an_interrupt(self) -> None:
        assert self.read_code(KeyboardInterrupt) == 1001

    def test_is_quick_on_an_interrupt(self) -> None:
        with half(settings=Settings(close_timeout=60)) as (connection, peer):
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt), connection:
                raise KeyboardInterrupt
            assert time.monotonic() - start < SOON
            assert peer.read_close() == 1001

    def test_connection_closed_is_no_failure(self) -> None:
        with half() as (connection, peer):
            peer.close_frame(1000)
            peer.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionClosedOK), connection:
                connection.recv(SOON)
                connection.recv(SOON)
            assert peer.read_close() == 1000


class TestLooking:
    def test_state_and_close_code(self) -> None:
        with half() as (connection, peer):
            assert (connection.state, connection.close_code, connection.close_reason) == (State.OPEN, None, None)
            connection.start_close()
            assert (connection.state, connection.close_code) == (State.CLOSING, None)
            peer.close_frame(1000, "bye")
            peer.sock.shutdown(socket.SHUT_WR)
            connection.close()
            assert (connection.state, connection.close_code, connection.close_reason) == (State.CLOSED, 1000, "bye")

    def test_aborted(self) -> None:
        with half() as (connection, _):
            connection.abort()
            assert (connection.state, connection.close_code) == (State.CLOSED, 1006)
            assert connection.close_reason
            wait_until(lambda: connection.fileno() == -1)

    def test_stats(self) -> None:
        with pipe() as (client, server):
            for _ in range(3):
                client.send("1234")
            for _ in range(3):
                server.recv(SOON)
            assert client.stats[:4] == (0, 30, 0, 3)
            assert server.stats[:4] == (30, 0, 3, 0)

    def test_stats_of_pings(self) -> None:
        with pipe() as (client, server):
            assert client.stats.latency is None
            waiter = client.ping()
            run_in_thread(waiter.wait, SOON)
            with pytest.raises(TimeoutError):
                server.recv(50 * MS)
            wait_until(lambda: client.latency is not None)
            assert (client.stats.pings_sent, client.stats.pings_received) == (1, 0)
            assert (server.stats.pings_sent, server.stats.pings_received) == (0, 1)
            assert client.stats.latency == waiter.round_trip

    def test_stats_of_the_end(self) -> None:
        with half() as (connection, peer):
            first = connection.stats
            assert (first.close_received, first.close_sent) == (None, None)
            wait_until(lambda: connection.stats.duration > first.duration)
            peer.frame(8)
            peer.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionClosed):
                connection.recv(SOON)
            connection.close(timeout=SOON)
            last = connection.stats
            assert (last.close_received, last.close_sent) == (1005, 1005)
            assert connection.stats.duration == last.duration > 0
            assert isinstance(last, Stats)

    def test_addresses_outlive_the_socket(self) -> None:
        with pipe(tcp=True) as (client, server):
            assert client.local_address == server.remote_address
            assert client.remote_address == server.local_address
            client.abort()
            assert client.remote_address == server.local_address

    def test_repr(self) -> None:
        with pipe(tcp=True) as (client, _):
            assert "client" in repr(client)
            assert "open" in repr(client)

    def test_peer_that_is_gone_already(self) -> None:
        ours, theirs = socket.socketpair()
        ours.shutdown(socket.SHUT_RDWR)
        theirs.close()
        connection = WebSocketConnection(ours, role=Role.SERVER)
        with pytest.raises(ConnectionClosed):
            connection.recv(SOON)
        connection.close()


class Waited:
    """A lock that tells whether somebody waits for it."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.release = lock.release
        self.locked = lock.locked
        self.waiting = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.waiting = blocking
        return self.lock.acquire(blocking, timeout)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for threads")
@pytest.mark.usefixtures("no_timer")  # who reads and waits is the main thread, or the signal would come too early
class TestInterrupts:
    """Ctrl-C loses nothing while waiting, and never leaves half a frame."""

    @pytest.fixture(autouse=True, params=["main thread", "another thread"])
    def receiver(self, request: pytest.FixtureRequest) -> None:
        """Who gets the signal. Only in the main thread does it end a wait; a signal just before one does not either."""
        self.to_main = request.param == "main thread"

    def interrupt_when(self, condition: object) -> object:
        """Send SIGINT to this, the main thread, or to another, once the condition holds."""
        main = threading.main_thread().ident
        assert main is not None

        def interrupt() -> None:
            wait_until(condition)  # type: ignore[arg-type]
            signal.pthread_kill(main if self.to_main else threading.get_ident(), signal.SIGINT)

        return run_in_thread(interrupt)

    def test_while_waiting_in_recv_loses_nothing(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            peer.send(frame(1, b"in pieces", key=KEY)[:7])
            interrupting = self.interrupt_when(lambda: connection._idle)
            with pytest.raises(KeyboardInterrupt):
                connection.recv()
            interrupting.result()  # type: ignore[attr-defined]
            assert connection.state is State.OPEN
            peer.send(frame(1, b"in pieces", key=KEY)[7:])
            assert connection.recv(SOON) == "in pieces"
            connection.send("x")
            assert peer.read_frame().payload == b"x"

    def test_while_waiting_for_the_first_byte(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            interrupting = self.interrupt_when(lambda: connection._pumping)
            with pytest.raises(KeyboardInterrupt):
                connection.recv()
            interrupting.result()  # type: ignore[attr-defined]
            assert connection.state is State.OPEN
            peer.frame(1, b"all of it")
            assert connection.recv() == "all of it"

    def test_while_waiting_for_another_receiver(self) -> None:
        with half() as (connection, peer):
            receiving = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            interrupting = self.interrupt_when(lambda: connection._waiting)
            with pytest.raises(KeyboardInterrupt):
                connection.recv()
            interrupting.result()  # type: ignore[attr-defined]
            assert connection._waiting == 0
            peer.frame(1, b"one")
            peer.frame(1, b"two")
            assert receiving.result() == "one"
            assert connection.recv(SOON) == "two"

    def test_while_waiting_for_a_pong(self) -> None:
        with half() as (connection, peer):
            waiter = connection.ping(b"p")
            interrupting = self.interrupt_when(lambda: connection._idle)
            with pytest.raises(KeyboardInterrupt):
                waiter.wait()
            interrupting.result()  # type: ignore[attr-defined]
            peer.frame(10, b"p")
            assert waiter.wait(SOON) >= 0

    def test_while_waiting_for_the_write_lock(self, tls: bool) -> None:
        with half(tls=tls) as (connection, peer):
            sending = run_in_thread(connection.send, bytes(4 * MB))
            wait_until(lambda: connection._output.lock.locked() and connection._output.bytes_sent)
            lock = connection._output.lock = Waited(connection._output.lock)  # type: ignore[assignment]
            interrupting = self.interrupt_when(lambda: lock.waiting)
            with pytest.raises(KeyboardInterrupt):
                connection.send("x")
            interrupting.result()  # type: ignore[attr-defined]
            assert connection.state is State.OPEN
            assert len(peer.read_frame().payload) == 4 * MB
            sending.result()

    @pytest.mark.parametrize("call", ["send", "ping", "behind pending output"])
    def test_in_a_write_aborts(self, call: str) -> None:
        with half() as (connection, _):
            with pytest.raises(TimeoutError):
                while True:
                    connection.send(bytes(1000), timeout=0)
            if call == "behind pending output":
                connection._on_ping(Ping(b"p"))
            waits: list[bool] = []
            wait = connection._transport.wait
            connection._transport.wait = lambda *args: waits.append(True) or wait(*args)  # type: ignore[method-assign]
            interrupting = self.interrupt_when(lambda: waits)
            with pytest.raises(KeyboardInterrupt):
                connection.ping() if call == "ping" else connection.send("x")
            interrupting.result()  # type: ignore[attr-defined]
            assert connection.state is State.CLOSED
            wait_until(lambda: connection.fileno() == -1)

    def test_while_reading_aborts(self) -> None:
        """Between the read and the parser bytes could be lost, which nobody would notice."""
        with half() as (connection, peer):
            receive = connection._transport.receive

            def interrupted(*args: int) -> bytes | None:
                receive(*args)
                raise KeyboardInterrupt

            connection._transport.receive = interrupted  # type: ignore[method-assign]
            peer.frame(1, b"lost")
            with pytest.raises(KeyboardInterrupt):
                connection.recv(SOON)
            assert connection.state is State.CLOSED
            assert not connection._pumping

    def test_in_close_cuts(self) -> None:
        with half(settings=Settings(close_timeout=60)) as (connection, _):
            interrupting = self.interrupt_when(lambda: connection._idle)
            with pytest.raises(KeyboardInterrupt):
                connection.close()
            interrupting.result()  # type: ignore[attr-defined]
            assert connection.state is State.CLOSED
            wait_until(lambda: connection.fileno() == -1)

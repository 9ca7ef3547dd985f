"""Transports: byte streams, plain and TLS, that wait only when asked to."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from websocketserver.deadline import Deadline
from websocketserver.transport import (
    SLICE,
    PlainTransport,
    TlsTransport,
    Transport,
    accept,
    make_transport,
    poll,
    same_kind,
)

from .support import MS, SOON, _sockets, run_in_thread, socket_pair

NEVER = Deadline(None)
NOW = Deadline(0)


@contextmanager
def transports(tls: bool, tcp: bool = False) -> Iterator[tuple[Transport, Transport]]:
    sockets = _sockets(tls=tls, tcp=tcp)
    client, server = (make_transport(sock) for sock in sockets)
    try:
        yield client, server
    finally:
        client.close()
        server.close()


@pytest.fixture
def ends(tls: bool) -> Iterator[tuple[Transport, Transport]]:
    with transports(tls) as pair:
        yield pair


def receive(transport: Transport, size: int) -> bytes:
    """Return exactly so many bytes."""
    data = b""
    deadline = Deadline(SOON)
    while len(data) < size:
        assert transport.wait(True, False, deadline)[0], f"{len(data)} of {size} bytes"
        piece = transport.receive(size - len(data))
        assert piece != b""
        data += piece or b""
    return data


def settle(transport: Transport) -> None:
    """Take in what TLS says after its handshake, so that nothing is there."""
    while transport.wait(True, False, Deadline(50 * MS))[0]:
        assert transport.receive(1) is None


def fill(transport: Transport) -> int:
    """Send until the socket takes no more; return how many bytes it took."""
    sent, block = 0, bytes(100_000)
    while taken := transport.send([block]):
        sent += taken
    return sent


Ends = tuple[Transport, Transport]


class TestBoth:
    def test_what_is_sent_arrives(self, ends: Ends) -> None:
        client, server = ends
        assert client.send([b"to the server"]) == 13
        assert receive(server, 13) == b"to the server"
        assert server.send([b"to the ", b"client"]) == 13
        assert receive(client, 13) == b"to the client"

    def test_what_is_kept_back_leaves_with_the_end(self, ends: Ends) -> None:
        client, server = ends
        assert server.send([b"the ", b"last"], True) in (4, 8)  # TLS takes one record at a time
        server.shutdown_write()
        assert receive(client, 4) == b"the "

    def test_receive_returns_none_where_nothing_is(self, ends: Ends) -> None:
        client, server = ends
        settle(client)
        assert client.receive(100) is None
        assert client.receive_into(memoryview(bytearray(100))) is None
        assert server.receive(100) is None

    def test_receive_into_fills_the_buffer(self, ends: Ends) -> None:
        client, server = ends
        client.send([b"0123456789"])
        buffer = bytearray(4)
        assert server.wait(True, False, Deadline(SOON))[0]
        assert server.receive_into(memoryview(buffer)) == 4
        assert buffer == b"0123"
        assert receive(server, 6) == b"456789"

    def test_input_that_was_taken_from_the_descriptor_but_not_read_counts_as_readable(self, ends: Ends) -> None:
        client, server = ends
        client.send([b"0123456789"])
        assert receive(server, 1) == b"0"
        assert server.wait(True, False, NOW) == (True, False)
        assert receive(server, 9) == b"123456789"
        assert server.wait(True, False, NOW) == (False, False)

    def test_wait_ends_with_the_deadline(self, ends: Ends) -> None:
        settle(ends[0])
        start = time.monotonic()
        assert ends[0].wait(True, False, Deadline(20 * MS)) == (False, False)
        assert time.monotonic() - start >= 20 * MS

    def test_wait_tells_which(self, ends: Ends) -> None:
        client, server = ends
        settle(client)
        assert client.wait(True, True, NEVER) == (False, True)
        server.send([b"x"])
        assert client.wait(True, False, Deadline(SOON)) == (True, False)
        fill(client)
        assert client.wait(True, True, Deadline(SOON)) == (True, False)
        assert client.wait(False, True, NOW) == (False, False)

    def test_full_socket_takes_nothing_and_loses_nothing(self, ends: Ends) -> None:
        client, server = ends
        data = b"".join(number.to_bytes(4, "big") for number in range(500_000))
        view, sent, got = memoryview(data), 0, bytearray()
        refused = 0
        while len(got) < len(data):
            taken = client.send([view[sent:]]) if sent < len(data) else 0
            sent += taken
            if not taken:
                refused += 1
                while piece := server.receive(1 << 16):
                    got += piece
        assert bytes(got) == data
        assert refused > 1

    def test_many_buffers(self, ends: Ends) -> None:
        client, server = ends
        buffers = [bytes([number % 256]) * 100 for number in range(1000)]
        whole = b"".join(buffers)
        sent = 0
        handle = run_in_thread(receive, server, len(whole))
        while sent < len(whole):
            assert client.wait(False, True, Deadline(SOON))[1]
            sent += client.send([buffer for buffer in (whole[sent : sent + 7], whole[sent + 7 :]) if buffer])
        assert handle.result() == whole

    def test_end_of_the_stream(self, ends: Ends) -> None:
        client, server = ends
        client.send([b"last"])
        client.shutdown_write()
        assert receive(server, 4) == b"last"
        assert server.wait(True, False, Deadline(SOON))[0]
        assert server.receive(100) == b""

    def test_cut_stream_ends_for_the_peer_and_takes_nothing(self, ends: Ends) -> None:
        client, server = ends
        client.shutdown()
        client.shutdown()  # again does no harm
        client.shutdown_write()
        with pytest.raises(OSError):
            while client.send([b"x"]):
                pass
        assert server.wait(True, False, Deadline(SOON))[0]
        assert server.receive(100) == b""

    def test_cut_wakes_whoever_waits(self, ends: Ends) -> None:
        settle(ends[0])
        waiting = run_in_thread(ends[0].wait, True, False, Deadline(SOON))
        ends[0].shutdown()
        assert waiting.result()[0]

    def test_cut_wakes_whoever_waits_for_room(self, ends: Ends) -> None:
        fill(ends[0])
        waiting = run_in_thread(ends[0].wait, False, True, Deadline(SOON))
        ends[0].shutdown()
        assert waiting.result()[1]

    def test_discard_forgets(self, ends: Ends) -> None:
        client, server = ends
        client.send([b"x" * 100])
        assert server.wait(True, False, Deadline(SOON))[0]
        assert (server.discard(1 << 16) or 0) >= 100
        assert server.discard(1 << 16) is None
        client.shutdown()
        assert server.wait(True, False, Deadline(SOON))[0]
        assert server.discard(1 << 16) == 0

    def test_descriptor_is_given_back(self, tls: bool) -> None:
        with transports(tls) as (client, _):
            assert client.fileno() >= 0
            client.close()
            assert client.fileno() == -1

    def test_user_timeouts_of_the_socket_do_not_count(self, tls: bool) -> None:
        ours, theirs = _sockets(tls=tls, tcp=False)
        ours.settimeout(0.001)
        with ours, theirs:
            transport = make_transport(ours)
            settle(transport)
            assert transport.receive(1) is None  # and no TimeoutError
            fill(transport)
            assert transport.send([b"x" * SLICE]) == 0


class TestPlain:
    def test_blocking_receive_waits(self) -> None:
        with transports(False) as (client, server):
            waiting = run_in_thread(client.receive, 100, True)
            server.send([b"x"])
            assert waiting.result() == b"x"

    def test_cut_wakes_a_blocking_receive(self) -> None:
        with transports(False) as (client, _):
            waiting = run_in_thread(client.receive, 100, True)
            client.shutdown()
            assert waiting.result() == b""

    def test_small_messages_leave_at_once_over_tcp(self) -> None:
        ours, theirs = socket_pair(tcp=True)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        with ours, theirs:
            assert isinstance(make_transport(ours), PlainTransport)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_reset_raises(self) -> None:
        with transports(False, tcp=True) as (client, server):
            sock = server._sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            assert client.wait(True, False, Deadline(SOON))[0]
            with pytest.raises(ConnectionResetError):
                client.receive(100)


class ScriptedTls(ssl.SSLSocket):
    """An SSLSocket whose next calls want what the test says; ``inside`` counts who is in a call."""

    script: list[type[ssl.SSLError]]
    inside = 0
    most_inside = 0
    offered: list[bytes]

    def recv(self, *args: object) -> bytes:
        return self._call(super().recv, *args)  # type: ignore[return-value]

    def send(self, data: bytes, *args: object) -> int:  # type: ignore[override]
        self.offered.append(bytes(data))
        return self._call(super().send, data, *args)  # type: ignore[return-value]

    def _call(self, function: Callable[..., object], *args: object) -> object:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.script:
                raise self.script.pop(0)()
            return function(*args)
        finally:
            self.inside -= 1


@contextmanager
def scripted() -> Iterator[tuple[TlsTransport, Transport, ScriptedTls]]:
    with transports(True) as (client, server):
        sock = client._sock
        sock.__class__ = ScriptedTls
        assert isinstance(sock, ScriptedTls)
        sock.script, sock.offered = [], []
        assert isinstance(client, TlsTransport)
        yield client, server, sock


class TestTls:
    def test_slice_that_was_refused_is_repeated_unchanged(self) -> None:
        with scripted() as (client, _, sock):
            client.send([b"begin"])
            fill(client)
            buffers = [b"h" * 10, b"p" * 100_000]
            assert client.send(buffers) == 0
            assert client.send(buffers) == 0
            assert sock.offered[-1] == sock.offered[-2] == b"h" * 10 + b"p" * (SLICE - 10)

    def test_no_slice_is_longer_than_a_record(self) -> None:
        with scripted() as (client, _, sock):
            assert client.send([bytes(100_000)]) == 16 * 1024
            assert client.send([bytes(10), bytes(16 * 1024), bytes(5)]) == 16 * 1024
            assert {len(data) for data in sock.offered} == {16 * 1024}

    def test_read_that_wants_to_write_waits_for_room(self) -> None:
        with scripted() as (client, _, sock):
            settle(client)
            sock.script.append(ssl.SSLWantWriteError)
            assert client.receive(100) is None
            assert client.wait(True, False, Deadline(SOON)) == (True, False)  # there is room: read again
            assert client.receive(100) is None
            assert client.wait(True, False, NOW) == (False, False)  # it wants no more than to read

    def test_read_that_wants_to_write_is_not_woken_by_input(self) -> None:
        with scripted() as (client, server, sock):
            fill(client)
            server.send([b"input"])
            sock.script.append(ssl.SSLWantWriteError)
            assert client.receive(100) is None
            assert client.wait(True, False, Deadline(20 * MS)) == (False, False)

    def test_write_that_wants_to_read_waits_for_input(self) -> None:
        with scripted() as (client, server, sock):
            settle(client)
            sock.script.append(ssl.SSLWantReadError)
            assert client.send([b"x"]) == 0
            assert client.wait(False, True, NOW) == (False, False)  # room is not what it wants
            server.send([b"input"])
            assert client.wait(False, True, Deadline(SOON)) == (False, True)
            assert client.send([b"x"]) == 1
            assert client.wait(False, True, NOW) == (False, True)

    def test_write_whose_input_another_thread_has_read_is_tried_again(self) -> None:
        with scripted() as (client, _, sock):
            settle(client)
            sock.script.append(ssl.SSLWantReadError)
            assert client.send([b"x"]) == 0
            assert client.wait(True, True, Deadline(SOON)) == (False, True)

    def test_what_was_decrypted_does_not_count_once_input_is_discarded(self) -> None:
        """Nobody reads it any more: whoever waits would find it readable for ever."""
        with transports(True) as (client, server):
            client.send([b"0123456789"])
            assert receive(server, 1) == b"0"
            assert server.discard(100) is None
            assert server.wait(True, False, NOW) == (False, False)

    def test_no_two_threads_are_inside(self) -> None:
        """OpenSSL forbids it."""
        with scripted() as (client, server, sock):
            stop = threading.Event()

            def drain() -> None:
                while not stop.is_set():
                    server.wait(True, False, Deadline(10 * MS))
                    server.receive(1 << 16)
                    server.send([b"y" * 100])

            def read() -> None:
                while not stop.is_set():
                    client.wait(True, False, Deadline(10 * MS))
                    client.receive(1 << 16)

            threads = [run_in_thread(drain), run_in_thread(read)]
            for _ in range(2000):
                if not client.send([b"x" * 1000]):
                    client.wait(False, True, Deadline(SOON))
            stop.set()
            for thread in threads:
                thread.result()
            assert sock.most_inside == 1

    def test_waiting_takes_no_lock(self) -> None:
        with transports(True) as (client, server):
            settle(client)
            waiting = run_in_thread(client.wait, True, False, Deadline(SOON))
            assert client.send([b"meanwhile"]) == 9
            assert receive(server, 9) == b"meanwhile"
            assert waiting.running
            server.send([b"x"])
            assert waiting.result() == (True, False)

    def test_peer_is_told_the_end_by_tls_too(self) -> None:
        client, server = _sockets(tls=True, tcp=False)
        with client, server:
            assert isinstance(server, ssl.SSLSocket)
            server.suppress_ragged_eofs = False
            transport = make_transport(client)
            transport.shutdown_write()
            server.settimeout(SOON)
            assert server.recv(1) == b""  # a ragged end would raise


class TestAccept:
    @pytest.mark.parametrize("timeout", [0, None, 5])
    @pytest.mark.parametrize("default", [None, 7.0])
    def test_it_accepts_as_the_method_does(self, timeout: float | None, default: float | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(timeout)
            if timeout == 0:
                with pytest.raises(BlockingIOError):
                    accept(listener)
            clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
            poll(listener.fileno(), True, False, Deadline(SOON))
            socket.setdefaulttimeout(default)
            try:
                ours, address = accept(listener)
                theirs, _ = listener.accept()
            finally:
                socket.setdefaulttimeout(None)
        assert address == ours.getpeername() == clients[0].getsockname()
        assert (ours.family, ours.type, ours.proto) == (theirs.family, theirs.type, theirs.proto)
        assert ours.gettimeout() == theirs.gettimeout() and ours.get_inheritable() == theirs.get_inheritable()
        for sock in (ours, theirs, *clients):
            sock.close()

    def test_a_descriptor_gets_an_object_of_the_same_kind(self) -> None:
        first, second = socket.socketpair()
        with second, same_kind(first, first.detach()) as third:
            third.send(b"x")
            assert second.recv(1) == b"x"
            assert (third.family, third.type, third.proto) == (second.family, second.type, second.proto)


class TestPoll:
    def test_hang_up_counts_as_ready_for_what_was_asked(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours:
            assert poll(ours.fileno(), True, False, NEVER) == (True, False)
            assert poll(ours.fileno(), False, True, NEVER) == (False, True)

    def test_descriptors_beyond_what_select_takes(self) -> None:
        resource = pytest.importorskip("resource")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            fileno = 1500
            if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= fileno:
                pytest.skip("no descriptor that high")
            import fcntl
            import os

            high = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, fileno)
            try:
                theirs.send(b"x")
                assert poll(high, True, False, Deadline(SOON)) == (True, False)
            finally:
                os.close(high)

    def test_where_the_system_has_only_select(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr("select.poll")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert poll(ours.fileno(), True, False, NOW) == (False, False)
            assert poll(ours.fileno(), True, True, NEVER) == (False, True)
            theirs.send(b"x")
            assert poll(ours.fileno(), True, False, NEVER) == (True, False)

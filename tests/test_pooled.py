"""Pooled: a socket of a pool, from accept to its end, which keeps no thread while it has nothing to say."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from typing import Any

import pytest

from websocketserver import ConnectionClosed
from websocketserver.deadline import Deadline
from websocketserver.streams import Rate

from .pools import Echo, EchoPage, away, blocked, echo, pooled, pooling_server, tenants, workers
from .serving import PAGE, Page, Quiet, connected, events, leave, lines, read_to_end, read_until
from .support import (
    MASK,
    MS,
    SOON,
    RawPeer,
    Running,
    certificates,
    frame,
    opening_request,
    raw_client,
    run_in_thread,
    wait_until,
)

__all__ = ["pooling_server"]

TEXT, PING, PONG = 1, 9, 10
ANSWER = b"\r\n\r\n/"  # the end of what Page answers to PAGE


def five_hasty(running: Running, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Return the sockets of five clients who have little time for their first head; others have the usual time."""
    handler = running.server.RequestHandlerClass
    usual, handler.handshake_timeout = handler.handshake_timeout, 150 * MS
    socks = [stack.enter_context(connected(running)) for _ in range(5)]
    wait_until(lambda: len(tenants(running)) + len(lines(running)) == 5)  # they are there, or have been
    handler.handshake_timeout = usual
    return socks


class TestParked:
    def test_a_foreign_ping_brings_messages_to_the_hooks(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            (connection,) = running.server.connections
            waiter = run_in_thread(connection.ping(b"?").wait, SOON)
            assert peer.read_frame()[:2] == (PING, b"?")
            peer.send(frame(TEXT, b"before", key=MASK) + frame(PONG, b"?", key=MASK) + frame(TEXT, b"after", key=MASK))
            waiter.result()
            assert [peer.read_frame().payload for _ in range(2)] == [b"before", b"after"]

    def test_while_a_foreign_ping_waits_messages_are_handled(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            (connection,) = running.server.connections
            waiter = run_in_thread(connection.ping(b"?").wait, SOON)
            assert peer.read_frame()[:2] == (PING, b"?")
            wait_until(lambda: connection._pumping)
            for number in range(5):
                echo(peer, b"%d" % number)  # though the Pong is still to come
            assert waiter.running
            peer.frame(PONG, b"?")
            waiter.result()

    def test_a_blocked_broadcast_takes_in_messages_for_the_hooks(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            big = bytes(16 << 20)
            sender = run_in_thread(running.server.broadcast, big)
            wait_until(lambda: running.server.connections[0]._output.lock.locked())
            for number in range(20):
                peer.frame(TEXT, b"%d" % number)
            wait_until(lambda: len(events(running)) == 2)  # the first hook, whose answer waits for the broadcast
            assert peer.read_frame().payload == big
            assert sender.result() == 1
            assert [peer.read_frame().payload for _ in range(20)] == [b"%d" % number for number in range(20)]

    def test_a_foreign_recv_leaves_the_rest_to_the_hooks(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            (connection,) = running.server.connections
            receiver = run_in_thread(connection.recv)
            wait_until(lambda: connection._pumping)
            peer.send(b"".join(frame(TEXT, b"%d" % number, key=MASK) for number in range(3)))
            first = receiver.result()
            rest = [peer.read_frame().payload.decode() for _ in range(2)]
            assert sorted([first, *rest]) == ["0", "1", "2"]

    def test_a_foreign_close_ends_in_on_close(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            closer = run_in_thread(running.server.connections[0].close, 4000, "go")
            assert peer.read_close() == 4000
            leave(peer, 4000)
            closer.result()
            wait_until(lambda: len(events(running)) == 2)
            wait_until(lambda: not running.server.connections)
        assert events(running) == ["open", (4000, "")]

    def test_a_foreign_abort_ends_in_on_close(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            running.server.connections[0].abort()
            assert peer.read_to_end() == b""
            wait_until(lambda: not running.server.connections)
        assert [event if event == "open" else event[0] for event in events(running)] == ["open", 1006]

    def test_an_abort_in_the_moment_of_the_upgrade_does_no_harm(self) -> None:
        class Handler(Echo):
            def _switch_protocols(self, agreement: Any) -> None:
                super()._switch_protocols(agreement)
                self.websocket.abort()

        with pooled(Handler) as running:
            for _ in range(20):
                with connected(running) as sock:
                    sock.sendall(opening_request())
                    read_to_end(sock)
            wait_until(lambda: not len(running.server.registry))
        assert len(events(running)) == 40

    def test_more_than_the_inbox_takes_arrives(self) -> None:
        with pooled(max_queue_size=100) as running, raw_client(running) as peer:
            peer.send(b"".join(frame(TEXT, b"%d" % number, key=MASK) for number in range(1000)))
            assert [peer.read_frame().payload for _ in range(1000)] == [b"%d" % number for number in range(1000)]

    @pytest.mark.parametrize("size", [0, 1, 1 << 20])
    def test_an_idle_one_costs_nothing(self, size: int) -> None:
        with pooled(max_queue_size=size) as running, raw_client(running) as peer:
            echo(peer, b"x")
            peer.close_frame()
            assert peer.read_close() == 1000
            polls = count_polls(running)
            wait_until(lambda: len(polls) > 100, 50 * MS, fail=False)  # the peer does not end the stream
            assert len(polls) < 100
            peer.sock.shutdown(socket.SHUT_RDWR)

    def test_a_failed_hook_is_the_last_but_on_close(self) -> None:
        class Handler(Quiet):
            def on_message(self, message: str | bytes) -> None:
                self.events.append(message)
                raise LookupError(message)

        with pooled(Handler, errors_expected=True) as running, raw_client(running) as peer:
            peer.send(b"".join(frame(TEXT, b"%d" % number, key=MASK) for number in range(3)))
            assert peer.read_close() == 1011
            polls = count_polls(running)
            wait_until(lambda: len(polls) > 100, 50 * MS, fail=False)
            assert len(polls) < 100
            leave(peer, 1011)
            wait_until(lambda: len(events(running)) == 3)
        assert events(running) == ["open", "0", (1011, "")]
        assert len(running.errors) == 1

    def test_messages_that_a_foreign_pump_read_with_the_end_are_not_lost(self) -> None:
        with pooled() as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            (connection,) = running.server.connections
            waiter = run_in_thread(connection.ping(b"?").wait, SOON)
            assert peer.read_frame().opcode == PING
            peer.send(b"".join(frame(TEXT, b"%d" % number, key=MASK) for number in range(3)))
            leave(peer)
            with pytest.raises(ConnectionClosed):
                waiter.result()
            wait_until(lambda: len(events(running)) == 5)
        assert events(running) == ["open", "0", "1", "2", (1000, "")]


def count_polls(running: Running) -> list[float | None]:
    """Return a list that grows whenever the pool polls."""
    poller, polls = running.server._pool._poller, []
    poll = poller.poll

    def counted(seconds: float | None) -> Any:
        polls.append(seconds)
        return poll(seconds)

    poller.poll = counted
    return polls


class TestTimer:
    def test_pings_parked_connections_and_gives_up_dead_ones(self) -> None:
        with pooled(ping_interval=30 * MS, ping_timeout=60 * MS) as running, raw_client(running) as peer:
            got = peer.read_frame()
            assert got.opcode == PING
            peer.frame(PONG, got.payload)
            wait_until(lambda: running.server.connections[0].latency is not None)
            wait_until(lambda: len(events(running)) == 2)
            wait_until(lambda: not running.server.connections)
        assert events(running)[1][0] == 1006

    def test_looks_after_a_connection_whose_hook_takes_long(
        self, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 20 * MS)
        with pooled(gate=gate) as running, blocked(running, 1) as (peer,):
            for number in range(3):
                peer.frame(PING, b"%d" % number)
                assert peer.read_frame()[:2] == (PONG, b"%d" % number)
            peer.frame(TEXT, b"next")
            gate.set()
            assert [peer.read_frame().payload for _ in range(2)] == [b"wait", b"next"]

    def test_also_while_on_open_does(self, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
        class Handler(Echo):
            def on_open(self) -> None:
                self.gate.wait(SOON)

        monkeypatch.setattr("websocketserver.attendance.UNATTENDED", 20 * MS)
        with pooled(Handler, gate=gate) as running, raw_client(running) as peer:
            peer.frame(PING, b"1")
            assert peer.read_frame()[:2] == (PONG, b"1")
            gate.set()
            echo(peer, b"x")

    def test_cuts_a_peer_that_does_not_end(self) -> None:
        with pooled(close_timeout=50 * MS) as running, raw_client(running) as peer:
            wait_until(lambda: "open" in events(running))
            running.server.connections[0].start_close(4001)
            assert peer.read_close() == 4001
            wait_until(lambda: len(events(running)) == 2)
            assert peer.read_to_end() == b""
        assert events(running)[1][0] == 1006


class TestHTTP:
    def test_idle_connections_keep_no_thread(self) -> None:
        with pooled(Page, max_workers=1) as running, contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connected(running)) for _ in range(20)]
            for _ in range(3):
                for sock in socks:
                    sock.sendall(PAGE)
                for sock in socks:
                    assert read_until(sock, ANSWER).startswith(b"HTTP/1.1 200")
            wait_until(lambda: away(running) == 0)
            assert len(workers()) <= 2
        assert len(lines(running)) == 60

    def test_requests_in_one_piece_are_answered_in_order(self) -> None:
        with pooled(Page) as running, connected(running) as sock:
            requests = [b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(300)]
            sock.sendall(b"".join(requests))
            answers = read_until(sock, b"\r\n\r\n/299")
            assert answers.count(b"HTTP/1.1 200") == 300
            sock.sendall(PAGE)
            read_until(sock, ANSWER)

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_an_upgrade_may_follow_and_frames_may_be_glued_to_it(self, tls: bool) -> None:
        glued = frame(TEXT, b"glued", key=MASK)
        with pooled(EchoPage, tls=tls) as running, socket.create_connection(running.address[:2], SOON) as plain:
            sock = certificates().client.wrap_socket(plain, server_hostname="localhost") if tls else plain
            with sock:
                sock.sendall(PAGE)
                read_until(sock, ANSWER)
                sock.sendall(PAGE + opening_request() + glued)
                head = read_until(sock, b"glued")
                assert head.index(b"200 OK") < head.index(b"101 Switching")
                peer = RawPeer(sock, masks=True)
                echo(peer, b"x")
                peer.close_frame()
                assert peer.read_close() == 1000

    @pytest.mark.parametrize("kind", ["first", "further", "behind another"])
    def test_slow_heads_keep_no_thread_and_are_dropped(self, kind: str) -> None:
        class Handler(EchoPage):
            def do_GET(self) -> None:
                super().do_GET()
                self.handshake_timeout = 150 * MS  # type: ignore[misc]  # for the next

        with pooled(Handler, max_workers=1) as running, contextlib.ExitStack() as stack:
            if kind == "first":
                socks = five_hasty(running, stack)
            else:
                socks = [stack.enter_context(connected(running)) for _ in range(5)]
            for sock in socks:
                sock.sendall({"first": b"", "further": PAGE, "behind another": PAGE + b"GET / HT"}[kind])
                if kind != "first":
                    read_until(sock, ANSWER)
            for sock in socks:
                sock.sendall(b"" if kind == "behind another" else b"GET / HT")
            with raw_client(running) as peer:
                echo(peer, b"x")
                wait_until(lambda: sum("timed out" in line for line in lines(running)) == 5)
                for sock in socks:
                    assert read_to_end(sock) == b""
                echo(peer, b"y")

    def test_the_time_of_a_further_head_begins_with_it(self) -> None:
        with pooled(Page) as running, connected(running) as sock:
            sock.sendall(PAGE)
            read_until(sock, ANSWER)
            wait_until(lambda: away(running) == 0 and tenants(running))
            [tenant] = tenants(running)
            tenant._rate = Rate(Deadline(0), None)  # that of the first is over
            sock.sendall(PAGE[:9])
            wait_until(lambda: tenant._head.received)
            sock.sendall(PAGE[9:])
            assert read_until(sock, ANSWER).startswith(b"HTTP/1.1 200")

    def test_a_head_byte_by_byte_is_a_head(self) -> None:
        with pooled() as running, connected(running) as sock:
            for byte in opening_request():
                sock.sendall(bytes([byte]))
            assert b"101" in read_until(sock, b"\r\n\r\n")
            echo(RawPeer(sock, masks=True), b"x")

    def test_a_bad_head_is_refused_at_once_also_in_pieces(self) -> None:
        with pooled(Page) as running, connected(running) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            wait_until(lambda: any(tenant._head.received for tenant in tenants(running)))
            sock.sendall(b"Bad Header: x\r\n")
            assert read_to_end(sock).startswith(b"HTTP/1.1 400")

    def test_refused_clients_that_stay_keep_no_thread(self) -> None:
        with pooled(Page, max_workers=1) as running, contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connected(running)) for _ in range(5)]
            for sock in socks:
                sock.sendall(b"BAD\r\n" + b"x" * 1000)
                assert read_to_end(sock).startswith(b"HTTP/1.1 400")
            wait_until(lambda: away(running) == 0)
            for sock in socks:
                sock.sendall(b"more")
            assert len(running.server.registry) == 5

    def test_of_what_they_send_only_so_much_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("websocketserver.pooled.LINGER_SIZE", 100_000)
        monkeypatch.setattr("websocketserver.pooled.LINGER_TIME", 100 * MS)
        with pooled(Page) as running, connected(running) as sock, connected(running) as silent:
            for refused in (sock, silent):
                refused.sendall(b"BAD\r\n")
                assert read_to_end(refused).startswith(b"HTTP/1.1 400")
            with pytest.raises(OSError):
                while True:
                    sock.sendall(bytes(100_000))
            wait_until(lambda: not len(running.server.registry))

    def test_idle_ones_are_ended_after_their_time(self) -> None:
        with pooled(Page, timeout=50 * MS) as running, connected(running) as sock:
            sock.sendall(PAGE)
            read_until(sock, ANSWER)
            assert read_to_end(sock) == b""
        assert lines(running) == ['"GET / HTTP/1.1" 200 -']

    def test_a_client_that_leaves_meanwhile_is_forgotten(self) -> None:
        with pooled(Page) as running:
            for data in (b"", b"GET /", PAGE):
                with connected(running) as sock:
                    sock.sendall(data)
                    if data == PAGE:
                        read_until(sock, ANSWER)
                wait_until(lambda: not len(running.server.registry))

    def test_an_exception_or_exit_of_a_method_ends_the_connection_alone(self) -> None:
        class Handler(EchoPage):
            finished: list[str] = []

            def do_GET(self) -> None:
                if self.path == "/raise":
                    raise LookupError
                if self.path == "/exit":
                    raise SystemExit
                super().do_GET()

            def finish(self) -> None:
                self.finished.append(self.path)
                super().finish()

        with pooled(Handler, max_workers=1, errors_expected=True) as running, raw_client(running) as peer:
            for path in (b"/raise", b"/exit"):
                for first in (b"", PAGE):
                    with connected(running) as sock:
                        if first:
                            sock.sendall(first)
                            read_until(sock, ANSWER)
                        sock.sendall(PAGE.replace(b"/", path, 1))
                        assert read_to_end(sock) == b""
            echo(peer, b"x")
        assert [type(error) for error in running.errors] == [LookupError, LookupError]
        assert Handler.finished == ["/raise", "/raise", "/exit", "/exit", "/"]

    def test_a_socket_that_the_handler_closes_is_forgotten(self) -> None:
        class Handler(Page):
            def do_GET(self) -> None:
                super().do_GET()
                if self.path == "/detach":
                    os.close(self.request.detach())

        with pooled(Handler, errors_expected=True) as running:
            with connected(running) as sock:
                sock.sendall(PAGE.replace(b"/", b"/detach", 1))
                assert read_to_end(sock).endswith(b"/detach")
            wait_until(lambda: not len(running.server.registry))
            with connected(running) as sock:
                sock.sendall(PAGE)
                read_until(sock, ANSWER)


class TestTls:
    def test_silent_clients_keep_no_thread_and_are_dropped(self) -> None:
        with pooled(tls=True, max_workers=1) as running, contextlib.ExitStack() as stack:
            socks = five_hasty(running, stack)
            with raw_client(running) as peer:
                echo(peer, b"x")
                assert len(workers()) <= 2
                for sock in socks:
                    assert read_to_end(sock) == b""
                wait_until(lambda: sum("timed out" in line for line in lines(running)) == 5)
                echo(peer, b"y")

    def test_a_handshake_byte_by_byte_is_one(self) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = certificates().client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pooled(tls=True) as running, connected(running) as sock:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        sock.sendall(bytes([byte]))
                    incoming.write(sock.recv(1 << 16))
            client.write(opening_request() + frame(TEXT, b"x", key=MASK))
            sock.sendall(outgoing.read())
            received = b""
            while not received.endswith(b"x"):
                incoming.write(sock.recv(1 << 16))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data := client.read(1 << 16):
                        received += data
            assert b"101 Switching" in received

    @pytest.mark.parametrize("count", [1, 50])
    def test_what_is_decrypted_already_is_served(self, count: int) -> None:
        """One record of several frames, requests or both: the system shows nothing of the rest."""
        with pooled(EchoPage, tls=True) as running, raw_client(running) as peer:
            peer.send(b"".join(frame(TEXT, b"%d" % number, key=MASK) for number in range(count)))
            assert [peer.read_frame().payload for _ in range(count)] == [b"%d" % number for number in range(count)]
            big = bytes(300_000)
            peer.frame(2, big)
            assert peer.read_frame().payload == big

    def test_plain_http_costs_one_line(self) -> None:
        with pooled(Page, tls=True) as running, connected(running) as sock:
            sock.sendall(PAGE)
            wait_until(lambda: lines(running))
        assert lines(running) == ["127.0.0.1: TLS handshake failed: plain HTTP"]

    def test_clients_that_reset_leave_nothing(self) -> None:
        with pooled(tls=True) as running:
            for _ in range(20):
                with connected(running) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with raw_client(running) as peer:
                echo(peer, b"x")
            wait_until(lambda: not len(running.server.registry))
        assert running.errors == []


class TestDescriptors:
    def test_one_that_is_used_anew_is_served_for_its_new_owner(self) -> None:
        """Connections come and go in all ways at once; each must get its own answers and its own end."""

        class Handler(EchoPage):
            def on_message(self, message: str | bytes) -> None:
                if message == "close":
                    self.websocket.start_close(4000)
                elif message == "cut":
                    self.websocket.abort()
                else:
                    self.websocket.send(f"{self.path} {message}")

            def on_close(self, code: int, reason: str) -> None:
                self.events.append(self.path)

        with pooled(Handler, max_workers=3) as running:
            clients = [run_in_thread(self.come_and_go, running, number) for number in range(4)]
            for client in clients:
                client.result(15)
            wait_until(lambda: not len(running.server.registry))
            assert not tenants(running)
        paths = [event for event in events(running) if event != "open"]
        assert sorted(paths) == sorted(
            f"/{client}-{turn}" for client in range(4) for turn in range(60) if turn % 6 != 5
        )

    def come_and_go(self, running: Running, client: int) -> None:
        for turn in range(60):
            path = f"/{client}-{turn}"
            if turn % 6 == 5:
                with connected(running) as sock:
                    sock.sendall(PAGE.replace(b"/", path.encode(), 1))
                    read_until(sock, path.encode())
                continue
            with raw_client(running, path) as peer:
                for number in range(3):
                    peer.frame(TEXT, b"%d" % number)
                    assert peer.read_frame().payload == f"{path} {number}".encode()
                if turn % 6 < 2:
                    peer.frame(TEXT, [b"close", b"cut"][turn % 2])
                    peer.read_to_end() if turn % 2 else peer.read_close()
                elif turn % 6 == 2:
                    leave(peer)
                    peer.read_close()
                elif turn % 6 == 3:
                    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    def test_the_system_may_take_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pooled() as running, raw_client(running) as peer:
            poller = running.server._pool._poller
            add = poller.add

            def refuse(fileno: int) -> None:
                raise OSError(28, "No space left on device")

            poller.add = refuse
            with raw_client(running, status=503):
                pass
            poller.add = add
            with raw_client(running) as other:
                echo(other, b"x")
            echo(peer, b"x")

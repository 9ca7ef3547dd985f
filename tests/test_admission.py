"""Admission: who may come in, who makes room, and honest clients among a thousand that only hold on."""

from __future__ import annotations

import contextlib
import functools
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver.admission import Admission, busy_answer, place_of, place_of_peer
from websocketserver.deadline import Deadline
from websocketserver.forwarded import UNIX
from websocketserver.handler import WebSocketRequestHandler
from websocketserver.pool import Pool
from websocketserver.router import Router

from .serving import PAGE, Page, default_server, leave, lines, log_message, pytest_generate_tests, read_to_end, serving
from .support import SOON, Running, opening_request, raw_client, run_in_thread, running_server, wait_until
from .victim import Victim

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there

NOW = Deadline(0)
TEXT = 1
PATIENCE = {"handshake_timeout": 600, "minimum_rate": None}
PART = {False: b"GET / HTTP/1.1\r\nHo", True: b"\x16\x03\x01"}  # of a handshake, plain and TLS


class Guest:
    """Gives way as long as it waits."""

    def __init__(self, waits: bool = True) -> None:
        self.waits = waits
        self.gave_way = False

    def give_way(self) -> bool:
        self.gave_way = self.waits
        return self.waits


class TestPlaces:
    def test_are_counted_up_to_a_limit(self) -> None:
        admission = Admission()
        assert [admission.enter("a", 2) for _ in range(3)] == [True, True, False]
        assert admission.enter("b", 2)
        admission.leave("a")
        assert [admission.enter("a", 2) for _ in range(2)] == [True, False]
        assert admission.enter("a", None)

    def test_where_nobody_is_are_forgotten(self) -> None:
        admission = Admission()
        for number in range(3):
            admission.enter(str(number), 1)
            admission.leave(str(number))
        assert admission._counts == {}

    def test_nowhere_is_not_counted(self) -> None:
        admission = Admission()
        assert [admission.enter(None, 0) for _ in range(3)] == [True] * 3
        admission.leave(None)

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("192.0.2.1", "192.0.2.1", True),
            ("192.0.2.1", "192.0.2.2", False),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("::1", "0.0.0.1", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("fe80::1%eth0", "fe80::2%eth0", False),  # everybody on the link has one network
            ("fe80::1%eth0", "fe80::1%eth1", False),
        ],
    )
    def test_of_addresses(self, one: str, other: str, same: bool) -> None:
        assert (place_of(one) == place_of(other)) == same
        assert place_of(one) is not None

    def test_of_what_is_no_address(self) -> None:
        assert place_of(UNIX) is None

    def test_of_peers(self) -> None:
        class Proxied(WebSocketRequestHandler):
            trusted_proxies = ("127.0.0.0/8", "unix")

        for handler in (Proxied, functools.partial(functools.partial(Proxied)), Router(Proxied)):
            assert place_of_peer(("127.0.0.1", 1), handler) is None
            assert place_of_peer("", handler) is None
            assert place_of_peer(("192.0.2.1", 1), handler) == "192.0.2.1"
            assert place_of_peer(("2001:db8::1", 1, 0, 0), handler) == "2001:db8::/64"
        assert place_of_peer(("127.0.0.1", 1), lambda *arguments: None) == "127.0.0.1"


class TestRoom:
    def test_is_made_by_who_has_waited_longest(self) -> None:
        admission, guests = Admission(), [Guest() for _ in range(3)]
        for guest in (*guests, guests[0]):  # who waits already does not begin anew
            admission.await_request(guest)
        assert admission.make_room(NOW)
        assert [guest.gave_way for guest in guests] == [True, False, False]
        admission.begin_request(guests[1])
        admission.await_request(guests[1])  # for the next
        assert admission.make_room(NOW)
        assert [guest.gave_way for guest in guests] == [True, False, True]

    def test_is_not_made_by_who_has_a_request_or_is_gone(self) -> None:
        admission, guests = Admission(), [Guest(), Guest()]
        for guest in guests:
            admission.await_request(guest)
        admission.begin_request(guests[0])
        admission.gone(guests[1])
        assert not admission.make_room(NOW)

    def test_passes_over_whose_request_came_this_moment(self) -> None:
        admission, late, other = Admission(), Guest(waits=False), Guest()
        admission.await_request(late)
        admission.await_request(other)
        assert admission.make_room(NOW)
        assert other.gave_way
        assert admission.leaving == 1

    def test_is_made_by_so_many_at_once_and_no_more(self) -> None:
        admission = Admission()
        admission.MOST_LEAVING = 2
        guests = [Guest() for _ in range(4)]
        for guest in guests:
            admission.await_request(guest)
        assert [admission.make_room(NOW) for _ in range(3)] == [True, True, False]
        admission.await_request(guests[0])  # it does not come back
        admission.gone(guests[0])
        assert admission.leaving == 1
        assert admission.make_room(NOW)
        assert guests[2].gave_way

    def test_is_waited_for_until_one_of_many_has_gone(self) -> None:
        admission = Admission()
        admission.MOST_LEAVING = 1
        guests = [Guest() for _ in range(2)]
        for guest in guests:
            admission.await_request(guest)
        assert admission.make_room(NOW)
        making = run_in_thread(admission.make_room, Deadline(SOON))
        wait_until(lambda: admission._gone._waiters)  # type: ignore[attr-defined]
        admission.gone(guests[0])
        assert making.result()
        assert guests[1].gave_way


def test_a_refusal_says_when_to_come_again() -> None:
    head, _, body = busy_answer().decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert f"Content-Length: {len(body)}" in head.split("\r\n")
    assert "Retry-After: 5" in head.split("\r\n")


@contextlib.contextmanager
def client(running: Running, request: bytes = b"", source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(running.address[:2], SOON, source_address=(source, 0)) as sock:
        sock.sendall(request)
        yield sock


def head_of_answer(sock: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(4096) or b"\r\n\r\n"
    return received


def limited(handler: Any = Page, *, tls: bool = False, **limits: Any) -> Any:
    """Return a running server with these limits and all the time in the world."""
    attributes = {"log_message": log_message, **limits}
    return serving(handler, tls=tls, server_attributes=attributes, handshake_timeout=60, minimum_rate=None, timeout=60)


class TestMaxConnections:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_handshake_that_gets_nowhere_makes_room(self, tls: bool) -> None:
        with limited(tls=tls, max_connections=3) as running, contextlib.ExitStack() as stack:
            slow = [stack.enter_context(client(running, PART[tls])) for _ in range(3)]
            wait_until(lambda: len(running.server.registry) == 3)
            wait_until(lambda: len(running.server.registry.admission._waiting) == 3)
            with raw_client(running) as peer:
                peer.frame(TEXT, b"x")
                assert peer.read_frame().payload == b"x"
                read_to_end(slow[0])
                wait_until(lambda: len(running.server.registry) == 3)
                for sock in slow[1:]:
                    sock.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        sock.recv(1)
                leave(peer)
        assert len([line for line in lines(running) if "are cut" in line]) == 1

    def test_who_is_kept_alive_makes_room(self) -> None:
        with limited(max_connections=1) as running, client(running, PAGE) as idle:
            assert head_of_answer(idle).startswith(b"HTTP/1.1 200")
            wait_until(lambda: running.server.registry.admission._waiting)
            with raw_client(running) as peer:
                assert read_to_end(idle) in (b"", b"/")  # the rest of the answer
                leave(peer)

    def test_connections_and_answers_under_way_do_not(self) -> None:
        go = threading.Event()

        class Slow(Page):
            def do_GET(self) -> None:
                self.events.append("asked")
                go.wait(SOON)
                super().do_GET()

        with limited(Slow, max_connections=2) as running, raw_client(running) as peer, client(running, PAGE) as asking:
            wait_until(lambda: "asked" in running.server.RequestHandlerClass.events)
            for _ in range(3):
                with client(running, opening_request()) as sock:
                    assert read_to_end(sock) == busy_answer()
            go.set()
            assert head_of_answer(asking).startswith(b"HTTP/1.1 200")
            peer.frame(TEXT, b"x")
            assert peer.read_frame().payload == b"x"
            leave(peer)
        assert [line for line in lines(running) if "refused" in line] == [
            "connections are refused: max_connections (2) reached"
        ]

    def test_who_has_made_room_and_is_not_gone_does_not_count(self) -> None:
        go = threading.Event()

        class Lingering(Page):
            def finish(self) -> None:
                if not self.is_upgraded():
                    go.wait(2 * SOON)
                super().finish()

        with limited(Lingering, max_connections=2) as running, client(running, PART[False]) as slow:
            wait_until(lambda: running.server.registry.admission._waiting)
            with raw_client(running) as peer:
                with raw_client(running) as other:
                    assert read_to_end(slow) is not None
                    leave(other)
                    other.read_to_end()
                wait_until(lambda: len(running.server.registry) == 2)
                with raw_client(running) as again:
                    leave(again)
                leave(peer)
            go.set()

    def test_a_handler_of_another_kind_is_left_alone(self) -> None:
        """It does not say when it waits."""
        go = threading.Event()

        def handle(request: socket.socket, client_address: Any, server: Any) -> None:
            go.wait(SOON)
            request.sendall(b"served")

        with contextlib.ExitStack() as stack:
            attributes = {"log_message": lambda *arguments: None, "max_connections": 1}
            options = {"server_class": Page.default_server, "server_attributes": attributes}
            running = stack.enter_context(running_server(handle, **options))
            sock = stack.enter_context(client(running, PAGE))
            wait_until(lambda: any(accepted.thread for accepted in running.server.registry._all()))
            with client(running) as other:
                assert read_to_end(other) == busy_answer()
            go.set()
            assert read_to_end(sock) == b"served"


def test_where_a_connection_cannot_be_served_room_is_made_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no thread to be had, or no room among what is polled for."""
    start, add, failed = threading.Thread.start, Pool.add, []

    def fail_once(call: Any, *arguments: Any) -> None:
        if not failed and (call is add or "process_request_thread" in arguments[0].name):
            failed.append(True)
            raise MemoryError("nothing left")
        call(*arguments)

    with limited() as running, client(running, PART[False]) as slow:
        wait_until(lambda: running.server.registry.admission._waiting)
        monkeypatch.setattr(threading.Thread, "start", lambda *args: fail_once(start, *args))
        monkeypatch.setattr(Pool, "add", lambda *args: fail_once(add, *args))
        with client(running, opening_request()) as sock:
            assert read_to_end(sock) == busy_answer()
        read_to_end(slow)
        with raw_client(running) as peer:
            leave(peer)
        assert len([line for line in lines(running) if "nothing left" in line]) == 1
        assert failed


class TestMaxConnectionsPerAddress:
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_more_from_one_address_are_refused(self, tls: bool) -> None:
        with limited(tls=tls, max_connections_per_address=2) as running:
            with raw_client(running) as first, raw_client(running):
                for _ in range(2):
                    with client(running, b"" if tls else opening_request()) as sock:
                        assert read_to_end(sock) == (b"" if tls else busy_answer())
                with client(running, PART[tls], "127.0.0.2"):
                    wait_until(lambda: len(running.server.registry) == 3)
                first.close_frame()
                first.read_close()
                first.sock.close()
                wait_until(lambda: len(running.server.registry) == 1)
                with raw_client(running):
                    pass
        refused = [line for line in lines(running) if "are refused" in line]
        assert refused == ["connections are refused: max_connections_per_address (2) reached by 127.0.0.1"]
        assert running.server.registry.admission._counts == {}

    def test_who_is_refused_makes_nobody_leave(self) -> None:
        with limited(max_connections=1, max_connections_per_address=1) as running, client(running, b"GE") as first:
            wait_until(lambda: running.server.registry.admission._waiting)
            with client(running) as sock:
                assert read_to_end(sock) == busy_answer()
            first.sendall(PAGE[2:])
            assert head_of_answer(first).startswith(b"HTTP/1.1 200")

    def test_a_place_is_given_back_by_who_is_refused_for_another_reason(self) -> None:
        with limited(max_connections=1, max_connections_per_address=1) as running, raw_client(running) as peer:
            with client(running, b"", "127.0.0.2") as sock:
                assert read_to_end(sock) == busy_answer()
            assert list(running.server.registry.admission._counts) == ["127.0.0.1"]
            leave(peer)

    def test_what_a_server_refuses_itself_is_not_counted(self) -> None:
        attributes = {"max_connections_per_address": 1, "verify_request": lambda *arguments: False}
        with limited(**attributes) as running:
            for _ in range(3):
                with client(running) as sock:
                    assert read_to_end(sock) == b""
            wait_until(lambda: running.server.registry.admission._counts == {})

    def test_through_a_proxy_the_request_says_where_it_comes_from(self) -> None:
        def headers(address: str) -> dict[str, str | None]:
            return {"X-Forwarded-For": f"6.6.6.6, {address}"}

        class Proxied(Page):
            trusted_proxies = ("127.0.0.1",)

        with limited(Proxied, max_connections_per_address=2) as running:
            with (
                raw_client(running, headers=headers("192.0.2.1")) as peer,
                raw_client(running, headers=headers("192.0.2.1")),
                raw_client(running, headers=headers("192.0.2.2")),
            ):
                with raw_client(running, headers=headers("192.0.2.1"), status=503) as refused:
                    assert b"Retry-After: 5" in refused.head.split(b"\r\n")
                    refused.read_to_end()
                leave(peer)
                peer.read_close()
                wait_until(lambda: len(running.server.registry) == 2)
                with raw_client(running, headers=headers("192.0.2.1")) as again:
                    leave(again)
        assert running.server.registry.admission._counts == {}

    def test_through_a_proxy_that_keeps_its_connections_each_request_counts_for_itself(self) -> None:
        class Proxied(Page):
            trusted_proxies = ("127.0.0.1",)

        def request(address: str) -> bytes:
            return PAGE.replace(b"Host: x", b"Host: x\r\nX-Forwarded-For: " + address.encode())

        with limited(Proxied, max_connections_per_address=1) as running, contextlib.ExitStack() as stack:
            socks = [stack.enter_context(client(running)) for _ in range(3)]
            for sock in socks:
                sock.sendall(request("192.0.2.1"))
                assert head_of_answer(sock).startswith(b"HTTP/1.1 200")
                wait_until(lambda: running.server.registry.admission._counts == {})

    def test_a_mistake_in_trusted_proxies_ends_nothing(self) -> None:
        """Made afterwards: in the class itself it is told where that is defined."""
        with limited(max_connections_per_address=1) as running:
            running.server.RequestHandlerClass.trusted_proxies = "127.0.0.1"
            with client(running) as sock:
                assert read_to_end(sock) == b""
            wait_until(lambda: running.errors)
            assert isinstance(running.errors.pop(), TypeError)


class Crowd:
    """Slow clients, each with a part of a handshake, that send a byte now and then and come again when they are cut."""

    def __init__(self, victim: Victim, size: int) -> None:
        self._victim = victim
        self._socks = [self._connect() for _ in range(size)]
        self._over = threading.Event()
        self.came_again = 0
        self._dripping = run_in_thread(self._drip)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._dripping.result(30)
        for sock in self._socks:
            sock.close()

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._victim.address, SOON)
        sock.sendall(PART[self._victim.tls])
        return sock

    def _drip(self) -> None:
        while not self._over.wait(0.1):
            for number, sock in enumerate(self._socks):
                try:
                    sock.send(b"\x02" if self._victim.tls else b"s", socket.MSG_DONTWAIT)
                except OSError:
                    sock.close()
                    self._socks[number] = self._connect()
                    self.came_again += 1


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard >= 0 else 4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def seconds_of_a_visit(victim: Any) -> float:
    """Return how long connecting, the handshake and one message take."""
    began = time.monotonic()
    with raw_client(victim) as peer:
        peer.frame(TEXT, b"x")
        assert peer.read_frame().payload == b"x"
        took = time.monotonic() - began
        leave(peer)
        peer.read_to_end()
    return took


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_thousand_slow_clients_do_not_delay_an_honest_one(tls: bool, many_descriptors: None) -> None:
    """The server is full of them, there is always one more, and none is late: only admission can help."""
    pool = "Pooling" in Page.default_server.__name__
    limits = {"max_connections": 1000, "request_queue_size": 1000}
    with Victim(pool=pool, tls=tls, server=limits, handler=PATIENCE) as victim:
        with Crowd(victim, 1100) as crowd:
            wait_until(lambda: crowd.came_again > 100, 30)
            visits = [seconds_of_a_visit(victim) for _ in range(20)]
            assert victim.open_descriptors() > 1000
        print(f"slowest visit {max(visits):.3f} s, came again {crowd.came_again}")
        assert max(visits) < 3  # 1 s where nothing else runs


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_nor_where_descriptors_are_fewer_than_connections(many_descriptors: None) -> None:
    """1,000 want in where there is room for some 200: each failing accept has one of them make room."""
    pool = "Pooling" in Page.default_server.__name__
    limits = {"request_queue_size": 1000}
    with Victim(pool=pool, descriptors=200, server=limits, handler=PATIENCE) as victim:
        with Crowd(victim, 1000) as crowd:
            wait_until(lambda: victim.open_descriptors() >= 199, 30)
            visits = [seconds_of_a_visit(victim) for _ in range(5)]
        print(f"slowest visit {max(visits):.3f} s, came again {crowd.came_again}")
        assert max(visits) < 10

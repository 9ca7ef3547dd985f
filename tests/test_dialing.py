"""From a host and a port to a stream: every address, plain and TLS, by one deadline."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver.deadline import Deadline
from websocketserver.dialing import Attempt, Dialer

from .support import MS, SOON, certificates, closed_port, run_in_thread, socket_pair, wait_until

AddressInfo = tuple[Any, ...]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        yield listener


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that sets what names resolve to: ports of the loopback; it returns the names asked for."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def set_ports(*ports: int) -> list[str]:
        def getaddrinfo(host: str, port: int, *args: Any, flags: int = 0, **options: Any) -> list[AddressInfo]:
            if flags & socket.AI_NUMERICHOST:
                return real(host, port, *args, flags=flags, **options)
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return set_ports


@contextlib.contextmanager
def dead_port() -> Iterator[int]:
    """Yield a port where connecting takes for ever: its listener's queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            assert waiting.connect_ex(full.getsockname()) in (0, errno.EINPROGRESS)
        yield full.getsockname()[1]


def connect(dialer: Dialer, timeout: float | None = SOON) -> socket.socket:
    return dialer.connect(Deadline(timeout)).sock


class TestAddresses:
    def test_an_address_of_numbers(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        for timeout in (SOON, None):
            with connect(Dialer("127.0.0.1", port), timeout) as sock, listener.accept()[0]:
                assert sock.getpeername() == ("127.0.0.1", port)

    def test_an_address_of_ipv6(self) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            with connect(Dialer("::1", listener.getsockname()[1])) as sock:
                assert sock.getpeername()[:2] == listener.getsockname()[:2]

    def test_localhost(self, listener: socket.socket) -> None:
        """Listening on one of its addresses is enough."""
        with connect(Dialer("localhost", listener.getsockname()[1])) as sock:
            assert sock.getpeername() == listener.getsockname()

    def test_a_name_is_resolved_once(self, listener: socket.socket, resolver: Callable[..., list[str]]) -> None:
        asked = resolver(listener.getsockname()[1])
        for timeout in (SOON, None):
            with connect(Dialer("somewhere.example", 80), timeout) as sock:
                assert sock.getpeername() == listener.getsockname()
        assert asked == 2 * ["somewhere.example"]

    def test_every_address_is_tried(self, listener: socket.socket, resolver: Callable[..., list[str]]) -> None:
        resolver(closed_port(), closed_port(), listener.getsockname()[1])
        with connect(Dialer("somewhere.example", 80)) as sock:
            assert sock.getpeername() == listener.getsockname()

    def test_a_dead_address_leaves_time_for_the_next(
        self, listener: socket.socket, resolver: Callable[..., list[str]]
    ) -> None:
        with dead_port() as dead:
            resolver(dead, listener.getsockname()[1])
            with connect(Dialer("somewhere.example", 80), 2) as sock:
                assert sock.getpeername() == listener.getsockname()

    def test_a_connection_that_takes_a_while_is_waited_for(
        self, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("websocketserver.dialing.is_connected", lambda sock: False)
        with connect(Dialer(*listener.getsockname())) as sock:
            assert sock.getpeername() == listener.getsockname()
        with pytest.raises(ConnectionRefusedError):
            connect(Dialer("127.0.0.1", closed_port()))

    def test_none_answers(self, resolver: Callable[..., list[str]]) -> None:
        resolver(closed_port(), closed_port())
        with pytest.raises(ConnectionRefusedError):
            connect(Dialer("somewhere.example", 80))

    def test_the_error_is_the_deadlines_where_time_ran_out(self, resolver: Callable[..., list[str]]) -> None:
        with dead_port() as dead:
            resolver(closed_port(), dead)
            with pytest.raises(TimeoutError):
                connect(Dialer("somewhere.example", 80), 50 * MS)

    def test_an_address_that_is_none_of_ours(self, listener: socket.socket) -> None:
        with pytest.raises(OSError):
            connect(Dialer("127.0.0.1", listener.getsockname()[1], source_address=("192.0.2.1", 0)))

    def test_the_address_to_connect_from(self, listener: socket.socket) -> None:
        port = closed_port()
        with connect(Dialer("127.0.0.1", listener.getsockname()[1], source_address=("127.0.0.1", port))) as sock:
            assert sock.getsockname() == ("127.0.0.1", port)


class TestResolving:
    def test_an_address_of_numbers_is_read_once_but_for_one_with_a_zone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def getaddrinfo(host: str, *args: Any, **options: Any) -> list[AddressInfo]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        port = closed_port()
        for host in ("127.9.8.7", "127.9.8.7", "fe80::1%lo", "fe80::1%lo"):
            with pytest.raises(ConnectionRefusedError):
                connect(Dialer(host, port))
        assert asked == ["127.9.8.7", "fe80::1%lo", "fe80::1%lo"]

    def test_a_name_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*args: Any, **options: Any) -> list[AddressInfo]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        for timeout in (SOON, None):
            with pytest.raises(socket.gaierror, match="not known"):
                connect(Dialer("nowhere.example", 80), timeout)

    def test_a_name_that_cannot_be_one(self) -> None:
        with pytest.raises(ValueError):
            connect(Dialer("a..b", 80), None)

    @pytest.mark.usefixtures("hanging_resolver")
    def test_a_resolver_that_hangs(self) -> None:
        with pytest.raises(TimeoutError, match=r"hangs\.example"):
            connect(Dialer("hangs.example", 80), 30 * MS)


class TestDeadline:
    def test_no_time_left(self, listener: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            connect(Dialer("127.0.0.1", listener.getsockname()[1]), 0)

    def test_a_server_that_does_not_accept(self) -> None:
        with dead_port() as dead, pytest.raises(TimeoutError):
            connect(Dialer("127.0.0.1", dead), 30 * MS)

    def test_a_server_that_does_not_shake_hands(self, listener: socket.socket) -> None:
        dialer = Dialer("localhost", listener.getsockname()[1], certificates().client)
        with pytest.raises(TimeoutError):
            connect(dialer, 50 * MS)

    def test_a_handshake_of_a_byte_now_and_then(self, listener: socket.socket) -> None:
        def drip() -> None:
            pause = threading.Event()
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                for byte in b"\x16\x03\x03\x40\x00" + bytes(10_000):  # the head of a long record
                    pause.wait(5 * MS)
                    sock.sendall(bytes([byte]))

        server = run_in_thread(drip)
        with pytest.raises(TimeoutError):
            connect(Dialer("localhost", listener.getsockname()[1], certificates().client), 50 * MS)
        server.result()


class TestOtherSockets:
    def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            with connect(Dialer("localhost", 80, unix_path=path)) as sock:
                assert sock.getpeername() == path

    def test_a_unix_socket_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            connect(Dialer("localhost", 80, unix_path=str(tmp_path / "none")))

    def test_a_socket_that_is_connected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", None)  # nothing is resolved
        ours, theirs = socket_pair()
        with ours, theirs:
            assert connect(Dialer("nowhere.example", 80, sock=ours)) is ours


@contextlib.contextmanager
def tls_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a server that shakes hands with one client, and says what became of it."""

    def serve() -> None:
        sock, _ = listener.accept()
        sock.settimeout(SOON)
        with contextlib.suppress(OSError):
            sock = (context or certificates().server).wrap_socket(sock, server_side=True)
            sock.recv(1)
        sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON)
        server = run_in_thread(serve)
        yield listener.getsockname()[1]
        server.result()


class TestTLS:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_the_name_is_checked_and_told(self, host: str) -> None:
        with tls_server() as port, connect(Dialer(host, port, certificates().client)) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.server_hostname == host
            assert sock.getpeercert()

    def test_another_name(self) -> None:
        context = certificates().client
        with tls_server() as port, socket.create_connection(("127.0.0.1", port)) as raw:
            with pytest.raises(ssl.SSLCertVerificationError, match="example"):
                connect(Dialer("other.example", port, context, sock=raw))

    def test_nobody_who_is_trusted(self) -> None:
        context = ssl.create_default_context()
        with tls_server() as port, pytest.raises(ssl.SSLCertVerificationError):
            connect(Dialer("localhost", port, context))

    def test_no_tls_at_all(self, listener: socket.socket) -> None:
        def greet() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                sock.recv(1 << 16)

        server = run_in_thread(greet)
        with pytest.raises(ssl.SSLError):
            connect(Dialer("localhost", listener.getsockname()[1], certificates().client))
        server.result()

    def test_a_server_that_hangs_up(self, listener: socket.socket) -> None:
        def hang_up() -> None:
            listener.accept()[0].close()

        server = run_in_thread(hang_up)
        with pytest.raises(OSError):
            connect(Dialer("localhost", listener.getsockname()[1], certificates().client))
        server.result()

    def test_a_socket_that_speaks_tls_already_is_taken_as_it_is(self) -> None:
        with tls_server() as port:
            raw = socket.create_connection(("127.0.0.1", port))
            with certificates().client.wrap_socket(raw, server_hostname="localhost") as wrapped:
                assert connect(Dialer("other.example", 443, certificates().client, sock=wrapped)) is wrapped


class TestAborting:
    """Another thread ends whatever is being waited for."""

    def abort(self, dialer: Dialer, begun: Callable[[Attempt], object], timeout: float | None = 60) -> None:
        attempt = Attempt()
        attempt.begin()
        connecting = run_in_thread(dialer.connect, Deadline(timeout), attempt)
        wait_until(lambda: begun(attempt))
        assert attempt.abort()
        with pytest.raises(OSError):  # whatever the system says; the client translates it
            connecting.result()

    @pytest.mark.parametrize("timeout", [60, None])
    def test_connecting(self, timeout: float | None) -> None:
        with dead_port() as port:
            self.abort(Dialer("127.0.0.1", port), lambda attempt: attempt._sock is not None, timeout)

    def test_no_further_address_is_tried(self, resolver: Callable[..., list[str]], listener: socket.socket) -> None:
        with dead_port() as port:
            resolver(port, listener.getsockname()[1])
            self.abort(Dialer("somewhere.example", 80), lambda attempt: attempt._sock is not None)
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()

    @pytest.mark.parametrize("timeout", [60, None])
    def test_resolving(self, timeout: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
        real, go_on, asked = socket.getaddrinfo, threading.Event(), threading.Event()

        def hang(host: str, *args: Any, flags: int = 0, **options: Any) -> Any:
            if flags & socket.AI_NUMERICHOST:
                return real(host, *args, **options, flags=flags)
            asked.set()
            go_on.wait(SOON)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        try:
            self.abort(Dialer("hangs.example", 80), lambda attempt: asked.is_set(), timeout)
        finally:
            go_on.set()

    def test_the_tls_handshake(self, listener: socket.socket) -> None:
        dialer = Dialer("localhost", listener.getsockname()[1], certificates().client)
        accepted: list[socket.socket] = []

        def begun(attempt: Attempt) -> bool:
            if not accepted:
                accepted.append(listener.accept()[0])
                accepted[0].settimeout(SOON)
                assert accepted[0].recv(1)  # of the ClientHello
            return isinstance(attempt._sock, ssl.SSLSocket)

        try:
            self.abort(dialer, begun)
        finally:
            accepted[0].close()

    def test_before_it_begins(self, listener: socket.socket) -> None:
        attempt = Attempt()
        assert attempt.abort()
        for call in (attempt.begin, attempt.finish, lambda: attempt.wait_for(lambda: False, SOON)):
            with pytest.raises(ConnectionAbortedError):
                call()
        with pytest.raises(ConnectionAbortedError):
            Dialer("127.0.0.1", listener.getsockname()[1]).connect(Deadline(SOON), attempt)

    def test_a_socket_that_was_given_is_closed_where_nobody_else_will(self) -> None:
        ours, theirs = socket_pair()
        with ours, theirs:
            assert Attempt(ours).abort()
            assert ours.fileno() == -1

    def test_after_success_there_is_nothing_to_abort(self) -> None:
        ours, theirs = socket_pair()
        with ours, theirs:
            attempt = Attempt()
            attempt.begin()
            attempt.use(ours)
            attempt.finish()
            assert not attempt.abort()
            assert not attempt.aborted
            ours.send(b"x")
            assert theirs.recv(1) == b"x"

    def test_it_begins_once(self) -> None:
        attempt = Attempt()
        attempt.begin()
        with pytest.raises(RuntimeError, match="once"):
            attempt.begin()


def test_the_hooks_of_one_attempt_are_called_by_one_thread() -> None:
    attempt = Attempt()
    go = threading.Barrier(8)

    def claim() -> bool:
        go.wait(SOON)
        try:
            attempt.claim()
        except RuntimeError:
            return False
        return True

    handles = [run_in_thread(claim) for _ in range(8)]
    assert [handle.result() for handle in handles].count(True) == 1


def test_an_abort_just_before_connecting_is_not_overlooked() -> None:
    """shutdown(2) does nothing to a socket that has not begun to connect."""
    attempt = Attempt()
    with socket.socket() as sock, socket.create_server(("127.0.0.1", 0)) as listener:
        attempt.use(sock)
        attempt.abort()
        with pytest.raises(ConnectionAbortedError):
            attempt.begin_connecting(sock, listener.getsockname())

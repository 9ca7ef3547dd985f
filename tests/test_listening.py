"""Listening: addresses, sockets that were there before, ports that others have too."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import textwrap
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any

import pytest

from websocketserver import PoolingWebSocketServer, UnixWebSocketServer, inherited_sockets
from websocketserver.listening import bar_newcomers
from websocketserver.server import ThreadingWebSocketServer, WebSocketServer

from .program import ROOT
from .serving import PAGE, Quiet, echo, leave, read_to_end, serving
from .support import SOON, RawPeer, certificates, opening_request, run_in_thread, wait_until
from .test_server import BOTH


@pytest.fixture(params=BOTH, ids=lambda kind: kind.__name__)
def server_class(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestListening:
    def test_it_is_a_server_of_the_standard_library(self, server_class: Any) -> None:
        with server_class(("127.0.0.1", 0), Quiet) as server:
            assert isinstance(server, HTTPServer)
            assert isinstance(server, socketserver.ThreadingMixIn) == (server_class is ThreadingWebSocketServer)
            assert server.server_address[1] == server.server_port > 0
            assert server.fileno() == server.socket.fileno()
            assert server.RequestHandlerClass is Quiet
            assert server.request_queue_size >= 128

    def test_no_name_server_is_asked(self, server_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: Any) -> None:
            raise AssertionError("a name server was asked")

        for name in ("getfqdn", "gethostbyaddr", "gethostbyname"):
            monkeypatch.setattr(socket, name, fail)
        with server_class(("127.0.0.1", 0), Quiet) as server:
            assert server.server_name == "127.0.0.1"

    def test_no_host_means_both_families(self) -> None:
        with serving(address=("", 0)) as running:
            addresses = []
            for host in ("127.0.0.1", "::1"):
                with socket.create_connection((host, running.port), SOON) as sock:
                    wait_until(lambda: len(running.server.registry) == 1)
                    sock.sendall(opening_request())
                    with RawPeer(sock, masks=True) as peer:
                        wait_until(lambda: len(running.server.connections) == 1)
                        leave(peer)
                        addresses.append(peer.sock.getsockname()[0])
                wait_until(lambda: not len(running.server.registry))
            assert addresses == ["127.0.0.1", "::1"]
            assert running.server.server_name == ""

    def test_ipv4_clients_have_ipv4_addresses(self) -> None:
        class Handler(Quiet):
            def do_GET(self) -> None:
                self.send_response(HTTPStatus.OK)
                self.end_headers()
                self.wfile.write(repr(self.client_address).encode())

        with serving(Handler, address=("::", 0)) as running:
            with socket.create_connection(("127.0.0.1", running.port), SOON) as sock:
                sock.sendall(PAGE)
                assert read_to_end(sock).endswith(repr(sock.getsockname()).encode())
            with socket.create_connection(("::1", running.port), SOON) as sock:
                sock.sendall(PAGE)
                assert read_to_end(sock).endswith(repr(sock.getsockname()).encode())

    def test_the_host_chooses_the_family(self) -> None:
        for host, family in (("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET), ("::1", socket.AF_INET6)):
            with WebSocketServer((host, 0), Quiet) as server:
                assert server.socket.family == family

    def test_a_family_that_is_set_wins(self) -> None:
        class Server(WebSocketServer):
            address_family = socket.AF_INET

        with Server(("", 0), Quiet) as server:
            assert server.socket.family == socket.AF_INET

    def test_what_was_bound_can_be_bound_again_at_once(self) -> None:
        with serving() as running:
            assert echo(running) == b"x"
            address = running.address
        with serving(address=address) as running:
            assert echo(running) == b"x"

    def test_a_port_in_use_leaves_nothing_behind(self) -> None:
        with WebSocketServer(("127.0.0.1", 0), Quiet) as server, pytest.raises(OSError, match="in use"):
            ThreadingWebSocketServer(server.server_address, Quiet)

    def test_a_socket_of_ones_own(self) -> None:
        """As after socket activation."""
        with ThreadingWebSocketServer(("127.0.0.1", 0), Quiet, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = socket.create_server(("127.0.0.1", 0))
            handle = run_in_thread(server.serve_forever)
            with socket.create_connection(server.socket.getsockname(), SOON) as sock:
                Quiet.lines = []
                sock.sendall(b"BAD\r\n")
                assert read_to_end(sock).startswith(b"HTTP/1.1 400")
            server.shutdown()
            handle.result()

    def test_a_wrapped_listener_is_understood(self) -> None:
        """What the standard library's users write; its accept would do the handshake."""
        Handler = type("Own", (Quiet,), {"events": [], "lines": []})
        with ThreadingWebSocketServer(("127.0.0.1", 0), Handler) as server:
            server.socket = certificates().server.wrap_socket(server.socket, server_side=True)
            handle = run_in_thread(server.serve_forever)
            with contextlib.ExitStack() as stack:
                for _ in range(3):  # silent: they hold up nobody
                    stack.enter_context(socket.create_connection(server.server_address, SOON))
                raw = stack.enter_context(socket.create_connection(server.server_address, SOON))
                with certificates().client.wrap_socket(raw, server_hostname="localhost") as sock:
                    sock.sendall(PAGE)
                    assert read_to_end(sock).startswith(b"HTTP/1.1 426")
            server.shutdown()
            handle.result()


class TestGivenSocket:
    """In place of an address."""

    @pytest.fixture(params=[*BOTH, PoolingWebSocketServer], ids=lambda kind: kind.__name__)
    def server_class(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_that_listens_is_served(self, server_class: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with serving(address=listener, server_class=server_class) as running:
            assert running.server.socket is listener
            assert running.server.server_address == ("127.0.0.1", port)
            assert (running.server.server_name, running.server.server_port) == ("127.0.0.1", port)
            assert echo(running) == b"x"
        assert listener.fileno() == -1

    def test_that_is_bound_is_made_to_listen(self, server_class: Any) -> None:
        listener = socket.socket(socket.AF_INET6)
        listener.bind(("::1", 0))
        with serving(address=listener, server_class=server_class) as running:
            assert running.server.address_family == socket.AF_INET6
            assert echo(running) == b"x"

    def test_may_be_a_unix_socket(self, tmp_path: Any) -> None:
        path = str(tmp_path / "socket")
        for kind in (ThreadingWebSocketServer, UnixWebSocketServer):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            with serving(address=listener, server_class=kind) as running:
                assert (running.server.server_name, running.server.server_port) == (path, 0)
                assert echo(running) == b"x"
            assert os.path.exists(path)  # whoever has bound it removes it
            os.unlink(path)

    @pytest.mark.parametrize(
        ("make", "kind", "message"),
        [
            (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), WebSocketServer, "SOCK_DGRAM.*SOCK_STREAM"),
            (lambda: socket.socket(socket.AF_INET), WebSocketServer, "neither bound nor listening"),
            (lambda: socket.socket(socket.AF_UNIX), WebSocketServer, "neither bound nor listening"),
            (lambda: socket.socket(socket.AF_INET), UnixWebSocketServer, "AF_INET socket.*AF_UNIX"),
            (lambda: connected_socket(), WebSocketServer, "connected"),
        ],
    )
    def test_must_be_one_to_accept_from(self, make: Any, kind: Any, message: str) -> None:
        with make() as sock, pytest.raises(ValueError, match=message):
            kind(sock, Quiet)

    def test_may_be_shared_by_two_servers(self) -> None:
        """The old one drains while the new one serves, and no newcomer is turned away."""
        listener = socket.create_server(("127.0.0.1", 0))
        with serving(address=listener) as old:
            with serving(address=listener.dup()) as new:
                drained = run_in_thread(old.server.shutdown, 60, 1012, drain=50)
                wait_until(old.server._barred.is_set)
                for _ in range(20):
                    assert echo(new) == b"x"
                drained.result()


def connected_socket() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


class TestInheritedSockets:
    """What systemd hands over."""

    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)

    def test_are_none_mostly(self) -> None:
        assert inherited_sockets() == []

    def test_of_another_process_are_none_of_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_FDNAMES", "web")
        assert inherited_sockets() == []
        assert not {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & os.environ.keys()

    @pytest.mark.parametrize(
        ("pid", "count", "message"),
        [
            (None, "1", "LISTEN_PID is missing"),
            ("1", None, "LISTEN_FDS is missing"),
            ("x", "1", "LISTEN_PID must be a number, not 'x'"),
            ("", "1", "LISTEN_PID must be a number"),
            ("own", "-1", "LISTEN_FDS must be a number, not '-1'"),
            ("own", " 1", "LISTEN_FDS must be a number"),
            ("own", "\u0663", "LISTEN_FDS must be a number"),
            ("own", "5000", "LISTEN_FDS must be 1024 at most"),
        ],
    )
    def test_must_be_told_of_as_they_should(
        self, pid: str | None, count: str | None, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if pid is not None:
            monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "own" else pid)
        if count is not None:
            monkeypatch.setenv("LISTEN_FDS", count)
        with pytest.raises(ValueError, match=message):
            inherited_sockets()
        assert not {"LISTEN_PID", "LISTEN_FDS"} & os.environ.keys()

    @pytest.mark.parametrize(
        ("what", "outcome"),
        [
            ("listen", "1 False False []"),
            ("unix", "1 False False []"),
            ("datagram", "LISTEN_FDS: descriptor 3 is not a listening stream socket"),
            ("connected", "LISTEN_FDS: descriptor 3 is not a listening stream socket"),
            ("file", "LISTEN_FDS: descriptor 3 is not a socket"),
            ("nothing", "LISTEN_FDS: descriptor 3 is not open"),
        ],
    )
    def test_are_descriptors_from_3_on(self, what: str, outcome: str, tmp_path: Any) -> None:
        with contextlib.ExitStack() as stack:
            fileno = _something(what, stack, tmp_path)
            done = activated(
                """
                from websocketserver import inherited_sockets
                try:
                    sockets = inherited_sockets()
                except ValueError as error:
                    print(error)
                else:
                    print(len(sockets), sockets[0].get_inheritable(), "LISTEN_PID" in os.environ, inherited_sockets())
                """,
                fileno,
            )
        assert done.stdout.startswith(outcome), done
        assert done.stderr == ""


def _something(what: str, stack: contextlib.ExitStack, folder: Any) -> int | None:
    if what == "nothing":
        return None
    if what == "file":
        return stack.enter_context(open(folder / "file", "wb")).fileno()
    if what == "listen":
        return stack.enter_context(socket.create_server(("127.0.0.1", 0))).fileno()
    if what == "connected":
        pair = socket.socketpair()
        stack.callback(pair[1].close)
        return stack.enter_context(pair[0]).fileno()
    if what == "datagram":
        return stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).fileno()
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(folder / "socket"))
    sock.listen()
    return sock.fileno()


def activated(program: str, fileno: int | None) -> subprocess.CompletedProcess[str]:
    """Run a program as systemd would, with this descriptor as its number 3."""
    move = f"os.dup2({fileno}, 3)" if fileno is not None else "os.closerange(3, 4)"
    start = f"import os\n{move}\nos.environ['LISTEN_PID'] = str(os.getpid())\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"},
        pass_fds=[] if fileno is None else [fileno],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestReusedPort:
    def test_has_to_be_allowed(self) -> None:
        class Server(ThreadingWebSocketServer):
            allow_reuse_port = True

        with Server(("127.0.0.1", 0), Quiet) as one:
            with Server(one.server_address, Quiet) as another:
                assert another.server_address == one.server_address
            with pytest.raises(OSError, match="in use"):
                ThreadingWebSocketServer(one.server_address, Quiet)

    def test_may_be_wanting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Server(WebSocketServer):
            allow_reuse_port = True

        monkeypatch.delattr(socket, "SO_REUSEPORT")
        with pytest.raises(OSError, match="SO_REUSEPORT"):
            Server(("127.0.0.1", 0), Quiet)

    def test_is_left_by_a_drain_once_all_who_came_are_served(self) -> None:
        options: Any = {"server_attributes": {"allow_reuse_port": True}, "handshake_timeout": 60}
        with serving(**options) as old, contextlib.ExitStack() as stack:
            with serving(**options, address=old.address) as new:
                peers = [stack.enter_context(socket.create_connection(old.address, SOON)) for _ in range(20)]
                drained = run_in_thread(old.server.shutdown, 60, 1012, drain=50)
                for sock in peers:  # to whichever of the two
                    sock.sendall(opening_request())
                    peer = RawPeer(sock, masks=True)
                    assert b"101" in peer.read_until(b"\r\n\r\n")
                    leave(peer)
                    peer.read_to_end()
                drained.result()
                assert old.server.fileno() == -1
                for _ in range(20):
                    assert echo(new) == b"x"

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux has this")
    def test_overlooks_whoever_comes_while_it_is_left(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            with socket.create_connection(listener.getsockname(), SOON):
                bar_newcomers(listener)
                with pytest.raises(TimeoutError):
                    socket.create_connection(listener.getsockname(), 0.2)
                listener.settimeout(SOON)
                listener.accept()[0].close()

"""Contexts made of files, the choice by name, certificates read anew, and what peers may do to a handshake."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from websocketserver import (
    Certificate,
    HandshakeError,
    PoolingWebSocketServer,
    Role,
    ServerSSLContext,
    ThreadingWebSocketServer,
    WebSocketClient,
)
from websocketserver.tls import client_context, end_refused, failure, peer_certificate, wrap
from websocketserver.transport import is_connected

from . import stress_duplex
from .serving import Quiet, lines, serving
from .support import (
    SOON,
    RawPeer,
    Running,
    certificates,
    half,
    opening_request,
    run_in_thread,
    socket_pair,
    wait_until,
)

both_servers = pytest.mark.parametrize("server_class", [ThreadingWebSocketServer, PoolingWebSocketServer])

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
# A ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2) with one cipher suite, and of TLS 1.2 cut short.
HELLO_1_1 = bytes.fromhex("160302002d010000290302" + "11" * 32 + "000002002f0100")
HALF_HELLO = bytes.fromhex("1603010200010001fc0303")


def issue(folder: Path, name: str, *identities: str) -> Certificate:
    """Return a certificate of the tests' authority, its files at the same places each time."""
    issued = certificates().authority.issue_cert(*(identities or (name,)))
    certfile, keyfile = folder / f"{name}.pem".replace("*", "_"), folder / f"{name}.key".replace("*", "_")
    issued.cert_chain_pems[0].write_to_path(certfile)
    issued.private_key_pem.write_to_path(keyfile)
    return Certificate(certfile, keyfile)


def authority(folder: Path) -> Path:
    certificates().authority.cert_pem.write_to_path(folder / "authority.pem")
    return folder / "authority.pem"


def untrusting() -> ssl.SSLContext:
    """Return a client's context that does not look at the name: the test does."""
    context = ssl.create_default_context(cadata=certificates().authority.cert_pem.bytes().decode())
    context.check_hostname = False
    return context


def member(folder: Path, name: str = "ann@example.org") -> ssl.SSLContext:
    """Return the context of a client that has a certificate."""
    context = untrusting()
    context.load_cert_chain(*issue(folder, "client", name)[:2])
    return context


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a handshake in memory; return both ends, the client's first. Raises what either raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    return ends


def names_shown(server: ssl.SSLContext, name: str | None) -> set[str]:
    """Return the host names of the certificate that a client gets who asks for this name."""
    shown, _ = shake(server, untrusting(), name)
    certificate = shown.getpeercert()
    assert certificate
    return {value for kind, value in certificate["subjectAltName"] if kind == "DNS"}  # type: ignore[misc, union-attr]


class TestSettings:
    def test_are_safe(self, tmp_path: Path) -> None:
        context = ServerSSLContext(*issue(tmp_path, "localhost"))
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.verify_mode is ssl.CERT_NONE

    def test_of_a_client_are_safe(self) -> None:
        context = client_context()
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert client_context(verify=False).verify_mode is ssl.CERT_NONE

    def test_http_is_what_is_spoken(self, tmp_path: Path) -> None:
        names = {"example.org": issue(tmp_path, "example.org")}
        server = ServerSSLContext(*issue(tmp_path, "localhost"), names=names)
        client = untrusting()
        client.set_alpn_protocols(["h2", "http/1.1"])
        for name in ("localhost", "example.org"):
            assert shake(server, client, name)[0].selected_alpn_protocol() == "http/1.1"

    def test_what_else_is_wanted_can_be_set_on_all(self, tmp_path: Path) -> None:
        class Modern(ServerSSLContext):
            def configure(self, context: ssl.SSLContext) -> None:
                context.minimum_version = ssl.TLSVersion.TLSv1_3

        server = Modern(*issue(tmp_path, "localhost"), names={"example.org": issue(tmp_path, "example.org")})
        old = untrusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for context in (server, server.renewed()):
            assert type(context) is Modern
            for name in ("localhost", "example.org"):
                with pytest.raises(ssl.SSLError):
                    shake(context, old, name)
                assert shake(context, untrusting(), name)[0].version() == "TLSv1.3"


class TestNames:
    @pytest.fixture
    def table(self, tmp_path: Path) -> dict[str, Certificate]:
        return {
            name: issue(tmp_path, name) for name in ("example.org", "*.example.org", "www.example.org", "bücher.de")
        }

    @pytest.mark.parametrize(
        ("asked", "shown"),
        [
            ("example.org", "example.org"),
            ("EXAMPLE.org", "example.org"),
            ("www.example.org", "www.example.org"),
            ("chat.example.org", "*.example.org"),
            ("a.chat.example.org", "localhost"),
            ("other.example", "localhost"),
            ("org", "localhost"),
            ("bücher.de", "xn--bcher-kva.de"),
            (None, "localhost"),
        ],
    )
    def test_choose_the_certificate(
        self, table: dict[str, Certificate], tmp_path: Path, asked: str | None, shown: str
    ) -> None:
        assert names_shown(ServerSSLContext(*issue(tmp_path, "localhost"), names=table), asked) == {shown}

    def test_may_be_all_that_is_served(self, table: dict[str, Certificate], tmp_path: Path) -> None:
        server = ServerSSLContext(*issue(tmp_path, "localhost"), names=table, strict_names=True)
        assert names_shown(server, "www.example.org") == {"www.example.org"}
        assert names_shown(server, None) == {"localhost"}
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name|callback"):
            names_shown(server, "other.example")

    @pytest.mark.parametrize(
        "name", ["", "*", "*.", "a.*.example", "*a.example", "example.org.", "a..b", "h:80", "::1"]
    )
    def test_that_are_none_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="host name"):
            ServerSSLContext(*issue(tmp_path, "localhost"), names={name: issue(tmp_path, "localhost")})

    def test_need_a_certificate_each(self, tmp_path: Path) -> None:
        default = issue(tmp_path, "localhost")
        with pytest.raises(TypeError, match=r"for example\.org there must be a Certificate"):
            ServerSSLContext(*default, names={"example.org": "example.pem"})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="not bytes"):
            ServerSSLContext(*default, names={b"example.org": default})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="strict_names needs names"):
            ServerSSLContext(*default, strict_names=True)


class TestClientCertificates:
    def test_may_be_required(self, tmp_path: Path) -> None:
        server = ServerSSLContext(*issue(tmp_path, "localhost"), client_ca=authority(tmp_path))
        _, end = shake(server, member(tmp_path), "localhost")
        assert ("email", "ann@example.org") in end.getpeercert()["subjectAltName"]  # type: ignore[index, operator]
        with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
            shake(server, untrusting(), "localhost")

    def test_may_be_optional(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"client_ca": authority(tmp_path), "client_optional": True}
        server = ServerSSLContext(*issue(tmp_path, "localhost"), **options)
        assert shake(server, member(tmp_path), "localhost")[1].getpeercert()
        assert not shake(server, untrusting(), "localhost")[1].getpeercert()

    def test_of_others_are_refused_for_every_name(self, tmp_path: Path) -> None:
        import trustme

        stranger = untrusting()
        trustme.CA().issue_cert("ann@example.org").configure_cert(stranger)
        names = {"example.org": issue(tmp_path, "example.org")}
        server = ServerSSLContext(*issue(tmp_path, "localhost"), names=names, client_ca=authority(tmp_path))
        for name in ("localhost", "example.org"):
            assert shake(server, member(tmp_path), name)[1].getpeercert()
            with pytest.raises(ssl.SSLCertVerificationError):
                shake(server, stranger, name)

    def test_that_are_optional_need_an_authority(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="client_optional needs client_ca"):
            ServerSSLContext(*issue(tmp_path, "localhost"), client_optional=True)


class TestFiles:
    @pytest.mark.parametrize("missing", ["certfile", "keyfile", "client_ca"])
    def test_that_are_missing_are_named(self, tmp_path: Path, missing: str) -> None:
        certfile, keyfile, _ = issue(tmp_path, "localhost")
        files: dict[str, Any] = {"certfile": certfile, "keyfile": keyfile, "client_ca": authority(tmp_path)}
        files[missing] = tmp_path / "missing.pem"
        with pytest.raises(FileNotFoundError) as error:
            ServerSSLContext(**files)
        assert error.value.filename == str(tmp_path / "missing.pem")

    def test_that_do_not_belong_together(self, tmp_path: Path) -> None:
        certfile, keyfile = issue(tmp_path, "localhost").certfile, issue(tmp_path, "other").keyfile
        with pytest.raises(ssl.SSLError, match="the private key is not that of the certificate") as error:
            ServerSSLContext(certfile, keyfile)
        assert str(certfile) in str(error.value)
        assert str(keyfile) in str(error.value)

    def test_that_are_no_certificates(self, tmp_path: Path) -> None:
        certfile, keyfile, _ = issue(tmp_path, "localhost")
        junk = tmp_path / "junk.pem"
        junk.write_text("junk")
        for files in ((junk, keyfile), (certfile, junk), (certfile, None)):
            with pytest.raises(ssl.SSLError, match="no certificate with its key in"):
                ServerSSLContext(*files)
        with pytest.raises(ssl.SSLError, match=f"no certificate of an authority in {junk}"):
            ServerSSLContext(certfile, keyfile, client_ca=junk)

    def test_with_a_password(self, tmp_path: Path) -> None:
        certfile, keyfile, _ = issue(tmp_path, "localhost")
        locked = tmp_path / "locked.key"
        lock = ["openssl", "pkcs8", "-topk8", "-in", keyfile, "-out", locked, "-passout", "pass:right"]
        subprocess.run(lock, check=True, timeout=SOON)
        asked: list[None] = []
        context = ServerSSLContext(certfile, locked, lambda: asked.append(None) or "right")
        assert names_shown(context.renewed(), "localhost") == {"localhost"}
        assert len(asked) == 2
        assert names_shown(ServerSSLContext(certfile, locked, "right"), "localhost") == {"localhost"}
        with pytest.raises(ssl.SSLError, match="no certificate with its key in"):
            ServerSSLContext(certfile, locked, "wrong")
        with pytest.raises(ssl.SSLError, match="no password was given"):  # nor is anybody asked at the terminal
            ServerSSLContext(certfile, locked)

    def test_are_read_anew(self, tmp_path: Path) -> None:
        table = {"example.org": issue(tmp_path, "example.org")}
        context = ServerSSLContext(*issue(tmp_path, "localhost"), names=table)
        issue(tmp_path, "localhost", "new.example")
        issue(tmp_path, "example.org", "newer.example")
        other = context.renewed()
        assert [names_shown(context, name) for name in ("x", "example.org")] == [{"localhost"}, {"example.org"}]
        assert [names_shown(other, name) for name in ("x", "example.org")] == [{"new.example"}, {"newer.example"}]


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (TimeoutError("timed out"), "timed out"),
            (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
            (ssl.SSLEOFError(8, "EOF occurred"), "EOF occurred"),
        ],
    )
    def test_of_the_stream(self, error: OSError, says: str) -> None:
        assert failure(error) == says
        ours, theirs = socket_pair()
        with ours, theirs:
            assert not end_refused(ours, error)

    def test_of_a_client_that_speaks_http(self) -> None:
        ours, theirs = socket_pair()
        with ours, theirs:
            theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
            tls = certificates().server.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
            with tls:
                with pytest.raises(ssl.SSLError) as error:
                    tls.do_handshake()
                assert failure(error.value) == "plain HTTP"
                assert end_refused(tls, error.value)
                answer = RawPeer(theirs, masks=True).read_to_end()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert b"https://" in body


# Servers


class Telling(Quiet):
    """Tells who is there, by HTTP and by WebSocket."""

    def authorize(self) -> HTTPStatus | None:
        return HTTPStatus.FORBIDDEN if self.who() == "eve@example.org" else None

    def on_open(self) -> None:
        self.websocket.send(self.who())

    def do_GET(self) -> None:
        body = self.who().encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def who(self) -> str:
        if self.peer_certificate is None:
            return "nobody"
        return dict(self.peer_certificate["subjectAltName"])["email"]  # type: ignore[no-any-return]


@contextlib.contextmanager
def serving_with(context: ssl.SSLContext, server_class: type, handler: type = Quiet) -> Iterator[Running]:
    with serving(handler, server_class=server_class, tls=True) as running:
        running.server.ssl_context = context
        yield running


def client(running: Running, context: ssl.SSLContext | None = None, host: str = "localhost") -> WebSocketClient:
    sock = socket.create_connection(running.address[:2], SOON)
    return WebSocketClient(f"wss://{host}/", sock=sock, ssl_context=context or untrusting())


def shown(running: Running, host: str = "localhost") -> set[str]:
    """Return the host names of the certificate that a new connection gets."""
    with socket.create_connection(running.address[:2], SOON) as raw:
        with untrusting().wrap_socket(raw, server_hostname=host) as sock:
            certificate: Any = sock.getpeercert()
            return {value for kind, value in certificate["subjectAltName"] if kind == "DNS"}


@both_servers
class TestReloading:
    def test_new_connections_get_what_is_new(self, server_class: type, tmp_path: Path) -> None:
        context = ServerSSLContext(*issue(tmp_path, "localhost"), names={"a.example": issue(tmp_path, "a.example")})
        with serving_with(context, server_class) as running, client(running) as before:
            issue(tmp_path, "localhost", "new.example")
            issue(tmp_path, "a.example", "newer.example")
            assert shown(running) == {"localhost"}
            run_in_thread(running.server.reload_certificate).result()
            assert shown(running) == {"new.example"}
            assert shown(running, "a.example") == {"newer.example"}
            before.send("still here")
            assert before.recv(SOON) == "still here"
            with client(running) as after:
                after.send("me too")
                assert after.recv(SOON) == "me too"

    @pytest.mark.parametrize("fault", ["missing", "junk", "another's key", "one of the names"])
    def test_a_bad_file_changes_nothing(self, server_class: type, tmp_path: Path, fault: str) -> None:
        context = ServerSSLContext(*issue(tmp_path, "localhost"), names={"a.example": issue(tmp_path, "a.example")})
        with serving_with(context, server_class) as running:
            issue(tmp_path, "localhost", "new.example")
            if fault == "missing":
                (tmp_path / "localhost.key").unlink()
            elif fault == "junk":
                (tmp_path / "localhost.pem").write_text("junk")
            else:
                bad = "localhost" if fault == "another's key" else "a.example"
                issue(tmp_path, "other")
                os.replace(tmp_path / "other.key", tmp_path / f"{bad}.key")
            with pytest.raises(OSError, match=r"localhost|a\.example"):
                running.server.reload_certificate()
            assert shown(running) == {"localhost"}
            assert shown(running, "a.example") == {"a.example"}

    def test_from_a_signal_handler(self, server_class: type, tmp_path: Path) -> None:
        with serving_with(ServerSSLContext(*issue(tmp_path, "localhost")), server_class) as running:
            issue(tmp_path, "localhost", "new.example")
            before = signal.signal(signal.SIGHUP, lambda *_: running.server.reload_certificate())
            try:
                signal.raise_signal(signal.SIGHUP)
            finally:
                signal.signal(signal.SIGHUP, before)
            assert shown(running) == {"new.example"}

    def test_under_load_every_handshake_is_one_or_the_other(self, server_class: type, tmp_path: Path) -> None:
        with serving_with(ServerSSLContext(*issue(tmp_path, "localhost")), server_class) as running:
            over = threading.Event()

            def visit() -> list[set[str]]:
                seen = []
                while not over.is_set():
                    seen.append(shown(running))
                return seen

            visiting = [run_in_thread(visit) for _ in range(2)]
            for number in range(20):
                issue(tmp_path, "localhost", f"number-{number}.example")
                running.server.reload_certificate()
            over.set()
            seen = [names for handle in visiting for names in handle.result()]
            assert all(len(names) == 1 for names in seen)
            assert shown(running) == {"number-19.example"}

    def test_a_context_made_by_hand_has_no_files(self, server_class: type, tmp_path: Path) -> None:
        with serving(server_class=server_class, tls=True) as running:
            with pytest.raises(RuntimeError, match="does not know its files"):
                running.server.reload_certificate()
            by_hand = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            by_hand.load_cert_chain(*issue(tmp_path, "new.example")[:2])
            running.server.ssl_context = by_hand
            assert shown(running) == {"new.example"}

    def test_without_tls_there_is_nothing_to_read(self, server_class: type) -> None:
        with server_class(("127.0.0.1", 0), Quiet) as server, pytest.raises(RuntimeError, match="no ssl_context"):
            server.reload_certificate()


@both_servers
class TestWhoIsThere:
    def test_is_told_to_all_that_is_served(self, server_class: type, tmp_path: Path) -> None:
        options: dict[str, Any] = {"client_ca": authority(tmp_path), "client_optional": True}
        context = ServerSSLContext(*issue(tmp_path, "localhost"), **options)
        with serving_with(context, server_class, Telling) as running:
            with client(running, member(tmp_path)) as ann, client(running) as nobody:
                assert ann.recv(SOON) == "ann@example.org"
                assert nobody.recv(SOON) == "nobody"
            with pytest.raises(HandshakeError, match="403"):
                client(running, member(tmp_path, "eve@example.org"))
            with socket.create_connection(running.address[:2], SOON) as raw:
                with member(tmp_path).wrap_socket(raw, server_hostname="localhost") as sock:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert RawPeer(sock, masks=True).read_to_end().endswith(b"\r\n\r\nann@example.org")

    def test_who_must_have_a_certificate_is_told_so(self, server_class: type, tmp_path: Path) -> None:
        """The alert arrives, though TLS 1.3 lets a client send its request before it (RFC 8446, 4.4.2.4)."""
        context = ServerSSLContext(*issue(tmp_path, "localhost"), client_ca=authority(tmp_path))
        with serving_with(context, server_class) as running:
            for _ in range(5):
                with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                    client(running)
            wait_until(lambda: len(lines(running)) == 5)
            client(running, member(tmp_path)).close()

    def test_nobody_without_tls(self, server_class: type) -> None:
        with serving(Telling, server_class=server_class) as running, WebSocketClient(running.url()) as websocket:
            assert websocket.recv(SOON) == "nobody"


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _reset_in_the_hello(sock: socket.socket) -> None:
    sock.sendall(HALF_HELLO)
    _reset(sock)


def _reset_after_the_hello(sock: socket.socket) -> None:
    """The server has answered by then, or is about to."""
    outgoing = ssl.MemoryBIO()
    end = untrusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()
    sock.sendall(outgoing.read())
    sock.recv(1)
    _reset(sock)


def _leave_in_the_hello(sock: socket.socket) -> None:
    sock.sendall(HALF_HELLO)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)


def _junk(sock: socket.socket) -> None:
    sock.sendall(b"\x80\x01\x02 what is this?" * 100)
    with contextlib.suppress(ConnectionResetError):
        RawPeer(sock, masks=True).read_to_end()


def _plain_http(sock: socket.socket) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 500 + b"\r\n")
    assert RawPeer(sock, masks=True).read_to_end().startswith(b"HTTP/1.1 400 ")


def _tls_1_1(sock: socket.socket) -> None:
    sock.sendall(HELLO_1_1)
    answer = RawPeer(sock, masks=True).read_to_end()
    assert answer[:1] == b"\x15", answer  # an alert,
    assert answer[5:7] == b"\x02\x46", answer  # fatal: protocol_version (RFC 5246, 7.2)


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
@pytest.mark.parametrize("unread", [b"", b"x"])
def test_a_socket_that_was_reset_is_closed_where_it_cannot_be_wrapped(
    server_side: bool, unread: bytes, tmp_path: Path
) -> None:
    """The standard library takes the descriptor and then loses it: the collector would say so."""
    context = ServerSSLContext(*issue(tmp_path, "localhost")) if server_side else client_context()
    options = {"server_side": True} if server_side else {"server_hostname": "localhost"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), SOON)
        theirs, _ = listener.accept()
    with ours:
        theirs.sendall(unread)
        _reset(theirs)
        theirs.close()
        wait_until(lambda: not is_connected(ours))
        with pytest.raises(OSError):
            wrap(context, ours, **options)
        assert ours.fileno() == -1


def test_nobody_has_presented_a_certificate_who_has_left_before_it_was_looked_at() -> None:
    with wrap(certificates().server, socket.socket(), server_side=True) as sock:
        assert peer_certificate(sock) is None


@both_servers
class TestHostile:
    def test_a_reset_in_the_moment_of_wrapping_costs_one_line(
        self, server_class: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Between our look whether the client is there and that of the standard library, which loses the descriptor."""
        context = ServerSSLContext(*issue(tmp_path, "localhost"))
        wrap = context.wrap_socket

        def late(sock: socket.socket, **options: Any) -> ssl.SSLSocket:
            with clients.get(timeout=SOON) as gone:
                _reset(gone)
            wait_until(lambda: not is_connected(sock))
            return wrap(sock, **options)

        monkeypatch.setattr(context, "wrap_socket", late)
        clients: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        with serving_with(context, server_class) as running:
            client = socket.create_connection(running.address[:2], SOON)
            client.sendall(b"x")  # which is still to be read
            clients.put(client)
            wait_until(lambda: clients.empty() and not len(running.server.registry))
            assert running.errors == []
            assert len(lines(running)) <= 1

    @pytest.mark.parametrize(
        "act",
        [
            _reset,
            _reset_in_the_hello,
            _reset_after_the_hello,
            _leave_in_the_hello,
            _junk,
            _plain_http,
            _tls_1_1,
        ],
    )
    def test_costs_one_line_at_most(
        self,
        server_class: type,
        act: Callable[[socket.socket], None],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        context = ServerSSLContext(*issue(tmp_path, "localhost"), names={"a.example": issue(tmp_path, "a.example")})
        with serving_with(context, server_class) as running:
            for _ in range(3):
                with socket.create_connection(running.address[:2], SOON) as sock:
                    act(sock)
            wait_until(lambda: not len(running.server.registry))
            assert len(lines(running)) <= 3
            assert all("TLS handshake failed: " in line for line in lines(running))
            assert running.errors == []
            with client(running) as websocket:
                websocket.send("x")
                assert websocket.recv(SOON) == "x"
        assert capfd.readouterr().err == ""

    def test_slow_handshakes_delay_nobody(self, server_class: type, tmp_path: Path) -> None:
        """Silent ones, and ones that stop in the middle of their hello: R46."""
        context = ServerSSLContext(*issue(tmp_path, "localhost"))
        patient = type("Patient", (Quiet,), {"handshake_timeout": 60})
        with serving_with(context, server_class, patient) as running, contextlib.ExitStack() as stack:
            for number in range(200):
                sock = stack.enter_context(socket.create_connection(running.address[:2], SOON))
                sock.sendall(HALF_HELLO[: number % 2 * 100])
            with client(running) as websocket:
                websocket.send("x")
                assert websocket.recv(SOON) == "x"
            assert len(running.server.registry) >= 200

    def test_renegotiation_is_refused(self, server_class: type, tmp_path: Path) -> None:
        """A client could have the server compute for ever (RFC 7457, 2.6)."""
        with serving_with(ServerSSLContext(*issue(tmp_path, "localhost")), server_class) as running:
            command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{running.port}"]
            done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=SOON)
            assert b"RENEGOTIATING" in done.stdout + done.stderr
            assert b"no renegotiation" in done.stderr


@both_servers
@pytest.mark.parametrize("seconds", [0.3, pytest.param(5, marks=pytest.mark.slow)])
def test_many_threads_send_and_receive_at_once(server_class: type, seconds: float) -> None:
    """R47. For minutes: python3 -m tests.stress_duplex"""
    figures = stress_duplex.run(seconds, 4, server_class)
    assert figures["errors"] == []
    assert figures["messages"] > 20
    assert figures["pings"]


class TestTheEnd:
    @both_servers
    def test_is_told_by_tls_and_the_clients_is_not_waited_for(self, server_class: type) -> None:
        """R48: close_notify is sent, behind our Close; a client that never sends its own holds up nobody."""
        with serving(server_class=server_class, tls=True, close_timeout=60) as running:
            with socket.create_connection(running.address[:2], SOON) as raw:
                context = untrusting()
                sock = context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
                with sock, raw_peer(sock) as peer:
                    peer.close_frame()
                    assert peer.read_close() == 1000
                    assert sock.recv(1) == b""  # and no SSLEOFError
                    socket.socket.shutdown(sock, socket.SHUT_WR)  # TCP ends, and TLS says nothing
                    wait_until(lambda: not len(running.server.registry))

    @pytest.mark.parametrize("role", Role)
    def test_of_a_stream_that_was_cut_is_1006(self, role: Role) -> None:
        """R48: anybody between the two can end the TCP stream, and nobody but the peer the TLS one."""
        with half(role, tls=True) as (connection, peer):
            peer.frame(1, b"all of it")
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)
            assert connection.recv(SOON) == "all of it"
            with pytest.raises(Exception, match="without a Close"):
                connection.recv(SOON)
            assert connection.close_code == 1006


@contextlib.contextmanager
def raw_peer(sock: ssl.SSLSocket) -> Iterator[RawPeer]:
    sock.sendall(opening_request())
    peer = RawPeer(sock, masks=True)
    assert b" 101 " in peer.read_until(b"\r\n\r\n")
    yield peer

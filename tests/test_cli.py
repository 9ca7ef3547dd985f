"""The command line as a user meets it: started as a program, or main() for what ends at once.

The terminal client has its tests in test_terminal.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import ConnectionClosedOK, HandshakeError, WebSocketClient, WebSocketRequestHandler, cli
from websocketserver.tls import client_context

from .program import ROOT, Program
from .support import SOON, certificates, closed_port, opening_request, run_in_thread, running_server

MODULE = ("-m", "websocketserver")


@contextlib.contextmanager
def serving(*arguments: object, cwd: Path = ROOT, **streams: Any) -> Iterator[tuple[Program, str]]:
    """Yield a running server and its URL; afterwards Ctrl-C must have ended it with one line and exit code 0."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Program(*MODULE, 0, "-b", "127.0.0.1", *arguments, cwd=cwd, env=environment, **streams) as program:
        yield program, program.url()
        program.interrupt()
        assert program.wait() == (0, "", "Stopped.\n")


def _silent(self: object, *line: object) -> None:
    """In place of a handler's log_message."""


def websocket_url(url: str) -> str:
    return url.replace("http", "ws", 1)


def read(url: str, **options: Any) -> bytes:
    with urllib.request.urlopen(url, timeout=SOON, **options) as response:
        return bytes(response.read())


class TestServe:
    def test_serves_the_demo_and_prints_one_line(self) -> None:
        with serving() as (_, url):
            assert url.startswith("http://127.0.0.1:")
            assert read(url) == (ROOT / "websocketserver/demo.html").read_bytes()
            with WebSocketClient(websocket_url(url)) as websocket:
                websocket.send("hello")
                assert websocket.recv(timeout=SOON) == "hello"

    def test_listens_on_all_interfaces_and_prints_a_url_for_this_one(self) -> None:
        with Program(*MODULE, "0") as program:
            url = program.url()
            assert url.startswith("http://localhost:")
            assert read(url)
            assert read(url.replace("localhost", "127.0.0.1"))
            program.process.terminate()
            assert program.wait() == (0, "", "Stopped.\n")

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
    def test_listens_on_an_ipv6_address(self) -> None:
        with Program(*MODULE, "0", "-b", "::1") as program:
            url = program.url()
            assert url.startswith("http://[::1]:")
            assert read(url)

    def test_runs_on_a_bare_python(self) -> None:
        with Program("-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
                     "from websocketserver.cli import main; sys.exit(main(['0']))") as program:  # fmt: skip
            assert read(program.url())
            program.interrupt()
            assert program.wait()[0] == 0

    def test_ctrl_c_says_goodbye_to_open_connections(self) -> None:
        with contextlib.ExitStack() as stack:
            with serving() as (_, url):
                websocket = stack.enter_context(WebSocketClient(websocket_url(url)))
                receiving = run_in_thread(websocket.recv)
                websocket.send("one")
                assert receiving.result() == "one"
                receiving = run_in_thread(websocket.recv)
            with pytest.raises(ConnectionClosedOK) as closed:
                receiving.result()
            assert closed.value.code == 1001

    def test_ctrl_c_does_not_wait_for_one_that_never_answers(self, tmp_path: Path) -> None:
        (tmp_path / "patient.py").write_text(
            "from websocketserver import WebSocketRequestHandler\n"
            "class Patient(WebSocketRequestHandler):\n"
            "    close_timeout = 60\n"
        )
        with serving("--handler", "patient:Patient", cwd=tmp_path) as (program, url):
            address = urllib.request.Request(url).host.split(":")
            with socket.create_connection((address[0], int(address[1])), SOON) as sock:
                sock.sendall(opening_request())
                assert sock.recv(1000).startswith(b"HTTP/1.1 101")
                assert program.seconds_to_end() < 9  # shutdown_timeout is 10

    def test_directory_beside_the_websocket(self, tmp_path: Path) -> None:
        (tmp_path / "hello.txt").write_text("hello")
        with serving("-d", tmp_path) as (_, url):
            assert read(url + "hello.txt") == b"hello"
            assert b"hello.txt" in read(url)
            with WebSocketClient(websocket_url(url) + "hello.txt") as websocket:
                websocket.send("echo")
                assert websocket.recv(timeout=SOON) == "echo"

    @pytest.mark.parametrize("directory", [False, True])
    def test_handler_of_the_users(self, tmp_path: Path, directory: bool) -> None:
        (tmp_path / "shouting.py").write_text(
            "from websocketserver import WebSocketRequestHandler\n"
            "class Outer:\n"
            "    class Shout(WebSocketRequestHandler):\n"
            "        def on_message(self, message):\n"
            "            self.websocket.send(message.upper())\n"
        )
        files = ("-d", ".") if directory else ()
        with serving("--handler", "shouting:Outer.Shout", *files, cwd=tmp_path) as (_, url):
            assert url.startswith("http:" if directory else "ws:")
            with WebSocketClient(websocket_url(url) if directory else url) as websocket:
                websocket.send("hello")
                assert websocket.recv(timeout=SOON) == "HELLO"
            if directory:
                assert b"Shout" in read(url + "shouting.py")

    def test_a_handler_that_serves_files_itself_gets_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / "site.txt").write_text("files")
        with serving("--handler", "examples.static_site:Site", "-d", tmp_path) as (_, url):
            assert read(url + "site.txt") == b"files"

    @pytest.mark.parametrize("one_file", [False, True])
    def test_tls(self, tmp_path: Path, one_file: bool) -> None:
        certificate, key, _ = certificates().write(tmp_path)
        if one_file:
            both = tmp_path / "both.pem"
            both.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
            options: tuple[object, ...] = ("--tls-cert", both)
        else:
            options = ("--tls-cert", certificate, "--tls-key", key)
        with serving(*options) as (_, url):
            assert url.startswith("https://127.0.0.1:")
            assert read(url, context=certificates().client)
            with WebSocketClient(websocket_url(url), ssl_context=certificates().client) as websocket:
                websocket.send("secret")
                assert websocket.recv(timeout=SOON) == "secret"

    def test_hangup_reads_the_certificate_anew(self, tmp_path: Path) -> None:
        certificate, key, _ = certificates().write(tmp_path)
        with serving("--tls-cert", certificate, "--tls-key", key) as (program, url):
            port = urllib.parse.urlsplit(url).port
            with WebSocketClient(websocket_url(url), ssl_context=certificates().client) as websocket:
                issued = certificates().authority.issue_cert("new.example")
                issued.private_key_pem.write_to_path(key)
                program.process.send_signal(signal.SIGHUP)
                assert " 101 " in program.error_line()
                assert " the certificate stays as it was: the private key is not that of " in program.error_line()
                shown = self.certificate(port)
                issued.cert_chain_pems[0].write_to_path(certificate)
                program.process.send_signal(signal.SIGHUP)
                assert program.error_line().endswith(" the certificate was read anew")
                assert self.certificate(port) != shown
                websocket.send("still here")
                assert websocket.recv(timeout=SOON) == "still here"

    def test_a_signal_has_it_tell_what_it_holds(self) -> None:
        with Program(*MODULE, 0, "-b", "127.0.0.1") as program:
            url = "ws" + program.url()[4:]
            with WebSocketClient(url) as websocket:
                assert " 101 " in program.error_line()
                websocket.send("hello")
                assert websocket.recv(timeout=SOON) == "hello"  # the line comes before it is one of the connections
                program.process.send_signal(signal.SIGUSR1)
                assert program.error_line().endswith(": 1 sockets, 1 of them WebSockets")
                lines = []
                while not lines or "Other threads:" not in lines[-1]:
                    lines.append(program.error_line())
                assert any(" / open for " in line for line in lines)
                assert any("process_request_thread" in line for line in lines)
                websocket.send("{}")
            program.interrupt()
            assert program.process.wait(SOON) == 0

    def certificate(self, port: int | None) -> bytes | None:
        """Return the certificate that a new connection gets."""
        with socket.create_connection(("127.0.0.1", port), SOON) as raw:  # type: ignore[arg-type]
            with client_context(verify=False).wrap_socket(raw) as sock:
                return sock.getpeercert(binary_form=True)

    def test_hangup_of_the_terminal_ends_it(self, tmp_path: Path) -> None:
        certificate, key, _ = certificates().write(tmp_path)
        ours, theirs = os.openpty()
        arguments = (*MODULE, 0, "-b", "127.0.0.1", "--tls-cert", certificate, "--tls-key", key)
        in_terminal = "import os, sys; os.setsid(); os.close(os.open(os.ttyname(2), os.O_RDWR)); " \
                      "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"  # fmt: skip
        with Program("-c", in_terminal, *arguments, stderr=theirs) as program:
            os.close(theirs)
            try:
                assert read(program.url(), context=certificates().client)
            finally:
                os.close(ours)
            assert program.process.wait(SOON) == 0

    def test_clients_may_have_to_have_a_certificate(self, tmp_path: Path) -> None:
        certificate, key, authority = certificates().write(tmp_path)
        with serving("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority) as (_, url):
            with pytest.raises(OSError, match=r"(?i)certificate.required"):
                read(url, context=certificates().client)
            member = ssl.create_default_context(cafile=authority)
            certificates().authority.issue_cert("ann@example.org").configure_cert(member)
            assert read(url, context=member)


class TestMistakes:
    """One line on standard error, no traceback."""

    @staticmethod
    def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str]:
        try:
            exit_code: int | str | None = cli.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            exit_code = leaving.code
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.count("\n") == 1
        assert errors.startswith("python3 -m websocketserver")
        return exit_code, errors

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["65536"], "'65536' is not a port number (0 to 65535)"),
            (["-1"], "-1"),
            (["eighty"], "'eighty' is not a port number"),
            (["²"], "is not a port number"),
            (["--no-such-option"], "--no-such-option"),
            (["-d", "/no/such/directory"], "'/no/such/directory' is not a directory"),
            (["--tls-key", "key.pem"], "need --tls-cert"),
            (["--handler", ""], "must be MODULE:CLASS"),
            (["--handler", "module"], "must be MODULE:CLASS"),
            (["--handler", ":Class"], "must be MODULE:CLASS"),
            (["--handler", "no_such_module:Class"], "No module named 'no_such_module'"),
            (["--handler", "websocketserver:NoSuchClass"], "module websocketserver has no NoSuchClass"),
            (["--handler", "websocketserver:__name__"], "is not a handler class"),
            (["--handler", "websocketserver:Settings"], "is not a handler class"),
            (["--handler", "os.path:join", "-d", "."], "--directory needs a handler class"),
            (["connect"], "URL"),
            (["connect", "http:/localhost"], "http:/localhost"),
            (["connect", "gopher://localhost/"], "gopher"),
            (["connect", "ws://localhost/", "-H", "no colon"], "'no colon' is not of the form 'Name: value'"),
            (["connect", "ws://localhost/", "-H", ": nameless"], "is not of the form 'Name: value'"),
            (["connect", "ws://localhost/", "-H", "Name: bad\rvalue"], ""),
            (["connect", "ws://localhost/", "--wait", "-1"], "'-1' is not a number of seconds"),
            (["connect", "ws://localhost/", "--wait", "soon"], "'soon' is not a number of seconds"),
        ],
    )
    def test_of_usage(self, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str) -> None:
        exit_code, complaint = self.complaint(capsys, *arguments)
        assert problem in complaint
        assert exit_code == 2

    def test_handler_module_that_raises(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "raising_module.py").write_text("\n1 / 0\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", ["/nowhere"])
        exit_code, complaint = self.complaint(capsys, "--handler", "raising_module:Class")
        assert "ZeroDivisionError: division by zero" in complaint
        assert "raising_module.py, line 2)" in complaint
        assert exit_code == 2

    def test_port_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            exit_code, complaint = self.complaint(capsys, "-b", "127.0.0.1", other.getsockname()[1])
        assert "Address already in use; another port may be free, 0 takes one" in complaint
        assert exit_code == 1

    def test_address_that_is_not_ours(self, capsys: pytest.CaptureFixture[str]) -> None:
        exit_code, complaint = self.complaint(capsys, "0", "-b", "192.0.2.1")
        assert "cannot listen on 192.0.2.1, port 0: " in complaint
        assert exit_code == 1

    @pytest.mark.parametrize("address", ["x" * 70 + ".example", "nowhere.invalid"])
    def test_address_that_is_none(self, capsys: pytest.CaptureFixture[str], address: str) -> None:
        exit_code, complaint = self.complaint(capsys, "0", "-b", address)
        assert f"cannot listen on {address}, port 0: " in complaint
        assert exit_code == 1

    def test_certificate_that_is_not_there(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        missing = tmp_path / "missing.pem"
        exit_code, complaint = self.complaint(capsys, "--tls-cert", missing)
        assert f"cannot read {missing}: No such file or directory" in complaint
        assert exit_code == 1

    def test_certificate_that_is_none(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        certificate, _, authority = certificates().write(tmp_path)
        exit_code, complaint = self.complaint(capsys, "--tls-cert", certificate, "--tls-key", authority)
        assert f"no certificate with its key in {certificate} and {authority}: " in complaint
        assert exit_code == 1

    def test_wrong_password_of_the_key(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        certificate, key, _ = certificates().write(tmp_path)
        locked, password = tmp_path / "locked.key", tmp_path / "password"
        lock = ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:right"]
        subprocess.run(lock, check=True, timeout=SOON)
        password.write_text("wrong\n")
        options = ("--tls-cert", certificate, "--tls-key", locked, "--tls-password-file", password)
        exit_code, complaint = self.complaint(capsys, *options)
        assert "no certificate with its key in" in complaint
        assert exit_code == 1
        password.write_text("right\n")
        context = cli._server_context(cli._serve_parser().parse_args([str(option) for option in options]))
        assert isinstance(context, ssl.SSLContext)
        assert context.options & ssl.OP_NO_RENEGOTIATION

    def test_nobody_listens(self, capsys: pytest.CaptureFixture[str]) -> None:
        exit_code, complaint = self.complaint(capsys, "connect", f"ws://me:secret@127.0.0.1:{closed_port()}/")
        assert "cannot connect to ws://127.0.0.1:" in complaint
        assert "Connection refused" in complaint
        assert exit_code == 1

    def test_server_that_refuses(self, capsys: pytest.CaptureFixture[str]) -> None:
        with running_server(WebSocketRequestHandler, log_message=_silent) as running:
            exit_code, complaint = self.complaint(capsys, "connect", running.url(), "--origin", "https://example.com")
        assert "403 Forbidden: origin https://example.com is not allowed\n" in complaint
        assert exit_code == 1

    @pytest.mark.parametrize(
        ("content_type", "body", "explained"),
        [
            ("text/plain", b"401 Unauthorized: no token\n", "refused: no token"),
            ("text/plain; charset=utf-8", b"Go away.\nPlease.", "refused: Go away."),
            ("text/html", b"<!DOCTYPE html>", "refused"),
            ("text/plain", b" \n", "refused"),
        ],
    )
    def test_refusals_are_explained(self, content_type: str, body: bytes, explained: str) -> None:
        error = HandshakeError("refused", 401, {"Content-Type": content_type}, body)
        assert cli._refusal(error) == explained

    def test_insecure_is_of_no_concern_without_tls(self, capsys: pytest.CaptureFixture[str]) -> None:
        with running_server(WebSocketRequestHandler, log_message=_silent) as running:
            exit_code, complaint = self.complaint(
                capsys, "connect", "--insecure", "--origin", "https://a.example", running.url()
            )
        assert "403 Forbidden" in complaint
        assert exit_code == 1

    def test_certificate_that_nobody_vouches_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        with running_server(WebSocketRequestHandler, tls=True, log_message=_silent) as running:
            exit_code, complaint = self.complaint(capsys, "connect", running.url())
        assert "certificate is not trusted: unable to get local issuer certificate (--insecure" in complaint
        assert exit_code == 1

    def test_help_is_on_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (["--help"], ["connect", "--help"]):
            with pytest.raises(SystemExit) as leaving:
                cli.main(arguments)
            assert leaving.value.code == 0
            assert "usage: python3 -m websocketserver" in capsys.readouterr().out

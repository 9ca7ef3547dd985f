"""The terminal client as a user meets it: python3 -m websocketserver connect URL, piped and at a terminal."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import Role, Settings, WebSocketRequestHandler
from websocketserver.terminal import Terminal

from .program import Program
from .support import MS, SOON, RawPeer, Running, half, run_in_thread, running_server, wait_until

CONNECT = ("-m", "websocketserver", "connect")


class Echo(WebSocketRequestHandler):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)


EVIL = "\x1b]0;owned\x07\ttab\nnewline \x9b2J \u202eabc caf\u00e9".encode()


class Scripted(WebSocketRequestHandler):
    """Does what the first message says."""

    def on_message(self, message: Any) -> None:
        word, _, rest = message.partition(" ")
        if word == "close":
            self.websocket.close(int(rest), "as you wish")
        elif word == "header":
            self.websocket.send(repr(self.headers[rest]))
        elif word == "subprotocol":
            self.websocket.send(repr(self.websocket.subprotocol))
        elif word == "evil":
            self.websocket.send(EVIL.decode())
            self.websocket.send(b"\x00\xff")

    subprotocols = ("chat",)


@pytest.fixture
def echo() -> Iterator[Running]:
    with running_server(Echo) as running:
        yield running


@pytest.fixture
def scripted() -> Iterator[Running]:
    with running_server(Scripted) as running:
        yield running


def connect(url: str, *options: str, typed: bytes, expected: int = 0, wait: str = "0.05") -> tuple[int, bytes, str]:
    """Run connect to its end; return exit code, output and errors.

    Its standard input ends when so many bytes of output as are expected have come.
    """
    with Program(*CONNECT, "--wait", wait, *options, url, stdin=subprocess.PIPE) as program:
        typing = run_in_thread(program.type, typed)
        output = program.read(expected)
        typing.result()
        rest, errors = program.process.communicate(timeout=SOON)
        return program.process.returncode, output + rest, errors.decode()


class TestConnectPiped:
    @pytest.mark.parametrize(
        ("typed", "printed"),
        [
            (b"hi\n", b"hi\n"),
            (b"dos\r\nunix\n", b"dos\nunix\n"),
            (b"\n\n", b"\n\n"),
            ("caf\u00e9 \u2028\x0b\x0c one line\n".encode(), "caf\u00e9 \u2028\x0b\x0c one line\n".encode()),
            (b"x" * 300_000 + b"\nlast\n", b"x" * 300_000 + b"\nlast\n"),
            (b"", b""),
        ],
        ids=["line", "line-ends", "empty-lines", "utf-8", "long", "nothing"],
    )
    def test_lines_are_messages_both_ways(self, echo: Running, typed: bytes, printed: bytes) -> None:
        exit_code, output, errors = connect(echo.url(), typed=typed, expected=len(printed))
        assert output == printed
        assert errors == f"Connected to {echo.url()}\nClosed: 1000\n"
        assert exit_code == 0

    def test_many_lines_lose_nothing(self, echo: Running) -> None:
        lines = b"".join(b"line %d\n" % number for number in range(5000))
        assert connect(echo.url(), typed=lines, expected=len(lines))[:2] == (0, lines)

    def test_answers_to_the_last_line_are_waited_for(self) -> None:
        """A Close right behind it would overtake the answers of servers that read ahead."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = run_in_thread(self._answer, listener)
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            with Program(*CONNECT, "--wait", "60", url, stdin=subprocess.PIPE) as program:
                exit_code, output, _ = program.wait(b"question without a line's end")
            assert server.result() == 1000
            assert (exit_code, output) == (0, "one\ntwo\n")

    @staticmethod
    def _answer(listener: socket.socket) -> int:
        with _accept(listener) as peer:
            assert peer.read_frame().payload == b"question without a line's end"
            peer.frame(1, b"one")
            peer.frame(1, b"two")
            peer.close_frame()
            return peer.read_close()

    def test_closes_when_nothing_has_come_for_a_while_after_the_end_of_input(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = run_in_thread(self._wait_for_close, listener)
            exit_code, _, errors = connect(f"ws://127.0.0.1:{listener.getsockname()[1]}/", typed=b"")
            assert server.result() == 1000
            assert exit_code == 0
            assert errors.endswith("\nClosed: 1000\n")

    @staticmethod
    def _wait_for_close(listener: socket.socket) -> int:
        with _accept(listener) as peer:
            peer.frame(1, b"greeting")
            code = peer.read_close()
            peer.close_frame(code)
            return code

    def test_http_urls_are_understood(self, echo: Running) -> None:
        assert connect(echo.http_url(), typed=b"hi\n", expected=3)[:2] == (0, b"hi\n")

    def test_tls(self) -> None:
        with running_server(Echo, tls=True) as running:
            assert connect(running.url(), "--insecure", typed=b"hi\n", expected=3)[:2] == (0, b"hi\n")

    def test_headers_origin_and_subprotocol_are_sent(self, scripted: Running) -> None:
        options = ("-H", "X-One: 1", "--header", "X-Two:two: 2", "--subprotocol", "other", "--subprotocol", "chat")
        typed = b"header X-One\nheader X-Two\nheader Origin\nsubprotocol\n"
        origin = scripted.http_url().rstrip("/")
        expected = "\n".join(["'1'", "'two: 2'", repr(origin), "'chat'", ""]).encode()
        exit_code, output, errors = connect(
            scripted.url(), *options, "--origin", origin, typed=typed, expected=len(expected)
        )
        assert output == expected
        assert f"Connected to {scripted.url()} with subprotocol chat\n" in errors
        assert exit_code == 0

    def test_binary_messages_are_printed_in_hexadecimal(self, scripted: Running) -> None:
        assert connect(scripted.url(), typed=b"evil\n", expected=len(EVIL) + 6)[1].endswith(b"\n00ff\n")

    def test_binary_is_a_pipe_for_bytes(self, echo: Running) -> None:
        data = bytes(range(256)) * 1000
        assert connect(echo.url(), "--binary", typed=data, expected=len(data))[:2] == (0, data)

    def test_binary_writes_text_without_line_ends_too(self) -> None:
        class Greeter(WebSocketRequestHandler):
            def on_open(self) -> None:
                self.websocket.send("text")
                self.websocket.send(b"\n\xff")
                self.websocket.close()

        with running_server(Greeter) as running:
            assert connect(running.url(), "--binary", typed=b"", wait="inf")[:2] == (0, b"text\n\xff")

    def test_control_characters_pass_unchanged_into_a_pipe(self, scripted: Running) -> None:
        assert connect(scripted.url(), typed=b"evil\n", expected=len(EVIL) + 6)[1].startswith(EVIL)

    def test_input_that_is_not_utf_8(self, echo: Running) -> None:
        exit_code, _, errors = connect(echo.url(), typed=b"fine\n\xff\n")
        assert "error: standard input is not UTF-8; --binary sends it as it is\n" in errors
        assert exit_code == 1

    @pytest.mark.parametrize(("code", "exit_code"), [(1000, 0), (1001, 0), (1011, 1), (4000, 1)])
    def test_exit_code_tells_how_the_server_closed(self, scripted: Running, code: int, exit_code: int) -> None:
        got, _, errors = connect(scripted.url(), typed=b"close %d" % code, wait="inf")
        assert errors.endswith(f"Closed: {code} as you wish\n")
        assert got == exit_code

    def test_close_without_a_code_is_normal(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = run_in_thread(self._close_without_code, listener)
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            exit_code, _, errors = connect(url, typed=b"", wait="inf")
            server.result()
            assert errors.endswith("Closed: 1005\n")
            assert exit_code == 0

    @staticmethod
    def _close_without_code(listener: socket.socket) -> None:
        with _accept(listener) as peer:
            peer.frame(8)
            peer.read_close()

    def test_close_reason_cannot_forge_lines(self) -> None:
        class Liar(WebSocketRequestHandler):
            def on_open(self) -> None:
                self.websocket.close(4000, "\x1b[2J\nClosed: 1000")

        with running_server(Liar) as running:
            errors = connect(running.url(), typed=b"", wait="inf")[2]
            assert errors.splitlines()[1:] == ["Closed: 4000 \\x1b[2J\\nClosed: 1000"]

    def test_ends_when_the_server_closes_though_input_stays_open(self, scripted: Running) -> None:
        with Program(*CONNECT, scripted.url(), stdin=subprocess.PIPE) as program:
            program.type(b"close 1000\n")
            assert program.process.wait(SOON) == 0

    def test_reader_that_leaves_ends_it_quietly(self, echo: Running) -> None:
        with Program(*CONNECT, echo.url(), stdin=subprocess.PIPE) as program:
            assert program.process.stdout is not None
            program.type(b"one\n")
            assert program.line() == "one"
            program.process.stdout.close()
            program.type(b"two\n")
            assert program.process.wait(SOON) == 1
            assert program.process.stderr is not None
            assert program.process.stderr.read().decode() == f"Connected to {echo.url()}\n"

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
    def test_full_disk(self, echo: Running) -> None:
        with open("/dev/full", "wb") as full:
            streams = {"stdin": subprocess.PIPE, "stdout": full}
            with Program(*CONNECT, echo.url(), **streams) as program:
                exit_code, _, errors = program.wait(b"one")
        assert "error: cannot write to standard output: No space left on device\n" in errors
        assert exit_code == 1

    def test_input_that_cannot_be_read(self, echo: Running) -> None:
        with open(os.devnull, "wb") as write_only, Program(*CONNECT, echo.url(), stdin=write_only) as program:
            exit_code, _, errors = program.wait()
        assert "error: cannot read standard input: Bad file descriptor\n" in errors
        assert exit_code == 1

    def test_input_that_the_server_does_not_take(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "input").write_bytes(bytes(1 << 22))
        with half(Role.CLIENT, settings=Settings(send_timeout=50 * MS)) as (websocket, _):
            with open(tmp_path / "input") as large:
                monkeypatch.setattr("sys.stdin", large)
                assert Terminal(websocket, binary=True).run() == 1
                wait_until(lambda: "error: cannot send: " in capsys.readouterr().err)

    def test_input_closed_from_the_start(self, echo: Running) -> None:
        with Program(
            "-c", "import os, sys; os.close(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
            *CONNECT, "--wait", "0", echo.url(),
        ) as program:  # fmt: skip
            assert program.wait() == (0, "", f"Connected to {echo.url()}\nClosed: 1000\n")

    def test_server_that_takes_nothing_more(self) -> None:
        """Ctrl-C ends it at once even while a send is stuck."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
            with open("/dev/zero", "rb") as zeros, Program(*CONNECT, "--binary", url, stdin=zeros) as program:
                with _accept(listener):
                    assert program.error_line() == f"Connected to {url}"
                    assert program.seconds_to_end() < SOON  # a send may be stuck for 30 seconds
                    assert program.wait() == (130, "", "Interrupted.\n")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
class TestConnectAtTerminal:
    @staticmethod
    @contextlib.contextmanager
    def terminal(url: str, *options: str) -> Iterator[tuple[Program, int]]:
        """Yield the program and our side of the terminal that is its input and output."""
        ours, theirs = os.openpty()
        try:
            with Program(*CONNECT, *options, url, stdin=theirs, stdout=theirs) as program:
                yield program, ours
        finally:
            os.close(ours)
            os.close(theirs)

    @staticmethod
    def read_until(ours: int, end: bytes) -> bytes:
        def reading() -> bytes:
            seen = b""
            while not seen.endswith(end):
                seen += os.read(ours, 1000)
            return seen

        return run_in_thread(reading).result(SOON)

    def test_nothing_that_arrives_can_control_it(self, scripted: Running) -> None:
        with self.terminal(scripted.url()) as (_, ours):
            os.write(ours, b"evil\n")
            seen = self.read_until(ours, b"00ff\r\n").decode()
            assert "\\x1b]0;owned\\x07\ttab\r\nnewline \\x9b2J \\u202eabc caf\u00e9\r\n" in seen
            assert "\x1b" not in seen

    def test_binary_is_hexadecimal_even_with_binary(self, echo: Running) -> None:
        with self.terminal(echo.url(), "--binary") as (_, ours):
            os.write(ours, b"A\n")
            assert self.read_until(ours, b"410a\r\n")

    def test_ctrl_d_closes_at_once(self, echo: Running) -> None:
        with self.terminal(echo.url(), "--wait", "inf") as (program, ours):
            os.write(ours, b"hi\n")
            self.read_until(ours, b"hi\r\nhi\r\n")
            os.write(ours, b"\x04")
            assert program.wait() == (0, "", f"Connected to {echo.url()}\nClosed: 1000\n")

    def test_ctrl_c_ends_it_with_one_line(self, echo: Running) -> None:
        with self.terminal(echo.url()) as (program, ours):
            os.write(ours, b"hi\n")
            self.read_until(ours, b"hi\r\nhi\r\n")
            program.interrupt()
            assert program.wait() == (130, "", f"Connected to {echo.url()}\nInterrupted.\n")

    def test_the_last_line_is_below_the_key_that_was_pressed(self, echo: Running) -> None:
        ours, theirs = os.openpty()
        try:
            with Program(*CONNECT, echo.url(), stdin=theirs, stdout=theirs, stderr=theirs) as program:
                self.read_until(ours, b"\r\n")
                program.interrupt()
                assert self.read_until(ours, b"Interrupted.\r\n") == b"\r\nInterrupted.\r\n"
        finally:
            os.close(ours)
            os.close(theirs)


def test_ctrl_c_while_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Program(*CONNECT, f"ws://127.0.0.1:{listener.getsockname()[1]}/") as program:
            listener.settimeout(SOON)
            sock, _ = listener.accept()
            with sock:
                assert sock.recv(4) == b"GET "
                program.interrupt()
                assert program.wait() == (130, "", "Interrupted.\n")


def _accept(listener: socket.socket) -> RawPeer:
    """Return the server's end of the next WebSocket connection, by hand."""
    listener.settimeout(SOON)
    sock, _ = listener.accept()
    sock.settimeout(SOON)
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1000)
    key = re.findall(rb"(?i)sec-websocket-key: *(\S+)", head)[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")  # fmt: skip
    return RawPeer(sock, masks=False)

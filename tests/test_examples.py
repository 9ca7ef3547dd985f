"""Every example runs as its docstring says, and so do the README's server and client."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from websocketserver import HandshakeError, WebSocketClient

from .support import SOON, run_in_thread

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "private_extension.py")


@contextlib.contextmanager
def example(name: str, *arguments: object) -> Iterator[Program]:
    """Yield the running example; afterwards Ctrl-C must have ended it, quietly and with exit code 0."""
    with Program(["-m", f"examples.{name}", *map(str, arguments)]) as program:
        yield program
        program.interrupt()
        assert program.wait() == (0, "")


class Program:
    """A Python program that runs in the checkout."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._process as process:
            process.kill()

    def line(self) -> str:
        """Return the next line of its output."""
        assert self._process.stdout is not None
        line = run_in_thread(self._process.stdout.readline).result(SOON)
        assert line, self._process.communicate(timeout=SOON)
        return str(line)

    def url(self) -> str:
        """Return the URL in the next line of its output."""
        return re.findall(r"\S+://\S+", self.line())[0]

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> tuple[int, str]:
        """Return exit code and what went to standard error, but for the log of requests."""
        _, errors = self._process.communicate(timeout=SOON)
        return self._process.returncode, "".join(line for line in errors.splitlines(True) if '] "GET ' not in line)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_tested(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    assert f'example("{path.stem}"' in Path(__file__).read_text()


def test_echo_server_and_client() -> None:
    with example("echo_server", 0) as server:
        port = server.url().rstrip("/").rpartition(":")[2]
        with Program(["-m", "examples.echo_client", port]) as client:  # example("echo_client")
            assert client.line() == "The server says: Hello!\n"
            assert client.line() == "And in binary: b'\\x00\\x01\\x02'\n"
            assert client.line().startswith("A round trip takes ")
            assert client.wait() == (0, "")


def test_random_numbers() -> None:
    with example("echo_server", 0) as server:
        port = server.url().rstrip("/").rpartition(":")[2]
        with example("random_numbers", port) as client:
            assert re.fullmatch(r"Received \d+\n", client.line())


def test_origin_check() -> None:
    with example("origin_check", 0) as server:
        url = server.url()
        for origin in ("https://example.org", "https://app.example.org", url.replace("ws", "http", 1).rstrip("/")):
            with WebSocketClient(url, origin=origin) as websocket:
                assert websocket.recv(timeout=SOON) == f"Welcome, {origin}."
        with WebSocketClient(url) as websocket:
            assert websocket.recv(timeout=SOON) == "Welcome, not a browser."
        for origin in ("https://example.com", "https://badexample.org", "null"):
            with pytest.raises(HandshakeError) as refusal:
                WebSocketClient(url, origin=origin)
            assert refusal.value.status == 403


def test_static_site() -> None:
    with example("static_site", 0) as server:
        url = server.url()
        with urllib.request.urlopen(url, timeout=SOON) as response:
            assert response.read() == (ROOT / "examples/site/index.html").read_bytes()
        with WebSocketClient(url.replace("http", "ws", 1)) as websocket:
            websocket.send("time")
            assert re.fullmatch(r"\d\d:\d\d:\d\d", str(websocket.recv(timeout=SOON)))


def test_tls_echo() -> None:
    with example("tls_echo", 0) as server:
        command = ["-m", "websocketserver", "connect", "--insecure", server.url()]
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, input="over TLS", capture_output=True, text=True, timeout=2 * SOON
        )
        assert (done.returncode, done.stdout) == (0, "over TLS\n")


def test_server_and_client_of_the_readme(tmp_path: Path) -> None:
    server_code, client_code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert '("", 8000)' in server_code and "localhost:8000" in client_code
    free = server_code.replace('("", 8000)', '("", 0)').replace(
        "    server.serve_forever()", "    print(server.server_port, flush=True)\n    server.serve_forever()"
    )
    with Program(["-c", free]) as server:
        port = server.line().strip()
        with Program(["-c", client_code.replace("localhost:8000", f"localhost:{port}")]) as client:
            assert client.line() == "hello\n"
            assert client.wait() == (0, "")

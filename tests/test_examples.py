"""Every example runs as its docstring says, and so do the README's server and client."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from websocketserver import HandshakeError, WebSocketClient

from .program import ROOT, Program
from .support import SOON

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "private_extension.py")


@contextlib.contextmanager
def example(name: str, *arguments: object) -> Iterator[Program]:
    """Yield the running example; afterwards Ctrl-C must have ended it, quietly and with exit code 0."""
    with Program("-m", f"examples.{name}", *arguments) as program:
        yield program
        program.interrupt()
        exit_code, _, errors = program.wait()
        assert (exit_code, errors) == (0, "")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_tested(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40
    assert f'example("{path.stem}"' in Path(__file__).read_text()


def test_echo_server_and_client() -> None:
    with example("echo_server", 0) as server:
        port = server.url().rstrip("/").rpartition(":")[2]
        with Program("-m", "examples.echo_client", port) as client:  # example("echo_client")
            assert client.line() == "The server says: Hello!"
            assert client.line() == "And in binary: b'\\x00\\x01\\x02'"
            assert client.line().startswith("A round trip takes ")
            assert client.wait() == (0, "", "")


@pytest.mark.parametrize("name", ["echo_client", "random_numbers"])
def test_clients_without_a_server(name: str) -> None:
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
    with Program("-m", f"examples.{name}", port) as client:
        assert client.wait() == (1, "", "No server answers there. Start it with: python3 -m examples.echo_server\n")


def test_random_numbers() -> None:
    with example("echo_server", 0) as server:
        port = server.url().rstrip("/").rpartition(":")[2]
        with example("random_numbers", port) as client:
            assert re.fullmatch(r"Received \d+", client.line())


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


def test_chat() -> None:
    with example("chat", 0) as server:
        url = server.url()
        with WebSocketClient(url + "Ada") as ada:
            assert ada.recv(timeout=SOON) == "Ada is here"
            with WebSocketClient(url) as other:
                assert ada.recv(timeout=SOON) == other.recv(timeout=SOON) == "Somebody is here"
                other.send("good morning")
                assert ada.recv(timeout=SOON) == other.recv(timeout=SOON) == "Somebody: good morning"
            assert ada.recv(timeout=SOON) == "Somebody is gone"


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
        with WebSocketClient(server.url(), ssl_context=_trusting_anybody()) as websocket:
            websocket.send("over TLS")
            assert websocket.recv(timeout=SOON) == "over TLS"


def _trusting_anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_server_and_client_of_the_readme() -> None:
    server_code, client_code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert '("", 8000)' in server_code and "localhost:8000" in client_code
    free = server_code.replace('("", 8000)', '("", 0)').replace(
        "    server.run()", "    print(server.server_port, flush=True)\n    server.run()"
    )
    with Program("-c", free) as server:
        port = server.line()
        with Program("-c", client_code.replace("localhost:8000", f"localhost:{port}")) as client:
            assert client.wait() == (0, "hello\n", "")

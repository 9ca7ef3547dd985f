"""The documentation names all that is public, and nothing that is not."""

from __future__ import annotations

import logging
import pkgutil
import re
import signal
import ssl
import textwrap
import urllib.error
import urllib.request
from dataclasses import fields
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import websocketserver
from websocketserver import (
    BasicAuth,
    HandshakeError,
    PerMessageDeflate,
    PoolingWebSocketServer,
    ServerStats,
    Settings,
    ThreadingWebSocketServer,
    TracedFrame,
    WebSocketClient,
    WebSocketRequestHandler,
    WebSocketServer,
    format_metrics,
)
from websocketserver.httphandler import StrictHTTPRequestHandler
from websocketserver.logs import RequestLog

from .support import SOON, certificates, running_server, wait_until
from .test_logs import CLOSED

DOCS = Path(__file__).parent.parent / "docs"


def first_program(page: str, **names: Any) -> dict[str, Any]:
    """Return what the first program on a page has defined."""
    return program(page, "", **names)


def program(page: str, about: str, **names: Any) -> dict[str, Any]:
    """Return what the first program on a page that holds these words has defined."""
    programs = re.findall(r"code-block:: python\n\n(.*?)\n(?=\S)", (DOCS / page).read_text(), re.DOTALL)
    exec(textwrap.dedent(next(found for found in programs if about in found)), names)
    return names


def documented() -> set[str]:
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    return set(re.findall(r"^\.\. auto(?:class|exception|function|data):: websocketserver\.(\w+)", pages, re.MULTILINE))


def test_every_public_name_is_documented() -> None:
    assert documented() == set(websocketserver.__all__)


def test_every_page_is_in_a_table_of_contents() -> None:
    for folder in ("tutorial", "howto", "reference", "explanation"):
        index = (DOCS / folder / "index.rst").read_text()
        for page in (DOCS / folder).glob("*.rst"):
            assert page.stem == "index" or re.search(rf"^   {page.stem}$", index, re.MULTILINE), page


def test_every_file_has_its_place_on_the_page_of_the_structure() -> None:
    tables = re.findall(r"^   \* - (``.+)$", (DOCS / "explanation" / "structure.rst").read_text(), re.MULTILINE)
    named = re.findall(r"``(\w+)(?:\.c)?``", " ".join(tables))
    files = {file.stem for kind in ("*.py", "*.c") for file in Path(websocketserver.__file__).parent.rglob(kind)}
    assert sorted(named) == sorted(files - {"__init__", "__main__"})


def test_every_setting_is_documented_with_its_default() -> None:
    rows = limits()
    servers = {name for name in own_settings(WebSocketServer, PoolingWebSocketServer) if name != "ssl_context"}
    assert {field.name for field in fields(Settings)} < set(rows)
    assert own_settings(WebSocketRequestHandler, StrictHTTPRequestHandler, RequestLog) - {
        "match",
        "peer_certificate",
    } <= set(rows)
    assert servers <= set(rows)
    assert rows.pop("max_workers") == "CPUs + 4, at most 32"
    for name, text in rows.items():
        if "." not in name:
            owner = WebSocketRequestHandler if hasattr(WebSocketRequestHandler, name) else ThreadingWebSocketServer
            assert getattr(owner, name) == value(text), name


def test_every_fixed_limit_is_as_documented() -> None:
    rows = {name: text for name, text in limits().items() if "." in name}
    assert len(rows) > 10
    for name, text in rows.items():
        assert pkgutil.resolve_name(f"websocketserver.{name}") == value(text), name


def limits() -> dict[str, str]:
    """Return the rows of the page on limits: names and defaults."""
    page = (DOCS / "reference" / "limits.rst").read_text()
    return dict(re.findall(r"^   \* - ``([\w.]+)``\n     - (.+)$", page, re.MULTILINE))


def value(text: str) -> Any:
    if found := re.fullmatch(r"(\d+) ([KM])iB", text):
        return int(found[1]) << {"K": 10, "M": 20}[found[2]]
    return eval(text, {"PerMessageDeflate": PerMessageDeflate})


def own_settings(*kinds: type) -> set[str]:
    """Return the names of the public attributes that these classes define and that are no methods."""
    return {
        name
        for kind in kinds
        for name, value in vars(kind).items()
        if not (name.startswith("_") or callable(value) or isinstance(value, (property, classmethod, staticmethod)))
    }


def test_every_program_of_the_tutorial_is_an_example() -> None:
    pages = "".join(page.read_text() for page in (DOCS / "tutorial").glob("*.rst"))
    programs = set(re.findall(r"python3 -m examples\.(\w+)", pages))
    assert len(programs) >= 4
    for program in programs:
        assert (DOCS.parent / "examples" / f"{program}.py").is_file()


def test_pages_and_websockets_share_a_port_as_shown() -> None:
    with running_server(first_program("howto/pages.rst")["Site"]) as running:
        with urllib.request.urlopen(running.http_url(), timeout=SOON) as response:
            assert b"Hello" in response.read()
        with WebSocketClient(running.url()) as websocket:
            websocket.send("x")
            assert websocket.recv(SOON) == "x"


def test_contexts_for_tls_are_made_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "howto" / "tls.rst").read_text()
    blocks = map(textwrap.dedent, re.findall(r"code-block:: python\n\n(.*?)\n(?=\S)", page, re.DOTALL))
    programs = [block for block in blocks if "ServerSSLContext(\n" in block or "peer_certificate" in block]
    assert len(programs) == 2
    monkeypatch.chdir(tmp_path)
    for file in re.findall(r'"(\S+\.(?:pem|key))"', "".join(programs)):
        both = certificates().issued.private_key_pem.bytes() + certificates().issued.cert_chain_pems[0].bytes()
        Path(file).write_bytes(both)
    for program in programs:
        names: dict[str, Any] = {**vars(websocketserver), "HTTPStatus": HTTPStatus}
        exec(program, names)
        assert isinstance(names["context"].renewed(), ssl.SSLContext)


def test_members_may_connect_as_shown() -> None:
    members = program("howto/who-may-connect.rst", "Members(", TOKEN="secret")["Members"]
    with running_server(members, subprotocols=("chat",)) as running:
        with pytest.raises(HandshakeError) as refusal:
            WebSocketClient(running.url())
        assert refusal.value.status == 401
        ways: list[dict[str, Any]] = [
            {"url": running.url(), "headers": {"Authorization": "Bearer secret"}},
            {"url": running.url(), "cookies": {"session": "secret"}},
            {"url": running.url("/?token=secret")},
            {"url": running.url(), "subprotocols": ["chat", "bearer.secret"]},
        ]
        for way in ways:
            with WebSocketClient(**way) as websocket:
                assert websocket.recv(SOON) == "Hello, ada"


def test_a_page_asks_for_a_password_as_shown() -> None:
    names = {"BasicAuth": BasicAuth, "WebSocketRequestHandler": WebSocketRequestHandler}
    members = program("howto/who-may-connect.rst", "MEMBERS.identify", PASSWORD="secret", **names)["Members"]
    with running_server(members) as running:
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(running.http_url(), timeout=SOON)
        with refusal.value as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"][:6]) == (401, "Basic ")


def test_only_our_names_are_answered_as_shown() -> None:
    names = {"WebSocketRequestHandler": WebSocketRequestHandler}
    local = program("howto/who-may-connect.rst", "allowed_hosts", **names)["Local"]
    with running_server(local) as running:
        WebSocketClient(running.url()).close()
        with pytest.raises(HandshakeError, match="421"):
            WebSocketClient(running.url(), headers={"Host": "evil.example"})


def test_lines_go_to_a_logger_as_shown(caplog: pytest.LogCaptureFixture) -> None:
    chat = program("howto/what-goes-on.rst", "def log_message")["Chat"]
    with caplog.at_level(logging.INFO, "chat"), running_server(chat) as running:
        WebSocketClient(running.url()).close(4000)
        wait_until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[0] == '127.0.0.1 "GET / HTTP/1.1" 101 -'
    assert re.fullmatch(r"127\.0\.0\.1 left after \d+\.\d s: 4000", caplog.messages[1])


def test_lines_are_as_shown() -> None:
    page = (DOCS / "howto" / "what-goes-on.rst").read_text()
    lines = re.findall(r'^   127\.0\.0\.1 - - \[[^]]+\] (".+)$', page, re.MULTILINE)
    assert len(lines) == 4
    assert [CLOSED.fullmatch(line) is not None for line in lines] == [False, True, True, False]


def test_metrics_are_as_shown() -> None:
    page = (DOCS / "howto" / "what-goes-on.rst").read_text()
    chat = program("howto/what-goes-on.rst", "MetricsMixIn")["Chat"]
    private = program("howto/what-goes-on.rst", "Private(Chat)", Chat=chat)["Private"]
    with running_server(private) as running:
        with urllib.request.urlopen(running.http_url("/metrics"), timeout=SOON) as answer:
            assert "websocketserver_sockets_open 1\n" in answer.read().decode()
        with WebSocketClient(running.url()) as websocket:
            websocket.send("x")
            assert websocket.recv(SOON) == "x"
    text = format_metrics(ServerStats())
    shown = set(re.findall(r"^   (?:# (?:HELP|TYPE) )?(websocketserver_\w+)", page, re.MULTILINE))
    assert len(shown) == 3
    assert all(f"# TYPE {name} " in text for name in shown)
    assert re.findall(r"^   (# .*)$", page, re.MULTILINE) == [
        line for line in text.splitlines() if line.startswith("# ") and "_connections_open " in line
    ]


def test_frames_are_traced_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "howto" / "what-goes-on.rst").read_text()
    names = {"WebSocketRequestHandler": WebSocketRequestHandler}
    traced = program("howto/what-goes-on.rst", "trace(print)", **names)["Traced"]
    with running_server(traced) as running:
        with WebSocketClient(running.url()) as websocket:
            websocket.send("hello")
        written: list[str] = []
        wait_until(lambda: written.append(capsys.readouterr().out) or " out CLOSE" in "".join(written))
    lines = "".join(written).splitlines()
    shown = re.findall(r"^   \d\d:\d\d:\d\d\.\d{6} (.+)$", page, re.MULTILINE)
    assert [line[16:] for line in lines if " in " in line] == [line for line in shown if line.startswith("in ")]
    answer = TracedFrame(0.0, False, 1, True, 4, False, 7, bytes.fromhex("f248cdc9c90700"))
    assert str(answer)[16:] in shown


def test_connections_can_be_traced_and_dumped_while_they_run_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    page = "howto/what-goes-on.rst"
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with running_server(WebSocketRequestHandler) as running, WebSocketClient(running.url()) as websocket:
            wait_until(lambda: running.server.connections)
            program(page, "suspect", server=running.server, suspect="127.0.0.1", logging=logging)
            websocket.send("x")
            program(page, "SIGUSR1", server=running.server)
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ": 1 sockets, 1 of them WebSockets\n" in capsys.readouterr().err

"""Chromium against the demo page, and against our server from a page's own script."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import PerMessageDeflate

from ..program import Program
from ..support import running_server
from .chromium import Browser, Page, browser
from .programs import SERVERS, Conversation

# Starting Chromium on a busy machine may take a while.
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


class Site(Conversation):
    """An empty page at every path, so that a script on it has our origin."""

    def do_GET(self) -> None:
        body = b"<!DOCTYPE html><title>empty</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


# Opens a socket, sends what it is given one after the other, and resolves to what it saw.
SCRIPT = """
(messages, subprotocols, code, reason) => new Promise(resolve => {
    const socket = new WebSocket(location.href.replace('http', 'ws'), subprotocols);
    const seen = {messages: []};
    socket.binaryType = 'arraybuffer';
    const next = () => {
        if (messages.length === 0) { if (code) socket.close(code, reason); return; }
        const message = messages.shift();
        socket.send(typeof message === 'number' ? new Uint8Array(message).map((_, i) => i % 251) : message);
    };
    socket.onopen = () => { seen.subprotocol = socket.protocol; seen.extensions = socket.extensions; next(); };
    socket.onmessage = event => {
        const bytes = typeof event.data === 'string' ? null : new Uint8Array(event.data);
        seen.messages.push(bytes ? [bytes.length, bytes.every((value, i) => value === i % 251)] : event.data);
        next();
    };
    socket.onclose = event => { seen.close = [event.code, event.reason, event.wasClean]; resolve(seen); };
})
"""


@contextlib.contextmanager
def on_our_page(chromium: Browser, *, tls: bool = False, **attributes: Any) -> Iterator[tuple[Page, list[Any]]]:
    """Yield a page of our server, and what the handlers of its sockets see."""
    seen: list[Any] = []
    with running_server(Site, tls=tls, seen=seen, **attributes) as server:
        # Chromium opens connections in advance, which over TLS end without a request.
        with chromium.page(server.http_url().replace("127.0.0.1", "localhost")) as page:
            yield page, seen


LONG = "Lorem ipsum é漢😀 " * 5000
COMPRESSIONS = [
    None,
    PerMessageDeflate(threshold=0),
    PerMessageDeflate(threshold=0, server_no_context_takeover=True, client_no_context_takeover=True),
    PerMessageDeflate(threshold=0, server_max_window_bits=9, client_max_window_bits=9),
]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("server_class", SERVERS)
def test_echo_from_a_script(chromium: Browser, compression: PerMessageDeflate | None, server_class: type) -> None:
    messages: list[Any] = ["hello", "", LONG, 0, 125, 126, 65536, 1 << 20, LONG, "fragments 20"]
    attributes = {"compression": compression, "fragment_size": 30_000, "max_message_size": 4 << 20}
    with on_our_page(chromium, server_class=server_class, **attributes) as (page, seen):
        got = page.evaluate(f"({SCRIPT})({json.dumps(messages)}, ['Chat'], 4001, 'bye é')")
    echoed = [[message, True] if isinstance(message, int) else message for message in messages[:-1]]
    assert got["messages"] == [*echoed, "".join(f"piece {i};" for i in range(20))]
    assert got["subprotocol"] == "Chat"
    assert got["extensions"].startswith("permessage-deflate") is (compression is not None)
    if compression and compression.server_no_context_takeover:
        assert "no_context_takeover" in got["extensions"]
    if compression and compression.client_max_window_bits == 9:
        assert "client_max_window_bits=9" in got["extensions"]
    assert got["close"] == [4001, "", True]  # what our answer said: the code echoed, no reason
    assert seen[0][3] == "Chat"
    assert seen[-1] == ("close", 4001, "bye é")


@pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going away"), (4999, "é" * 61)])
def test_we_close(chromium: Browser, code: int, reason: str) -> None:
    with on_our_page(chromium) as (page, _):
        got = page.evaluate(f"({SCRIPT})({json.dumps([f'close {code} {reason}'])}, [])")
    assert got["close"] == [code, reason, True]


def test_over_tls(chromium: Browser) -> None:
    with on_our_page(chromium, tls=True) as (page, _):
        got = page.evaluate(f"({SCRIPT})(['hello', 100000], [], 1000, '')")
    assert got["messages"] == ["hello", [100000, True]]


def test_a_page_of_another_origin_is_refused(chromium: Browser) -> None:
    with running_server(Site, seen=[]) as other, on_our_page(chromium) as (page, _):
        got = page.evaluate(f"({SCRIPT.replace('location.href', repr(other.http_url()))})(['hello'], [])")
    assert got == {"messages": [], "close": [1006, "", False]}


# The demo, started as a user does


@pytest.fixture
def demo() -> Iterator[str]:
    """Yield the URL of the page that python -m websocketserver serves."""
    with Program("-u", "-m", "websocketserver", 0, "--bind", "127.0.0.1") as program:
        yield program.url()


def test_the_demo_page(chromium: Browser, demo: str, tmp_path: Path) -> None:
    with chromium.page(demo) as page:
        page.wait_for("document.querySelector('#state').dataset.state === 'open'")
        assert page.text("#subprotocol") == "demo"
        assert page.text("#extensions") == "permessage-deflate"

        page.fill("#echo-input", "hello <b>there</b> é漢😀")
        page.click("#echo-send")
        page.wait_for("document.querySelectorAll('#echo-log li').length === 1")
        assert "hello <b>there</b> é漢😀" in page.text("#echo-log")

        page.wait_for("document.querySelector('#latency-chart .curve').getAttribute('d')")
        assert float(page.text("#latency")) >= 0

        with chromium.page(demo) as other:
            other.wait_for("document.querySelector('#state').dataset.state === 'open'")
            page.wait_for("document.querySelector('#pages').textContent === '2 pages'")
            for writer, reader, words in [(page, other, "from the first"), (other, page, "from the second")]:
                writer.fill("#chat-input", words)
                writer.click("#chat-send")
                for each in (writer, reader):
                    each.wait_for(f"document.querySelector('#chat-log').textContent.includes('{words}')")
            page.screenshot(Path(os.environ.get("WEBSOCKETSERVER_SCREENSHOT", tmp_path / "demo.png")))
        page.wait_for("document.querySelector('#pages').textContent === '1 page'")

        page.click("#close")
        page.wait_for("document.querySelector('#state').dataset.state === 'closed'")
        assert page.text("#state-detail").startswith("1000")
        page.click("#reconnect")
        page.wait_for("document.querySelector('#state').dataset.state === 'open'")


def test_the_demo_page_asks_for_nothing_else(chromium: Browser, demo: str) -> None:
    with chromium.page(demo) as page:
        loaded = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in loaded if not name.startswith(demo)] == []

"""The demo: what its page and its WebSocket do, without a browser (tests/interop has one)."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from websocketserver import WebSocketClient, demo

from .support import SOON, Running, raw_client, running_server


@pytest.fixture
def running() -> Iterator[Running]:
    with running_server(demo.DemoPageHandler) as running:
        yield running


class Page:
    """What the page in a browser does, in Python."""

    def __init__(self, websocket: WebSocketClient) -> None:
        self.websocket = websocket

    def say(self, text: str) -> None:
        self.websocket.send(json.dumps({"type": "chat", "name": "Wren", "text": text}))

    def hear(self) -> Any:
        return json.loads(self.websocket.recv(timeout=SOON))

    def hear_chat(self) -> Any:
        """Hear the next chat; the number of pages may be told at any time, and twice."""
        while (heard := self.hear())["type"] == "pages":
            pass
        return heard

    def wait_for_count(self, count: int) -> None:
        while self.hear() != {"type": "pages", "count": count}:
            pass


@contextlib.contextmanager
def page(running: Running) -> Iterator[Page]:
    with WebSocketClient(running.url(), subprotocols=["demo"]) as websocket:
        yield Page(websocket)


def test_the_page_is_at_the_root_and_needs_nothing_else(running: Running) -> None:
    with urllib.request.urlopen(running.http_url("/?x"), timeout=SOON) as response:
        html = response.read().decode()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert int(response.headers["Content-Length"]) == len(html.encode())
    links = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"']+)", html)
    assert links and all(link.startswith("data:") for link in links)
    assert not re.search(r"@import|url\(|import\(|fetch\(", html)


def test_head_has_no_body(running: Running) -> None:
    request = urllib.request.Request(running.http_url(), method="HEAD")
    with urllib.request.urlopen(request, timeout=SOON) as response:
        assert response.read() == b""
        assert int(response.headers["Content-Length"]) > 1000


def test_other_paths_are_not_found(running: Running) -> None:
    with pytest.raises(urllib.error.HTTPError) as found:
        urllib.request.urlopen(running.http_url("/favicon.ico"), timeout=SOON)
    found.value.close()
    assert found.value.code == 404


@pytest.mark.parametrize("message", ["hello", "", b"\x00\xff", '{"type": "chat", "text": "only for pages"}'])
def test_whoever_is_not_a_page_gets_every_message_back(running: Running, message: str | bytes) -> None:
    with WebSocketClient(running.url()) as websocket:
        websocket.send(message)
        assert websocket.recv(timeout=SOON) == message


@pytest.mark.parametrize("message", ['{"type":"echo","text":"x"}', '["chat"]', "chat", "[" * 100_000, "{", "\u2028"])
def test_what_is_no_chat_comes_back_as_it_was(running: Running, message: str) -> None:
    with page(running) as one:
        one.wait_for_count(1)
        one.websocket.send(message)
        assert one.websocket.recv(timeout=SOON) == message


def test_chat_reaches_every_page_and_nobody_else(running: Running) -> None:
    with WebSocketClient(running.url()) as terminal, page(running) as one, page(running) as other:
        other.wait_for_count(2)
        other.say("hi")
        heard = {"type": "chat", "name": "Wren", "text": "hi"}
        assert other.hear_chat() == heard
        assert one.hear_chat() == heard
        terminal.send("last")
        assert terminal.recv(timeout=SOON) == "last"


def test_pages_are_told_how_many_they_are(running: Running) -> None:
    with page(running) as one:
        one.wait_for_count(1)
        with page(running):
            one.wait_for_count(2)
        one.wait_for_count(1)


def test_a_page_that_does_not_read_is_cut_and_the_others_go_on(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SLOW", 0.05)
    with page(running) as one, raw_client(running, headers={"Sec-WebSocket-Protocol": "demo"}):
        one.wait_for_count(2)
        text = "x" * 50_000  # the socket takes that at once for who reads
        for _ in range(1000):
            one.say(text)
            while (heard := one.hear()) == {"type": "pages", "count": 2}:
                pass
            if heard["type"] == "pages":
                assert heard["count"] == 1
                return
            assert heard["text"] == text
    pytest.fail("the page that does not read was never cut")

"""What docs/reference/security.rst and SECURITY.md promise, held to its word; and what has no place elsewhere."""

from __future__ import annotations

import ast
import base64
import os
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import websocketserver
from websocketserver import (
    PoolingWebSocketServer,
    ThreadingWebSocketServer,
    WebSocketClient,
    WebSocketRequestHandler,
)
from websocketserver.connection import Role

from .pages import DOCS, missing_tests, named_files, table_rows
from .support import SOON, half, raw_client, running_server, wait_until

PAGE = DOCS / "reference" / "security.rst"
POLICY = DOCS.parent / "SECURITY.md"
PACKAGE = Path(websocketserver.__file__).parent


class Echo(WebSocketRequestHandler):
    def on_message(self, message: str | bytes) -> None:
        self.websocket.send(message)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestPage:
    def test_every_number_is_there_once(self) -> None:
        numbers = [cells[0] for cells in table_rows(PAGE) if cells[0] != "Number"]
        last = {"R": 63, "M": 17, "P": 49}
        wanted = [f"{letter}{number}" for letter in last for number in range(1, last[letter] + 1)]
        assert numbers == wanted

    def test_every_row_names_a_test(self) -> None:
        for cells in table_rows(PAGE):
            if cells[0] != "Number":
                assert len(cells) == (3 if cells[0].startswith("R") else 4), cells
                assert all(cells) and named_files(cells[-1]), cells

    def test_every_test_exists(self) -> None:
        assert [missing for cells in table_rows(PAGE) for missing in missing_tests(cells[-1])] == []

    def test_a_test_that_is_missing_is_seen(self) -> None:
        cell = "``test_security.py``: ``TestPage``, ``test_nowhere``; ``protocol/test_nothing.py``; ``test_faults.py``"
        assert missing_tests(cell) == ["test_security.py test_nowhere", "protocol/test_nothing.py"]


class TestPolicy:
    def test_it_says_where_to_report_and_what_is_supported(self) -> None:
        text = POLICY.read_text()
        version = re.findall(r"^version = (\d+\.\d+)", (DOCS.parent / "setup.cfg").read_text(), re.MULTILINE)[0]
        assert "## Reporting a vulnerability" in text and f"| {version}" in text

    def test_every_test_that_it_names_exists(self) -> None:
        named = re.findall(r"`tests/([\w/]+\.(?:py|sh)|[\w/]+/)`", POLICY.read_text())
        assert len(named) > 10
        assert [name for name in named if not (DOCS.parent / "tests" / name).exists()] == []

    def test_every_setting_that_it_names_exists(self) -> None:
        names = set(re.findall(r"`(\w+)`", POLICY.read_text()))
        holders = (WebSocketRequestHandler, ThreadingWebSocketServer, PoolingWebSocketServer, websocketserver)
        assert {"max_message_size", "allowed_origins", "handshake_timeout", "max_connections"} <= names
        assert [name for name in names if not any(hasattr(holder, name) for holder in holders)] == []


# R51


class TestRandomness:
    @pytest.fixture
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """What the system has given as random bytes, from now on."""
        taken: list[bytes] = []
        urandom = os.urandom

        def counted(size: int) -> bytes:
            taken.append(urandom(size))
            return taken[-1]

        monkeypatch.setattr(os, "urandom", counted)
        return taken

    def test_masks_are_random_bytes_of_the_system_new_for_each_frame(self, taken: list[bytes]) -> None:
        masks = []
        with half(Role.CLIENT) as (websocket, peer):
            for _ in range(1200):
                websocket.send(b"")
                frame = peer.sock.recv(6)
                assert frame[:2] == b"\x82\x80"
                masks.append(frame[2:])
        del masks[:600]  # some of them were drawn before
        drawn = Counter(data[at : at + 4] for data in taken for at in range(0, len(data), 4))
        assert not Counter(masks) - drawn  # none was used twice
        assert len(set(masks)) > 595

    def test_keys_are_random_bytes_of_the_system(self, taken: list[bytes]) -> None:
        keys = []

        class Listening(Echo):
            def on_open(self) -> None:
                keys.append(self.websocket.request.key)  # type: ignore[union-attr]

        with running_server(Listening) as running:
            for _ in range(3):
                WebSocketClient(running.url()).close()
        assert len(set(keys)) == 3
        assert {base64.b64decode(key) for key in keys} <= set(taken)


# M1


@pytest.mark.parametrize(("kind", "threads"), [(ThreadingWebSocketServer, 1), (PoolingWebSocketServer, 0)])
def test_an_idle_connection_costs_one_thread_at_most_and_one_descriptor(
    kind: type, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("websocketserver.pool.TICK", 1000.0)  # what a busy machine does slowly would get a thread

    def usage() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with running_server(Echo, server_class=kind) as running:
        with raw_client(running):  # so that all is there that is made once
            before = usage()
            peers = [raw_client(running) for _ in range(10)]
            for peer in peers:
                peer.__enter__()
            wait_until(lambda: len(running.server.connections) == 11)
            after = usage()
            for peer in peers:
                peer.__exit__(None, None, None)
    assert (after[0] - before[0], after[1] - before[1]) == (10 * threads, 2 * 10)  # one is the client's


# P13


def test_the_wall_clock_plays_no_part() -> None:
    """Only what people read has it: the date of a line in the log, and the moment of a frame in a trace."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in ("time.time", "datetime.now", "datetime.utcnow", "time.clock_gettime"):
                    found.add((path.name, name))
    assert found <= {("trace.py", "time.time")}


# P33, M10


def test_a_client_has_no_thread_of_its_own() -> None:
    with running_server(Echo) as running:
        before = set(threading.enumerate())
        with WebSocketClient(running.url()) as websocket:
            websocket.send("x")
            assert websocket.recv(SOON) == "x"
            new = [thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name]
            assert [thread.name for thread in new if thread.name != "websocketserver-keepalive"] == []

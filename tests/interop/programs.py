"""Peers as processes that report what happens, one JSON object a line; and our own side of each conversation."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from websocketserver import ConnectionClosed, ThreadingWebSocketServer, WebSocketClient, WebSocketRequestHandler
from websocketserver.pooling import PoolingWebSocketServer

from ..support import SOON

__all__ = [
    "PAYLOADS",
    "SERVERS",
    "Conversation",
    "Program",
    "converse",
    "describe",
    "mostly_slow",
    "node",
    "pattern",
    "program",
    "require",
]

HERE = Path(__file__).parent


def pattern(size: int) -> bytes:
    """Return so many bytes: 0 to 250, and again."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# Empty, short, each way to write a length, larger than a socket takes at once; text in one to four bytes.
PAYLOADS: list[str | bytes] = [
    "hello",
    "",
    "é漢😀" * 20,
    "x" * 70_000,
    b"\x00\x01\xff",
    b"",
    bytes(range(250)) * 2,
    pattern(3 << 20),
]


# The same handler runs under both.
SERVERS = [ThreadingWebSocketServer, pytest.param(PoolingWebSocketServer, marks=pytest.mark.slow)]


def mostly_slow(cases: Sequence[Any], *chosen: int) -> list[Any]:
    """Return the cases for pytest.mark.parametrize: those at the chosen places, and the others by pytest -m slow."""
    marks = [() if place in chosen else pytest.mark.slow for place in range(len(cases))]
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark)
        for case, mark in zip(cases, marks, strict=True)
    ]


def require(*names: str) -> str:
    """Return the path of the first tool that is here; skip the test if none is (in CI that fails it)."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


def node(script: str, *arguments: Any) -> list[str]:
    """Return the command for one of the Node peers; arguments other than str go as JSON."""
    if not (HERE / "node_modules").is_dir():
        pytest.skip(f"needs npm ci --ignore-scripts in {HERE}")
    words = [word if isinstance(word, str) else json.dumps(word) for word in arguments]
    return [require("node", "nodejs"), str(HERE / "peers" / script), *words]


class Program:
    """A running peer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.past: list[dict[str, Any]] = []
        self._buffer = b""

    def next(self, timeout: float = 2 * SOON) -> dict[str, Any]:
        """Return the next thing the peer reports; fail when nothing comes in time."""
        assert self.process.stdout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            assert ready, f"nothing within {timeout} s after {self.past}"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"the peer ended after {self.past}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.past.append(json.loads(line))
        return self.past[-1]

    def expect(self, event: str, **fields: Any) -> dict[str, Any]:
        """Return the next thing the peer reports, which has to be this event, with these fields."""
        got = self.next()
        assert got["event"] == event, f"{got}, expected {event}"
        assert {name: got.get(name) for name in fields} == fields, got
        return got


@contextlib.contextmanager
def program(command: Sequence[str]) -> Iterator[Program]:
    """Yield a running peer and end it."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def describe(message: str | bytes) -> dict[str, Any]:
    """Return what a peer should report of a message."""
    data = message.encode() if isinstance(message, str) else message
    return {"binary": isinstance(message, bytes), "size": len(data), "sha1": hashlib.sha1(data).hexdigest()}


class Conversation(WebSocketRequestHandler):
    """Our side as a server: an echo that knows the commands of the Node servers; keeps how connections ended."""

    max_message_size = 64 << 20
    subprotocols = ("superchat", "Chat")
    seen: list[tuple[Any, ...]]  # set for each test

    def on_open(self) -> None:
        request = self.websocket.request
        self.seen.append(("open", request.version, request.origin, self.websocket.subprotocol))

    def on_message(self, message: str | bytes) -> None:
        command, *words = message.split(" ") if isinstance(message, str) else [""]
        if command == "close":
            self.websocket.close(int(words[0]), " ".join(words[1:]))
        elif command == "ping":
            self.websocket.ping(words[0].encode())
            self.websocket.send("pinged")
        elif command == "fragments":
            self.websocket.send("".join(f"piece {i};" for i in range(int(words[0]))))  # in frames of fragment_size
        else:
            self.websocket.send(message)

    def on_close(self, code: int, reason: str) -> None:
        self.seen.append(("close", code, reason))


def converse(websocket: WebSocketClient, payloads: Sequence[str | bytes] = PAYLOADS) -> None:
    """Our side as a client of an echo: every message comes back as it was."""
    for message in payloads:
        websocket.send(message, timeout=2 * SOON)
        assert websocket.recv(timeout=2 * SOON) == message


def close_code(websocket: WebSocketClient) -> tuple[int, str]:
    """Wait for the end of a connection that the peer closes; return code and reason."""
    with pytest.raises(ConnectionClosed) as caught:
        websocket.recv(timeout=2 * SOON)
    return caught.value.code, caught.value.reason

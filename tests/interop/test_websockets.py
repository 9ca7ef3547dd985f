"""Python websockets in both directions, plain, compressed and over TLS."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from websocketserver import PerMessageDeflate, WebSocketClient

from ..support import SOON, certificates, run_in_thread, running_server
from .programs import PAYLOADS, Conversation, close_code, converse, mostly_slow

# Arguments of the peer's factories; the window bits of the client's half are only an offer until the server takes it.
COMPRESSIONS: list[dict[str, Any]] = [
    {},
    {"server_no_context_takeover": True},
    {"client_no_context_takeover": True},
    {"server_no_context_takeover": True, "client_no_context_takeover": True},
    {"server_max_window_bits": 9, "client_max_window_bits": 9},
    {"server_max_window_bits": 15, "client_max_window_bits": 15},
]
TEXT = "Lorem ipsum dolor sit amet, consectetur adipiscing elit; " * 400


def answer(connection: ServerConnection) -> None:
    """Their side as a server: an echo with the commands of the Node servers."""
    with contextlib.suppress(websockets.ConnectionClosed):
        for message in connection:
            command, *words = message.split(" ") if isinstance(message, str) else [""]
            if command == "close":
                connection.close(int(words[0]), " ".join(words[1:]))
            elif command == "ping":
                connection.ping(words[0]).wait(SOON)
                connection.send(f"pong {words[0]}")
            elif command == "fragments":
                connection.send(f"piece {i};" for i in range(int(words[0])))
            else:
                connection.send(message)


@contextlib.contextmanager
def their_server(**options: Any) -> Iterator[tuple[str, Server]]:
    with serve(answer, "127.0.0.1", 0, max_size=64 << 20, **options) as server:
        serving = run_in_thread(server.serve_forever)
        scheme = "wss" if "ssl" in options else "ws"
        yield f"{scheme}://localhost:{server.socket.getsockname()[1]}/", server
        server.shutdown()
        serving.result()
    gc.collect()  # their selector is part of a cycle
    for end in (vars(server).get("shutdown_watcher"), vars(server).get("shutdown_notifier")):
        if isinstance(end, int):  # up to version 16 they leave this pipe open
            os.close(end)


class TestTheirServer:
    """Our client, their server."""

    @pytest.mark.parametrize("tls", [False, True])
    def test_echo(self, tls: bool) -> None:
        options = {"ssl": certificates().server} if tls else {}
        with their_server(compression=None, **options) as (url, _):
            context = certificates().client if tls else None
            with WebSocketClient(url, max_message_size=64 << 20, ssl_context=context) as websocket:
                converse(websocket)
                assert websocket.ping(b"ours").wait(SOON) > 0
                websocket.send("ping theirs")
                assert websocket.recv(SOON) == "pong theirs"

    @pytest.mark.parametrize("options", mostly_slow(COMPRESSIONS, 0, 3, 4))
    def test_compressed(self, options: dict[str, Any]) -> None:
        with their_server(extensions=[ServerPerMessageDeflateFactory(**options)]) as (url, _):
            with WebSocketClient(
                url, max_message_size=64 << 20, compression=PerMessageDeflate(threshold=0)
            ) as websocket:
                value = websocket.response.headers["Sec-WebSocket-Extensions"]
                assert all(name in value for name in options)
                converse(websocket, [TEXT, TEXT, *PAYLOADS, TEXT])
                websocket.send("fragments 50")
                assert websocket.recv(SOON) == "".join(f"piece {i};" for i in range(50))

    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (3000, "why"), (4999, "é" * 61)])
    def test_they_close(self, code: int, reason: str) -> None:
        with their_server() as (url, _), WebSocketClient(url) as websocket:
            websocket.send(f"close {code} {reason}")
            assert close_code(websocket) == (code, reason)

    def test_subprotocol(self) -> None:
        with their_server(subprotocols=["Chat"]) as (url, _):
            with WebSocketClient(url, subprotocols=["other", "Chat"]) as websocket:
                assert websocket.subprotocol == "Chat"


class TestTheirClient:
    """Their client, our server."""

    @contextlib.contextmanager
    def connected(self, tls: bool = False, seen: list[Any] | None = None, **options: Any) -> Iterator[Any]:
        attributes = {
            "seen": [] if seen is None else seen,
            "compression": PerMessageDeflate(threshold=0),
            "fragment_size": 1000,
        }
        with running_server(Conversation, tls=tls, **attributes) as server:
            context = {"ssl": certificates().client} if tls else {}
            with connect(server.url(), max_size=64 << 20, proxy=None, **context, **options) as websocket:
                yield websocket

    def check_echo(self, websocket: Any, messages: list[str | bytes]) -> None:
        for message in messages:
            websocket.send(message)
            assert websocket.recv(2 * SOON) == message

    @pytest.mark.parametrize("tls", [False, True])
    def test_echo(self, tls: bool) -> None:
        seen: list[Any] = []
        with self.connected(tls, seen, compression=None) as websocket:
            self.check_echo(websocket, PAYLOADS)
            assert websocket.ping("ours").wait(SOON)
            websocket.close(4001, "bye é")
        assert seen[-1] == ("close", 4001, "bye é")

    @pytest.mark.parametrize("options", mostly_slow(COMPRESSIONS, 0, 3, 4))
    def test_compressed(self, options: dict[str, Any]) -> None:
        with self.connected(compression=None, extensions=[ClientPerMessageDeflateFactory(**options)]) as websocket:
            value = websocket.response.headers["Sec-WebSocket-Extensions"]
            assert value.startswith("permessage-deflate")
            self.check_echo(websocket, [TEXT, TEXT, *PAYLOADS, TEXT])
            websocket.send([TEXT, "", TEXT])
            assert websocket.recv(SOON) == TEXT * 2
            websocket.send("fragments 50")
            assert websocket.recv(SOON) == "".join(f"piece {i};" for i in range(50))

    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (3999, "why not")])
    def test_we_close(self, code: int, reason: str) -> None:
        with self.connected() as websocket:
            websocket.send(f"close {code} {reason}")
            with pytest.raises(websockets.ConnectionClosed) as caught:
                websocket.recv(SOON)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)

    def test_subprotocol(self) -> None:
        with self.connected(subprotocols=["other", "Chat"]) as websocket:
            assert websocket.subprotocol == "Chat"

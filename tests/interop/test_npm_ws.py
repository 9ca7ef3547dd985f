"""npm ws in both directions, plain and compressed."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver import PerMessageDeflate, WebSocketClient

from ..support import SOON, certificates, running_server
from .programs import (
    PAYLOADS,
    SERVERS,
    Conversation,
    close_code,
    converse,
    describe,
    mostly_slow,
    node,
    pattern,
    program,
)

# Their options of permessage-deflate, and what the two must agree on (RFC 7692, section 7.1).
COMPRESSIONS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"serverNoContextTakeover": True}, {"server_no_context_takeover"}),
    ({"clientNoContextTakeover": True}, {"client_no_context_takeover"}),
    (
        {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
        {"server_no_context_takeover", "client_no_context_takeover"},
    ),
    ({"serverMaxWindowBits": 9}, {"server_max_window_bits=9"}),
    ({"clientMaxWindowBits": 9}, {"client_max_window_bits=9"}),
    ({"serverMaxWindowBits": 9, "clientMaxWindowBits": 9}, {"server_max_window_bits=9", "client_max_window_bits=9"}),
]
TEXT = "Lorem ipsum dolor sit amet, consectetur adipiscing elit; " * 400


def agreed(extensions: str) -> set[str]:
    """Return the parameters of the one extension of a header value."""
    name, *parameters = (part.strip() for part in extensions.split(";"))
    assert name == "permessage-deflate"
    return set(parameters)


class TestTheirServer:
    """Our client, their server."""

    def test_echo(self) -> None:
        with program(node("ws_server.js", {"perMessageDeflate": False})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}/path"
            with WebSocketClient(url, max_message_size=64 << 20) as websocket:
                peer.expect("open", extensions="", version="13", url="/path")
                converse(websocket)
                for message in PAYLOADS:
                    peer.expect("message", **describe(message))
                websocket.close(4001, "bye é")
            peer.expect("close", code=4001, reason="bye é")

    @pytest.mark.parametrize("options, parameters", mostly_slow(COMPRESSIONS, 0, 3, 6))
    def test_compressed(self, options: dict[str, Any], parameters: set[str]) -> None:
        with program(node("ws_server.js", {"perMessageDeflate": {"threshold": 0, **options}})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}/"
            with WebSocketClient(
                url, max_message_size=64 << 20, compression=PerMessageDeflate(threshold=0)
            ) as websocket:
                opened = peer.expect("open")
                assert opened["extensions"] == "permessage-deflate"
                assert parameters <= agreed(websocket.response.headers["Sec-WebSocket-Extensions"])
                converse(websocket, [TEXT, TEXT, *PAYLOADS, TEXT])
                for message in [TEXT, TEXT, *PAYLOADS, TEXT]:
                    peer.expect("message", **describe(message))

    @pytest.mark.parametrize("compressed", [False, True])
    def test_fragments_both_ways(self, compressed: bool) -> None:
        with program(node("ws_server.js", {"perMessageDeflate": {"threshold": 0} if compressed else False})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}/"
            with WebSocketClient(url, fragment_size=100) as websocket:
                converse(websocket, [TEXT, TEXT.encode()])
                websocket.send("fragments 50")
                assert websocket.recv(SOON) == "".join(f"piece {i};" for i in range(50))

    def test_their_ping_and_ours(self) -> None:
        with program(node("ws_server.js")) as peer:
            with WebSocketClient(f"ws://127.0.0.1:{peer.expect('listening')['port']}") as websocket:
                assert websocket.ping(b"ours").wait(SOON) > 0
                websocket.send("ping theirs")
                assert websocket.recv(SOON) == "pong theirs"

    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (1013, "later"), (4999, "é" * 61)])
    def test_they_close(self, code: int, reason: str) -> None:
        with program(node("ws_server.js")) as peer:
            with WebSocketClient(f"ws://127.0.0.1:{peer.expect('listening')['port']}") as websocket:
                websocket.send(f"close {code} {reason}")
                assert close_code(websocket) == (code, reason)

    def test_subprotocol(self) -> None:
        with program(node("ws_server.js", {"subprotocols": ["Chat"]})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}"
            with WebSocketClient(url, subprotocols=["chat", "Chat"]) as websocket:
                assert websocket.subprotocol == "Chat"
            peer.expect("open", subprotocol="Chat")


class TestTheirClient:
    """Their client, our server."""

    ACTIONS = (
        *({"do": "send", "text": text} for text in ("hello", "", "é漢😀", TEXT, TEXT)),
        *({"do": "send", "size": size} for size in (0, 125, 126, 65535, 65536, 3 << 20)),
        {"do": "fragments", "pieces": [TEXT, "", "é", TEXT]},
        {"do": "ping", "text": "are you there"},
        {"do": "close", "code": 4002, "reason": "done é"},
    )
    ECHOED = (
        *("hello", "", "é漢😀", TEXT, TEXT),
        *(pattern(size) for size in (0, 125, 126, 65535, 65536, 3 << 20)),
        TEXT + "é" + TEXT,
    )

    def run(
        self, actions: Any, options: dict[str, Any], *, tls: bool = False, **attributes: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return what their client reported, and what our handler saw."""
        seen: list[Any] = []
        with running_server(Conversation, tls=tls, seen=seen, **attributes) as server:
            with program(node("ws_client.js", server.url("/x"), list(actions), options)) as peer:
                while peer.next()["event"] not in ("close", "refused"):
                    pass
                return peer.past, seen

    def check_echo(self, theirs: list[Any], ours: list[Any]) -> None:
        got = [{name: row[name] for name in ("binary", "size", "sha1")} for row in theirs if row["event"] == "message"]
        assert got == [describe(message) for message in self.ECHOED]
        assert {"event": "pong", "text": "are you there"} in theirs
        assert ours[-1] == ("close", 4002, "done é")

    @pytest.mark.parametrize("version", [13, 8])
    @pytest.mark.parametrize("server_class", SERVERS)
    def test_echo(self, version: int, server_class: type) -> None:
        options = {"perMessageDeflate": False, "protocolVersion": version}
        theirs, ours = self.run(self.ACTIONS, options, server_class=server_class)
        assert theirs[0] == {"event": "open", "subprotocol": "", "extensions": ""}
        assert ours[0] == ("open", version, None, None)
        self.check_echo(theirs, ours)

    @pytest.mark.parametrize("server_class", SERVERS)
    def test_over_tls(self, server_class: type) -> None:
        authority = certificates().authority.cert_pem.bytes().decode()
        theirs, ours = self.run(self.ACTIONS, {"ca": authority}, tls=True, server_class=server_class)
        self.check_echo(theirs, ours)

    @pytest.mark.parametrize("options, parameters", mostly_slow(COMPRESSIONS, 0, 3, 6))
    @pytest.mark.parametrize("server_class", SERVERS)
    def test_compressed(self, options: dict[str, Any], parameters: set[str], server_class: type) -> None:
        theirs, ours = self.run(
            self.ACTIONS,
            {"perMessageDeflate": {"threshold": 0, **options}},
            compression=PerMessageDeflate(threshold=0),
            server_class=server_class,
        )
        assert theirs[0]["extensions"] == "permessage-deflate"
        self.check_echo(theirs, ours)

    def test_our_ping(self) -> None:
        theirs, _ = self.run([{"do": "send", "text": "ping hello"}, {"do": "close", "code": 1000}], {})
        assert {"event": "ping", "text": "hello"} in theirs

    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (1012, "again"), (3999, "why not")])
    def test_we_close(self, code: int, reason: str) -> None:
        theirs, _ = self.run([{"do": "send", "text": f"close {code} {reason}"}], {})
        assert theirs[-1] == {"event": "close", "code": code, "reason": reason}

    def test_a_close_without_code(self) -> None:
        theirs, ours = self.run([{"do": "close"}], {})
        assert theirs[-1] == {"event": "close", "code": 1005, "reason": ""}
        assert ours[-1] == ("close", 1005, "")

    def test_subprotocol(self) -> None:
        theirs, ours = self.run([{"do": "close", "code": 1000}], {"subprotocols": ["other", "Chat"]})
        assert theirs[0]["subprotocol"] == "Chat"
        assert ours[0][3] == "Chat"

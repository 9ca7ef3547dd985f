"""npm websocket, the reference project, in both directions; versions 13 and 8."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver import ConnectionClosed, Router, WebSocketClient, WebSocketConnection

from ..support import SOON, running_server
from .programs import PAYLOADS, SERVERS, Conversation, close_code, converse, describe, node, program


class TestTheirServer:
    """Our client, their server."""

    @pytest.mark.parametrize("version", [13, 8])
    @pytest.mark.parametrize("fragment_size", [None, 1000])
    def test_echo(self, version: int, fragment_size: int | None) -> None:
        with program(node("websocket_server.js", {"fragmentationThreshold": 1000})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}/path?query"
            with WebSocketClient(
                url,
                websocket_version=version,
                origin="http://example.com",
                max_message_size=64 << 20,
                fragment_size=fragment_size,
            ) as websocket:
                peer.expect("open", version=str(version), origin="http://example.com", url="/path?query")
                converse(websocket)
                for message in PAYLOADS:
                    peer.expect("message", **describe(message))
                websocket.close(4001, "bye é")
            peer.expect("close", code=4001, reason="bye é")

    def test_their_ping_and_ours(self) -> None:
        with program(node("websocket_server.js")) as peer:
            with WebSocketClient(f"ws://127.0.0.1:{peer.expect('listening')['port']}") as websocket:
                assert websocket.ping(b"ours").wait(SOON) > 0
                websocket.send("ping theirs")
                assert websocket.recv(SOON) == "pong theirs"

    @pytest.mark.parametrize("code, reason", [(1000, ""), (3000, "why"), (4999, "é" * 61)])
    def test_they_close(self, code: int, reason: str) -> None:
        with program(node("websocket_server.js")) as peer:
            with WebSocketClient(f"ws://127.0.0.1:{peer.expect('listening')['port']}") as websocket:
                websocket.send(f"close {code} {reason}")
                assert close_code(websocket) == (code, reason)

    def test_subprotocol(self) -> None:
        # Their server knows the names in lower case only.
        with program(node("websocket_server.js", {"subprotocols": ["superchat"]})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}"
            with WebSocketClient(url, subprotocols=["chat", "superchat"]) as websocket:
                assert websocket.subprotocol == "superchat"

    def test_subprotocol_in_our_case(self) -> None:
        with program(node("websocket_server.js", {"subprotocols": ["chat"]})) as peer:
            url = f"ws://127.0.0.1:{peer.expect('listening')['port']}"
            with WebSocketClient(url, subprotocols=["Other", "Chat"]) as websocket:
                assert websocket.subprotocol == "Chat"

    def test_a_server_that_stops_answering(self) -> None:
        with program(node("websocket_server.js")) as peer:
            with WebSocketClient(f"ws://127.0.0.1:{peer.expect('listening')['port']}") as websocket:
                peer.process.kill()
                with pytest.raises(ConnectionClosed) as caught:
                    websocket.recv(SOON)
                assert caught.value.code == 1006


class TestTheirClient:
    """Their client, our server."""

    def run(
        self, actions: list[dict[str, Any]], options: dict[str, Any], **attributes: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return what their client reported, and what our handler saw."""
        seen: list[Any] = []
        with running_server(Conversation, seen=seen, allowed_origins=["http://example.com"], **attributes) as server:
            with program(node("websocket_client.js", server.url("/x"), actions, options)) as peer:
                while peer.next()["event"] not in ("close", "refused"):
                    pass
                return peer.past, seen

    @pytest.mark.parametrize("version", [13, 8])
    @pytest.mark.parametrize("fragment_size", [None, 1000])
    @pytest.mark.parametrize("server_class", SERVERS)
    def test_echo(self, version: int, fragment_size: int | None, server_class: type) -> None:
        sent: list[str | bytes] = ["hello", "", "é漢😀", b"\x00\xff", b""]
        actions = [
            {"do": "send", "text": message} if isinstance(message, str) else {"do": "send", "hex": message.hex()}
            for message in sent
        ]
        actions += [{"do": "send", "size": size} for size in (125, 126, 65535, 65536, 3 << 20)]
        actions += [{"do": "ping", "text": "are you there"}, {"do": "close", "code": 4002, "reason": "done é"}]
        options = {"webSocketVersion": version, "fragmentationThreshold": 1000, "origin": "http://example.com"}
        theirs, ours = self.run(actions, options, fragment_size=fragment_size, server_class=server_class)
        wanted = sent + [bytes(i % 251 for i in range(size)) for size in (125, 126, 65535, 65536, 3 << 20)]
        assert theirs[0] == {"event": "open", "subprotocol": "", "version": str(version)}
        got = [{name: row[name] for name in ("binary", "size", "sha1")} for row in theirs if row["event"] == "message"]
        assert got == [describe(message) for message in wanted]
        assert {"event": "pong", "text": "are you there"} in theirs
        assert ours == [("open", version, "http://example.com", None), ("close", 4002, "done é")]

    def test_our_ping(self) -> None:
        theirs, _ = self.run([{"do": "send", "text": "ping hello"}, {"do": "close", "code": 1000}], {})
        assert {"event": "ping", "text": "hello"} in theirs

    def test_our_fragments(self) -> None:
        actions = [{"do": "send", "text": "fragments 3"}, {"do": "close", "code": 1000}]
        theirs, _ = self.run(actions, {}, fragment_size=4)
        assert theirs[1]["text"] == "piece 0;piece 1;piece 2;"

    @pytest.mark.parametrize("code, reason", [(1000, ""), (1001, "going"), (3999, "why not")])
    def test_we_close(self, code: int, reason: str) -> None:
        theirs, _ = self.run([{"do": "send", "text": f"close {code} {reason}"}], {})
        assert theirs[-1]["event"] == "close"
        assert theirs[-1]["code"] == code
        if reason:  # without one they report a text of their own
            assert theirs[-1]["reason"] == reason

    def test_subprotocol(self) -> None:
        theirs, ours = self.run([{"do": "close", "code": 1000}], {"subprotocols": ["other", "superchat"]})
        assert theirs[0]["subprotocol"] == "superchat"
        assert ours[0][3] == "superchat"

    @pytest.mark.parametrize("mounted", ["chat", "CHAT", "*"])
    def test_subprotocol_in_their_case_through_a_router(self, mounted: str) -> None:
        router = Router()

        @router.route("/x", subprotocol=mounted)
        def echo(websocket: WebSocketConnection) -> None:
            for message in websocket:
                websocket.send(message)

        actions = [{"do": "send", "text": "hello"}, {"do": "close", "code": 1000}]
        with running_server(router) as server:
            with program(node("websocket_client.js", server.url("/x"), actions, {"subprotocols": ["Chat"]})) as peer:
                peer.expect("open", subprotocol="Chat")
                peer.expect("message", text="hello")
                peer.expect("close", code=1000)

    def test_a_foreign_origin_is_refused(self) -> None:
        theirs, ours = self.run([], {"origin": "http://evil.example"})
        assert theirs[0]["event"] == "refused"
        assert "403" in theirs[0]["message"]
        assert ours == []

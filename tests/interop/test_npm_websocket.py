"""npm websocket, the reference project, in both directions, with every tunable that changes what is on the wire."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocketserver import ConnectionClosed, Fragment, Router, WebSocketClient, WebSocketConnection

from ..support import SOON, certificates, running_server, wait_until
from .programs import PAYLOADS, SERVERS, Conversation, Program, close_code, converse, describe, node, pattern, program

CLOSE_CODES = [
    1000,
    1001,
    1002,
    1003,
    *range(1007, 1015),
    3000,
    3999,
    4000,
    4999,
]  # all that may be sent, or their ends
WHOLE = {"fragmentOutgoingMessages": False}
PIECES = {"fragmentationThreshold": 1000}


@contextlib.contextmanager
def their_server(**options: Any) -> Iterator[tuple[Program, str]]:
    """Yield their server, which listens, and its address."""
    with program(node("websocket_server.js", options)) as peer:
        scheme = "wss" if "tls" in options else "ws"
        yield peer, f"{scheme}://localhost:{peer.expect('listening')['port']}/"


class TestTheirServer:
    """Our client, their server."""

    @pytest.mark.parametrize(
        ("version", "fragment_size", "theirs"),
        [(13, None, WHOLE), (13, 1000, PIECES), (8, None, PIECES), (8, 1000, WHOLE)],
    )
    def test_echo(self, version: int, fragment_size: int | None, theirs: dict[str, Any]) -> None:
        with program(node("websocket_server.js", theirs)) as peer:
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

    def test_a_server_that_freezes(self) -> None:
        with their_server() as (peer, url):
            with WebSocketClient(url, ping_interval=0.05, ping_timeout=0.1, close_timeout=0.1) as websocket:
                peer.expect("open")
                peer.process.send_signal(signal.SIGSTOP)
                assert close_code(websocket)[0] == 1006

    def test_their_keepalive(self) -> None:
        pings: list[bytes] = []

        class Pinged(WebSocketClient):
            def on_ping(self, payload: bytes) -> None:
                pings.append(payload)
                if len(pings) == 3:
                    self.close()

        with their_server(keepaliveInterval=30, keepaliveGracePeriod=5000) as (peer, url):
            Pinged(url, connect=False).run_forever()
            peer.expect("open")
            peer.expect("close", code=1000)
        assert len(pings) >= 3
        assert set(pings) == {b""}

    @pytest.mark.parametrize("pieces", [False, True])
    def test_our_fragments_as_they_see_them(self, pieces: bool) -> None:
        with their_server(assembleFragments=False) as (peer, url):
            with WebSocketClient(url, fragment_size=None if pieces else 4) as websocket:
                peer.expect("open")
                if pieces:
                    websocket.send_fragments(["0123", "4567", "89"])
                else:
                    websocket.send("0123456789")
                assert websocket.recv(SOON) == "whole"
            frames = [peer.expect("frame") for _ in range(4 if pieces else 3)]
        end = [(0, False, 2), (0, True, 0)] if pieces else [(0, True, 2)]
        assert [(frame["opcode"], frame["fin"], frame["size"]) for frame in frames] == [
            (1, False, 4),
            (0, False, 4),
            *end,
        ]

    def test_their_fragments_in_pieces(self) -> None:
        with their_server(fragmentationThreshold=1000) as (_, url), WebSocketClient(url) as websocket:
            for message in ("é" * 50_000, "after"):
                websocket.send(message)
                stream = websocket.recv_fragments(SOON)
                assert "".join(map(str, stream)) == message
            websocket.send(bytes(1 << 20))
            assert next(websocket.recv_fragments(SOON))  # the rest is passed over
            websocket.send("next")
            assert websocket.recv(SOON) == "next"

    @pytest.mark.parametrize("limit", ["maxReceivedFrameSize", "maxReceivedMessageSize"])
    def test_their_limits(self, limit: str) -> None:
        with their_server(**{limit: 1000}) as (_, url):
            with WebSocketClient(url, fragment_size=600) as websocket:
                websocket.send(bytes(1001))
                if limit == "maxReceivedFrameSize":
                    assert websocket.recv(SOON) == bytes(1001)
                else:
                    assert close_code(websocket)[0] == 1009
            with WebSocketClient(url) as websocket:
                websocket.send(bytes(1000))
                assert websocket.recv(SOON) == bytes(1000)
                websocket.send(bytes(1001))
                if limit == "maxReceivedFrameSize":  # they forget the other for messages of one frame
                    assert close_code(websocket)[0] == 1009

    @pytest.mark.parametrize("limit", ["max_frame_size", "max_message_size"])
    def test_our_limits(self, limit: str) -> None:
        limits: dict[str, Any] = {limit: 1000}
        with their_server(**WHOLE) as (peer, url), WebSocketClient(url, **limits) as websocket:
            peer.expect("open")
            for size in (1000, 1001):
                websocket.send(bytes(size))
                peer.expect("message", size=size)
            assert websocket.recv(SOON) == bytes(1000)
            with pytest.raises(ConnectionClosed):
                websocket.recv(SOON)
            peer.expect("close", code=1009)

    def test_every_close_code(self) -> None:
        with their_server() as (peer, url):
            for code in CLOSE_CODES:
                with WebSocketClient(url) as websocket:
                    websocket.send(f"close {code} theirs é")
                    assert close_code(websocket) == (code, "theirs é")
                for event in ("open", "message", "close"):
                    peer.expect(event)
                with WebSocketClient(url) as websocket:
                    peer.expect("open")
                    websocket.close(code, "ours é")
                peer.expect("close", code=code, reason="ours é")

    def test_an_end_without_a_closing_handshake(self) -> None:
        with their_server() as (peer, url):
            with WebSocketClient(url) as websocket:
                websocket.send("drop 1008 enough")
                assert close_code(websocket) == (1008, "enough")
            for event in ("open", "message", "close"):
                peer.expect(event)
            WebSocketClient(url).abort()
            peer.expect("open")
            peer.expect("close", code=1006)

    @pytest.mark.parametrize("names, chosen", [(["Chat"], "Chat"), (["chat"], "chat"), (["other"], None), ([], None)])
    def test_subprotocols_of_every_case(self, names: list[str], chosen: str | None) -> None:
        with their_server(subprotocols=["chat"]) as (peer, url):
            with WebSocketClient(url, subprotocols=names) as websocket:
                assert websocket.subprotocol == chosen
                peer.expect("open", subprotocol="chat" if chosen else "")

    def test_over_tls(self, tmp_path: Path) -> None:
        chain, key, _ = certificates().write(tmp_path)
        tls = {"cert": Path(chain).read_text(), "key": Path(key).read_text()}
        with their_server(tls=tls) as (_, url):
            with WebSocketClient(url, ssl_context=certificates().client, max_message_size=64 << 20) as websocket:
                converse(websocket)

    def test_hooks_are_called(self) -> None:
        calls: list[Any] = []

        class Caller(WebSocketClient):
            def on_open(self) -> None:
                self.send("ping theirs")

            def on_ping(self, payload: bytes) -> None:
                calls.append(payload)

            def on_message(self, message: str | bytes) -> None:
                calls.append(message)
                self.send("close 4001 over")

            def on_close(self, code: int, reason: str) -> None:
                calls.append((code, reason))

        with their_server() as (_, url):
            Caller(url, connect=False).run_forever()
        assert calls == [b"theirs", "pong theirs", (4001, "over")]


class TestTheirClient:
    """Their client, our server."""

    def run(
        self, actions: list[dict[str, Any]], options: dict[str, Any], **attributes: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return what their client reported, and what our handler saw."""
        return self.run_with(Conversation, actions, options, **attributes)

    def run_with(
        self, handler: type[Conversation], actions: list[dict[str, Any]], options: dict[str, Any], **attributes: Any
    ) -> tuple[list[Any], list[Any]]:
        seen: list[Any] = []
        with running_server(handler, seen=seen, allowed_origins=["http://example.com"], **attributes) as server:
            with program(node("websocket_client.js", server.url("/x"), actions, options)) as peer:
                while peer.next()["event"] not in ("close", "refused"):
                    pass
                return peer.past, seen

    @pytest.mark.parametrize("version", [13, 8])
    @pytest.mark.parametrize("fragment_size", [None, 1000])
    @pytest.mark.parametrize("server_class", SERVERS)
    def test_echo(self, version: int, fragment_size: int | None, server_class: type) -> None:
        sent: list[str | bytes] = ["hello", "", "é漢😀", b"\x00\xff", b""]
        actions: list[dict[str, Any]] = [
            {"do": "send", "text": message} if isinstance(message, str) else {"do": "send", "hex": message.hex()}
            for message in sent
        ]
        actions += [{"do": "send", "size": size} for size in (125, 126, 65535, 65536, 3 << 20)]
        actions += [{"do": "ping", "text": "are you there"}, {"do": "close", "code": 4002, "reason": "done é"}]
        options: dict[str, Any] = {
            "webSocketVersion": version,
            "fragmentationThreshold": 1000,
            "origin": "http://example.com",
        }
        theirs, ours = self.run(actions, options, fragment_size=fragment_size, server_class=server_class)
        wanted = sent + [pattern(size) for size in (125, 126, 65535, 65536, 3 << 20)]
        assert theirs[0] == {"event": "open", "subprotocol": "", "version": str(version)}
        got = [{name: row[name] for name in ("binary", "size", "sha1")} for row in theirs if row["event"] == "message"]
        assert got == [describe(message) for message in wanted]
        assert {"event": "pong", "text": "are you there"} in theirs
        assert ours == [("open", version, "http://example.com", None), ("close", 4002, "done é")]

    @pytest.mark.parametrize("server_class", SERVERS)
    def test_our_keepalive(self, server_class: type) -> None:
        actions: list[dict[str, Any]] = [{"do": "send", "text": "hello"}]  # and then it answers our Pings
        with running_server(Conversation, seen=[], server_class=server_class, ping_interval=0.03) as server:
            with program(node("websocket_client.js", server.url("/x"), actions, {})) as peer:
                peer.expect("open")
                events = [peer.next()["event"] for _ in range(4)]
                assert events.count("message") == 1  # the first Ping may be here before it
                assert events.count("ping") == 3
                wait_until(lambda: server.server.connections[0].latency is not None)

    @pytest.mark.parametrize("server_class", SERVERS)
    def test_a_client_that_freezes(self, server_class: type) -> None:
        seen: list[Any] = []
        settings: dict[str, Any] = {"ping_interval": 0.05, "ping_timeout": 0.1, "close_timeout": 0.1}
        with running_server(Conversation, seen=seen, server_class=server_class, **settings) as server:
            with program(node("websocket_client.js", server.url("/x"), [], {})) as peer:
                peer.expect("open")
                peer.expect("ping")
                peer.process.send_signal(signal.SIGSTOP)
                wait_until(lambda: len(seen) == 2)
        assert seen[1][:2] == ("close", 1006)

    def test_their_keepalive(self) -> None:
        pings: list[bytes] = []
        options: dict[str, Any] = {"keepalive": True, "keepaliveInterval": 30, "keepaliveGracePeriod": 5000}

        class Pinged(Conversation):
            def on_ping(self, payload: bytes) -> None:
                pings.append(payload)

        with running_server(Pinged, seen=[]) as server:
            with program(node("websocket_client.js", server.url("/x"), [], options)) as peer:
                peer.expect("open")
                wait_until(lambda: len(pings) >= 3)  # it goes on, so they have been answered
        assert set(pings) == {b""}

    def test_our_ping(self) -> None:
        theirs, _ = self.run([{"do": "send", "text": "ping hello"}, {"do": "close", "code": 1000}], {})
        assert {"event": "ping", "text": "hello"} in theirs

    def test_our_fragments(self) -> None:
        actions: list[dict[str, Any]] = [{"do": "send", "text": "fragments 3"}, {"do": "close", "code": 1000}]
        theirs, _ = self.run(actions, {}, fragment_size=4)
        assert theirs[1]["text"] == "piece 0;piece 1;piece 2;"

    @pytest.mark.parametrize("pieces", [False, True])
    def test_our_fragments_as_they_see_them(self, pieces: bool) -> None:
        class Ten(Conversation):
            def on_message(self, message: str | bytes) -> None:
                if pieces:
                    self.websocket.send_fragments([b"0123", b"4567", b"89"])
                else:
                    self.websocket.send(b"0123456789")

        actions: list[dict[str, Any]] = [{"do": "send", "text": "ten"}, {"do": "close", "code": 1000}]
        options: dict[str, Any] = {"assembleFragments": False}
        with running_server(Ten, seen=[], fragment_size=None if pieces else 4) as server:
            with program(node("websocket_client.js", server.url("/x"), actions, options)) as peer:
                while peer.next()["event"] != "close":
                    pass
        frames = [(row["opcode"], row["fin"], row["size"]) for row in peer.past if row["event"] == "frame"]
        end = [(0, False, 2), (0, True, 0)] if pieces else [(0, True, 2)]
        assert frames == [(2, False, 4), (0, False, 4), *end]

    @pytest.mark.parametrize("options", [WHOLE, PIECES], ids=["whole", "fragments"])
    @pytest.mark.parametrize("server_class", SERVERS)
    def test_their_messages_in_pieces(self, options: dict[str, Any], server_class: type) -> None:
        class InPieces(Conversation):
            def on_fragment(self, fragment: Fragment) -> None:
                self.seen.append(fragment)
                if fragment.fin:
                    self.websocket.send("whole")

        actions: list[dict[str, Any]] = [{"do": "send", "size": 100_000}, {"do": "close", "code": 1000}]
        theirs, ours = self.run_with(InPieces, actions, options, server_class=server_class)
        assert {"event": "message", **describe("whole"), "text": "whole"} in theirs
        pieces = ours[1:-1]
        assert b"".join(piece.data for piece in pieces) == pattern(100_000)
        assert [piece.fin for piece in pieces] == [False] * (len(pieces) - 1) + [True]

    @pytest.mark.parametrize("limit", ["max_frame_size", "max_message_size"])
    @pytest.mark.parametrize("fragments", [False, True])
    def test_our_limits(self, limit: str, fragments: bool) -> None:
        actions: list[dict[str, Any]] = [
            {"do": "send", "size": 1000},
            {"do": "send", "size": 1001},
            {"do": "close", "code": 4000},
        ]
        options: dict[str, Any] = {"fragmentationThreshold": 600} if fragments else WHOLE
        theirs, _ = self.run(actions, options, **{limit: 1000})
        passes = limit == "max_frame_size" and fragments
        assert theirs[-1]["code"] == (4000 if passes else 1009)
        assert [row["size"] for row in theirs if row["event"] == "message"] == [1000, 1001][: 1 + passes]

    @pytest.mark.parametrize("limit", ["maxReceivedFrameSize", "maxReceivedMessageSize"])
    def test_their_limits(self, limit: str) -> None:
        actions: list[dict[str, Any]] = [{"do": "send", "size": 1001}, {"do": "close", "code": 4000}]
        theirs, ours = self.run(actions, {limit: 1000}, fragment_size=600)
        code = 4000 if limit == "maxReceivedFrameSize" else 1009
        assert (theirs[-1]["code"], ours[-1][1]) == (code, code)
        theirs, ours = self.run(actions, {"maxReceivedFrameSize": 1000})
        assert (theirs[-1]["code"], ours[-1][1]) == (1009, 1009)

    def test_every_close_code(self) -> None:
        theirs: list[list[dict[str, Any]]] = [
            [{"do": "close", "code": code, "reason": "theirs é"}] for code in CLOSE_CODES
        ]
        ours: list[list[dict[str, Any]]] = [[{"do": "send", "text": f"close {code} ours é"}] for code in CLOSE_CODES]
        seen: list[Any] = []
        with running_server(Conversation, seen=seen) as server:
            with program(node("websocket_client.js", server.url("/x"), theirs + ours, {})) as peer:
                for _ in theirs:
                    peer.expect("open")
                    peer.expect("close")
                for code in CLOSE_CODES:
                    peer.expect("open")
                    peer.expect("close", code=code, reason="ours é")
            wait_until(lambda: len(seen) == 2 * len(theirs + ours))
        ends = sorted((code, reason) for event, code, reason, *_ in seen if event == "close")
        assert ends == sorted([(code, "theirs é") for code in CLOSE_CODES] + [(1000, "")] * len(ours))  # as they answer

    @pytest.mark.parametrize("silently, code", [(False, 1008), (True, 1006)])
    def test_they_drop(self, silently: bool, code: int) -> None:
        action: dict[str, Any] = {"do": "drop", "code": 1008, "reason": "enough", "silently": silently}
        _, ours = self.run([action], {})
        assert ours[-1][:2] == ("close", code)

    def test_over_tls(self) -> None:
        actions: list[dict[str, Any]] = [{"do": "send", "size": 3 << 20}, {"do": "close", "code": 1000}]
        trust: dict[str, Any] = {"tlsOptions": {"ca": certificates().authority.cert_pem.bytes().decode()}}
        theirs, ours = self.run(actions, trust, tls=True)
        assert theirs[1]["size"] == 3 << 20
        assert ours[-1] == ("close", 1000, ours[-1][2])

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

    @pytest.mark.parametrize("names, chosen", [(["Chat"], "Chat"), (["other"], None), ([], "")])
    def test_subprotocols_of_every_case(self, names: list[str], chosen: str | None) -> None:
        theirs, _ = self.run([{"do": "close", "code": 1000}], {"subprotocols": names})
        if chosen is None:  # they fail where none of theirs is agreed on
            assert theirs[0]["event"] == "refused"
        else:
            assert theirs[0] == {"event": "open", "subprotocol": chosen, "version": "13"}

    @pytest.mark.parametrize("mounted", ["chat", "CHAT", "*"])
    def test_subprotocol_in_their_case_through_a_router(self, mounted: str) -> None:
        router = Router()

        @router.route("/x", subprotocol=mounted)
        def echo(websocket: WebSocketConnection) -> None:
            for message in websocket:
                websocket.send(message)

        actions: list[dict[str, Any]] = [{"do": "send", "text": "hello"}, {"do": "close", "code": 1000}]
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

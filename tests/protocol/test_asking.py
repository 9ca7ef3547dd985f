"""The opening handshake, the client's side: RFC 6455, section 4.1."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.exceptions import HandshakeError
from websocketserver.protocol.asking import build_request, check_response, host_field
from websocketserver.protocol.handshake import accept_key, check_request, response_fields
from websocketserver.protocol.headers import parse_request_head, read_response_head, serialize_head

from .test_handshake import ACCEPT, KEY, TOKENS


class TestBuildingARequest:
    """RFC 6455, section 4.1, first list."""

    def test_the_least_request(self) -> None:
        assert build_request("localhost:8000", "/", KEY) == (
            b"GET / HTTP/1.1\r\n"
            b"Host: localhost:8000\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n"
            b"\r\n"
        )

    @pytest.mark.parametrize("version", [13, 8])
    def test_a_full_request_is_what_a_server_reads(self, version: int) -> None:
        data = build_request(
            "[::1]:8000",
            "/a?b",
            KEY,
            version=version,
            origin="http://localhost",
            subprotocols=["x", "Y"],
            extensions="permessage-deflate; client_max_window_bits",
            cookies={"c": "1", "d": "2"},
            extra=[("X-Note", "\xe4"), ("Authorization", "Basic YTpi")],
        )
        opened = check_request(parse_request_head(data))
        assert (opened.host, opened.target, opened.version, opened.key) == ("[::1]:8000", "/a?b", version, KEY)
        assert (opened.origin, opened.subprotocols) == ("http://localhost", ["x", "Y"])
        assert opened.extensions == [("permessage-deflate", [("client_max_window_bits", None)])]
        assert opened.cookies == {"c": "1", "d": "2"}
        assert (opened.headers["X-Note"], opened.headers["Authorization"]) == ("\xe4", "Basic YTpi")

    def test_a_host_of_the_users_own_replaces_ours(self) -> None:
        opened = check_request(
            parse_request_head(build_request("localhost", "/", KEY, extra=[("host", "example.com")]))
        )
        assert opened.headers.get_all("Host") == ["example.com"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"host": ""}, "host"),
            ({"host": "a b"}, "host"),
            ({"host": "::1"}, "host"),
            ({"host": "a\r\nX: 1"}, "host"),
            ({"extra": [("Host", "a"), ("host", "b")]}, "host"),
            ({"extra": [("Host", "")]}, "host"),
            ({"target": ""}, "target"),
            ({"target": "chat"}, "target"),
            ({"target": "/a b"}, "target"),
            ({"target": "/a#b"}, "target"),
            ({"target": "/\xe4"}, "target"),
            ({"target": "/ HTTP/1.1\r\nX: 1"}, "target"),
            ({"key": "abc"}, "key"),
            ({"key": KEY + "\r\n"}, "key"),
            ({"version": 7}, "version"),
            ({"origin": "http://a\r\nX: 1"}, "Origin"),
            ({"subprotocols": ["a b"]}, "subprotocol"),
            ({"subprotocols": [""]}, "subprotocol"),
            ({"subprotocols": ["a\r\n"]}, "subprotocol"),
            ({"subprotocols": ["a", "b", "a"]}, "unique"),
            ({"extensions": "a;"}, "extension"),
            ({"extensions": "a\r\nX: 1"}, "extension"),
            ({"cookies": {"a": "1\r\n"}}, "cookie"),
            ({"cookies": {"a": "1"}, "extra": [("Cookie", "b=2")]}, "twice"),
            ({"extra": [("X", "1\r\nY: 2")]}, "value of header X"),
            ({"extra": [("X Y", "1")]}, "header name"),
        ],
    )
    def test_what_may_not_be_sent_is_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build_request(**{"host": "localhost", "target": "/", "key": KEY, **changes})

    @pytest.mark.parametrize(
        "name", ["Upgrade", "connection", "Sec-WebSocket-Key", "SEC-WEBSOCKET-PROTOCOL", "Origin", "Content-Length"]
    )
    def test_the_handshakes_own_headers_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            build_request("localhost", "/", KEY, extra=[(name, "0")])

    @pytest.mark.parametrize(
        "changes", [{"subprotocols": "chat"}, {"subprotocols": [1]}, {"extra": [("X", 1)]}, {"origin": 1}]
    )
    def test_other_types_are_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            build_request("localhost", "/", KEY, **changes)

    @pytest.mark.parametrize(
        ("host", "port", "secure", "field"),
        [
            ("localhost", 80, False, "localhost"),
            ("localhost", 443, True, "localhost"),
            ("localhost", 443, False, "localhost:443"),
            ("localhost", 80, True, "localhost:80"),
            ("127.0.0.1", 8000, False, "127.0.0.1:8000"),
            ("::1", 8000, False, "[::1]:8000"),
            ("::1", 80, False, "[::1]"),
            ("[::1]", 8000, False, "[::1]:8000"),
            ("fe80::1%eth0", 8000, False, "[fe80::1]:8000"),
        ],
    )
    def test_the_host_header_brackets_ipv6_and_leaves_out_default_ports(
        self, host: str, port: int, secure: bool, field: str
    ) -> None:
        assert host_field(host, port, secure) == field


ANSWER = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}


def answer(
    changes: Mapping[str, str | None] | None = None,
    *extra: tuple[str, str],
    start: str = "HTTP/1.1 101 Switching Protocols",
    **asked: Any,
) -> tuple[str | None, list[tuple[str, list[tuple[str, str | None]]]]]:
    """Check a good answer with headers changed (None: left out) and added."""
    fields = {**ANSWER, **(changes or {})}
    data = serialize_head(start, [(name, value) for name, value in fields.items() if value is not None] + list(extra))
    return check_response(read_response_head(io.BytesIO(data).readline), key=KEY, **asked)


class TestCheckingAnAnswer:
    """RFC 6455, section 4.1, second list."""

    def test_the_least_answer_is_accepted(self) -> None:
        assert answer() == (None, [])

    def test_an_offered_subprotocol_and_extension_are_accepted(self) -> None:
        changes = {"Sec-WebSocket-Protocol": "B", "Sec-WebSocket-Extensions": "x; y=1"}
        assert answer(changes, subprotocols=["a", "B"], extensions="x; y, z") == ("B", [("x", [("y", "1")])])

    def test_a_server_may_choose_none(self) -> None:
        assert answer(subprotocols=["a"], extensions="x") == (None, [])

    @pytest.mark.parametrize("changes", [{"Upgrade": "WebSocket"}, {"Connection": "keep-alive, UPGRADE"}])
    def test_upgrade_and_connection_are_read_in_any_case(self, changes: dict[str, str]) -> None:
        assert answer(changes) == (None, [])

    @pytest.mark.parametrize(
        ("changes", "extra", "message"),
        [
            ({"Upgrade": None}, [], "Upgrade"),
            ({"Upgrade": "h2c"}, [], "Upgrade"),
            ({"Upgrade": "websocket, h2c"}, [], "Upgrade"),
            ({}, [("Upgrade", "websocket")], "Upgrade"),
            ({"Connection": None}, [], "Connection"),
            ({"Connection": "close"}, [], "Connection"),
            ({"Sec-WebSocket-Accept": None}, [], "Sec-WebSocket-Accept"),
            ({"Sec-WebSocket-Accept": ACCEPT.swapcase()}, [], "Sec-WebSocket-Accept"),
            ({"Sec-WebSocket-Accept": accept_key(ACCEPT)}, [], "Sec-WebSocket-Accept"),
            ({"Sec-WebSocket-Accept": KEY}, [], "Sec-WebSocket-Accept"),
            ({}, [("sec-websocket-accept", ACCEPT)], "Sec-WebSocket-Accept"),
            ({"Sec-WebSocket-Protocol": "c"}, [], "Sec-WebSocket-Protocol"),
            ({"Sec-WebSocket-Protocol": "A"}, [], "Sec-WebSocket-Protocol"),
            ({"Sec-WebSocket-Protocol": ""}, [], "Sec-WebSocket-Protocol"),
            ({"Sec-WebSocket-Protocol": "a, b"}, [], "Sec-WebSocket-Protocol"),
            ({"Sec-WebSocket-Protocol": "a"}, [("Sec-WebSocket-Protocol", "b")], "Sec-WebSocket-Protocol"),
            ({"Sec-WebSocket-Extensions": ""}, [], "Sec-WebSocket-Extensions"),
            ({"Sec-WebSocket-Extensions": "x;"}, [], "Sec-WebSocket-Extensions"),
        ],
    )
    def test_another_answer_is_refused(self, changes: dict[str, Any], extra: Any, message: str) -> None:
        with pytest.raises(HandshakeError, match=message) as caught:
            answer(changes, *extra, subprotocols=["a", "b"], extensions="x")
        assert caught.value.status == 101
        assert "Upgrade" in caught.value.headers or changes == {"Upgrade": None}

    def test_what_was_not_offered_is_refused(self) -> None:
        with pytest.raises(HandshakeError, match="Protocol"):
            answer({"Sec-WebSocket-Protocol": "a"})
        with pytest.raises(HandshakeError, match="extension"):
            answer({"Sec-WebSocket-Extensions": "x"})

    def test_the_version_of_http_must_be_1_1(self) -> None:
        with pytest.raises(HandshakeError, match=r"HTTP/1\.0"):
            answer(start="HTTP/1.0 101 Switching Protocols")

    @pytest.mark.parametrize(
        ("start", "status", "message"),
        [
            ("HTTP/1.1 403 Forbidden", 403, "the server refused: 403 Forbidden"),
            ("HTTP/1.0 200", 200, "the server has no WebSocket there: 200"),
            ("HTTP/1.1 302 \x9b31m", 302, "the server has no WebSocket there: 302"),
            ("HTTP/1.1 500 " + "a" * 5000, 500, "the server refused: 500 " + "a" * 100),
        ],
    )
    def test_a_refusal_carries_status_and_headers(self, start: str, status: int, message: str) -> None:
        with pytest.raises(HandshakeError) as caught:
            answer(None, ("X-Why", "because"), start=start)
        assert str(caught.value) == message
        assert caught.value.status == status
        assert caught.value.headers["X-Why"] == "because"


@given(st.lists(TOKENS, unique=True, min_size=1), st.data())
def test_both_sides_agree(subprotocols: list[str], data: st.DataObject) -> None:
    asked = parse_request_head(build_request("localhost", "/", KEY, subprotocols=subprotocols, extensions="x; y"))
    opened = check_request(asked)
    assert opened.subprotocols == subprotocols
    chosen = data.draw(st.none() | st.sampled_from(subprotocols))
    fields = response_fields(opened, subprotocol=chosen, extensions="x")
    head = read_response_head(io.BytesIO(serialize_head("HTTP/1.1 101 Switching Protocols", fields)).readline)
    assert check_response(head, key=KEY, subprotocols=subprotocols, extensions="x; y") == (chosen, [("x", [])])

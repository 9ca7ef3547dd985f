"""The opening handshake, the server's side: RFC 6455, section 4.2."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from websocketserver.exceptions import HandshakeError
from websocketserver.protocol.asking import check_response
from websocketserver.protocol.handshake import (
    Request,
    accept_key,
    build_response,
    check_request,
    is_upgrade,
    response_fields,
    same_origin,
)
from websocketserver.protocol.headers import RequestHead, parse_request_head, read_response_head, serialize_head

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True)

REQUEST = {
    "Host": "localhost:8000",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def head(
    changes: Mapping[str, str | None] | None = None,
    *lines: str,
    start: str = "GET /chat?room=1 HTTP/1.1",
) -> RequestHead:
    """Return the head of a good request with headers changed (None: left out) and lines added."""
    fields = {**REQUEST, **(changes or {})}
    kept = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return parse_request_head("\r\n".join([start, *kept, *lines, "", ""]).encode("latin-1"))


def request(changes: Mapping[str, str | None] | None = None, *lines: str) -> Request:
    return check_request(head(changes, *lines))


def refusal(
    changes: Mapping[str, str | None] | None = None, *lines: str, start: str = "GET / HTTP/1.1"
) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        check_request(head(changes, *lines, start=start))
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    return caught.value


class TestRequest:
    """RFC 6455, section 4.2.1."""

    def test_a_good_request_is_read(self) -> None:
        opened = request({"Origin": "http://localhost:8000", "Cookie": "a=1"})
        assert (opened.method, opened.target) == ("GET", "/chat?room=1")
        assert (opened.path, opened.query) == ("/chat", "room=1")
        assert (opened.host, opened.origin) == ("localhost:8000", "http://localhost:8000")
        assert (opened.version, opened.key) == (13, KEY)
        assert (opened.subprotocols, opened.extensions, opened.cookies) == ([], [], {"a": "1"})
        assert opened.headers["Host"] == "localhost:8000"

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            ("/", "/", ""),
            ("/a%2Fb/../c;d", "/a%2Fb/../c;d", ""),
            ("//evil//x?y", "//evil//x", "y"),
            ("/?", "/", ""),
            ("/a?b?c=http://d", "/a", "b?c=http://d"),
            ("http://localhost/a?b", "/a", "b"),
            ("ws://localhost:8000", "/", ""),
            ("HTTPS://localhost?b", "/", "b"),
        ],
    )
    def test_path_and_query_are_those_that_were_sent(self, target: str, path: str, query: str) -> None:
        opened = check_request(head(start=f"GET {target} HTTP/1.1"))
        assert (opened.target, opened.path, opened.query) == (target, path, query)

    def test_the_host_of_an_absolute_target_counts(self) -> None:
        assert check_request(head(start="GET http://example.com/ HTTP/1.1")).host == "example.com"

    @pytest.mark.parametrize(
        "target", ["*", "chat", "localhost:8000", "/a#b", "ftp://a/", "http://", "http://a@b/", "http:///a"]
    )
    def test_a_malformed_target_is_refused(self, target: str) -> None:
        assert refusal(start=f"GET {target} HTTP/1.1").status == 400

    @pytest.mark.parametrize("host", ["", ":8000"])
    def test_an_empty_host_is_refused(self, host: str) -> None:
        assert refusal({"Host": host}).status == 400

    @pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "get"])
    def test_other_methods_are_refused_with_405(self, method: str) -> None:
        error = refusal(start=f"{method} / HTTP/1.1")
        assert (error.status, error.headers) == (405, {"Allow": "GET"})

    def test_http_1_0_is_refused_with_505(self) -> None:
        assert refusal(start="GET / HTTP/1.0").status == 505

    def test_a_body_is_refused(self) -> None:
        assert refusal({"Content-Length": "5"}).status == 400
        assert refusal({"Transfer-Encoding": "chunked"}).status == 400
        assert request({"Content-Length": "0"}).key == KEY

    @pytest.mark.parametrize(
        "upgrade", ["websocket", "WebSocket", "h2c, WEBSOCKET", "websocket ,h2c", "a/1,,websocket"]
    )
    @pytest.mark.parametrize("connection", ["upgrade", "Upgrade", "keep-alive, Upgrade", "UPGRADE\t,close"])
    def test_upgrade_and_connection_are_lists_in_any_case(self, upgrade: str, connection: str) -> None:
        changed = head({"Upgrade": upgrade, "Connection": connection})
        assert is_upgrade(changed)
        assert check_request(changed).key == KEY

    def test_upgrade_and_connection_may_be_several_headers(self) -> None:
        changed = head({"Upgrade": "h2c", "Connection": "close"}, "upgrade: websocket", "connection: upgrade")
        assert is_upgrade(changed)
        assert check_request(changed).key == KEY

    @pytest.mark.parametrize(
        "upgrade", [None, "", "h2c", "websocket/13", "web socket", "websockets", '"websocket"', "\xa0websocket"]
    )
    def test_another_upgrade_is_refused_with_426(self, upgrade: str | None) -> None:
        assert not is_upgrade(head({"Upgrade": upgrade}))
        error = refusal({"Upgrade": upgrade})
        assert (error.status, error.headers["Upgrade"], error.headers["Connection"]) == (426, "websocket", "Upgrade")

    @pytest.mark.parametrize("connection", [None, "", "keep-alive", "close", "upgrade/1", "Upgrade-Insecure"])
    def test_a_connection_without_upgrade_is_refused_with_426(self, connection: str | None) -> None:
        assert is_upgrade(head({"Connection": connection}))
        error = refusal({"Connection": connection})
        assert (error.status, error.headers["Upgrade"]) == (426, "websocket")

    def test_an_ordinary_request_is_no_upgrade(self) -> None:
        assert not is_upgrade(head({"Upgrade": None, "Connection": "keep-alive"}))

    @pytest.mark.parametrize(
        "key", ["", "abc", KEY[:-1], KEY + "=", "a" * 24, "YWJj", KEY[:-2] + "ab", KEY.replace("G", "-")]
    )
    def test_a_key_other_than_base64_of_16_bytes_is_refused(self, key: str) -> None:
        assert refusal({"Sec-WebSocket-Key": key}).status == 400

    def test_no_key_is_refused(self) -> None:
        assert refusal({"Sec-WebSocket-Key": None}).status == 400

    @given(st.binary(min_size=16, max_size=16))
    def test_every_key_of_16_bytes_is_accepted(self, nonce: bytes) -> None:
        key = base64.b64encode(nonce).decode()
        assert request({"Sec-WebSocket-Key": key}).key == key

    @pytest.mark.parametrize("name", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin"])
    def test_what_is_singular_may_not_be_repeated(self, name: str) -> None:
        value = REQUEST.get(name, "http://localhost")
        error = refusal({name: value}, f"{name.lower()}: {value}")
        assert error.status == 400
        assert name in str(error)


class TestVersions:
    """RFC 6455, sections 4.2.1, 6, and 4.4; drafts hybi-08, hixie-75 and -76."""

    def test_version_8_has_its_origin_elsewhere(self) -> None:
        both = {"Origin": "http://a", "Sec-WebSocket-Origin": "http://b"}
        assert request({"Sec-WebSocket-Version": "8", **both}).origin == "http://b"
        assert request({"Sec-WebSocket-Version": "8"}).origin is None
        assert request(both).origin == "http://a"
        assert request({"Sec-WebSocket-Version": "8"}).version == 8

    def test_version_8_may_not_repeat_its_origin(self) -> None:
        changes = {"Sec-WebSocket-Version": "8", "Sec-WebSocket-Origin": "http://a"}
        assert refusal(changes, "Sec-WebSocket-Origin: http://a").status == 400

    @pytest.mark.parametrize("version", ["0", "7", "9", "12", "14", "255", None])
    def test_other_versions_are_refused_with_426_naming_ours(self, version: str | None) -> None:
        error = refusal({"Sec-WebSocket-Version": version})
        assert error.status == 426
        assert error.headers == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13, 8"}

    @pytest.mark.parametrize("version", ["", "13abc", "13, 8", "013", "+13", "13.0", "256", "1300", "\xb2", "x"])
    def test_a_malformed_version_is_refused(self, version: str) -> None:
        assert refusal({"Sec-WebSocket-Version": version}).status == 400

    def test_only_the_versions_allowed_are_accepted(self) -> None:
        assert check_request(head(), versions=(13,)).version == 13
        with pytest.raises(HandshakeError) as caught:
            check_request(head({"Sec-WebSocket-Version": "8"}), versions=(13,))
        assert caught.value.status == 426
        assert caught.value.headers["Sec-WebSocket-Version"] == "13"

    def test_hixie_76_is_refused(self) -> None:
        data = (
            b"GET /demo HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\nSec-WebSocket-Protocol: sample\r\nUpgrade: WebSocket\r\n"
            b"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\nOrigin: http://example.com\r\n\r\n"
        )
        with pytest.raises(HandshakeError) as caught:
            check_request(parse_request_head(data))
        assert caught.value.status == 400

    def test_hixie_75_is_refused(self) -> None:
        assert refusal({"Sec-WebSocket-Version": None, "Sec-WebSocket-Key": None}).status == 400


class TestOffers:
    def test_subprotocols_are_read_in_order_and_case(self) -> None:
        assert request({"Sec-WebSocket-Protocol": "chat, Superchat,,CHAT"}).subprotocols == [
            "chat",
            "Superchat",
            "CHAT",
        ]
        assert request({"Sec-WebSocket-Protocol": "a"}, "sec-websocket-protocol: b, c").subprotocols == ["a", "b", "c"]

    @pytest.mark.parametrize("value", ["", ",", "a b", "a;b", "a/b", '"a"', "\xe4", "b" + " " * 4000 + "x"])
    def test_malformed_subprotocols_are_refused(self, value: str) -> None:
        assert refusal({"Sec-WebSocket-Protocol": value}).status == 400

    def test_a_subprotocol_offered_twice_is_refused(self) -> None:
        assert refusal({"Sec-WebSocket-Protocol": "a, b, a"}).status == 400
        assert refusal({"Sec-WebSocket-Protocol": "a"}, "Sec-WebSocket-Protocol: a").status == 400

    def test_extensions_are_read_in_order(self) -> None:
        opened = request({"Sec-WebSocket-Extensions": "a; x=1, b"}, "Sec-WebSocket-Extensions: c; y")
        assert opened.extensions == [("a", [("x", "1")]), ("b", []), ("c", [("y", None)])]

    @pytest.mark.parametrize("value", ["", "a;", "a; x=", 'a; x="', "a b", 'a; x="' + "\\" * 4001])
    def test_malformed_extensions_are_refused(self, value: str) -> None:
        assert refusal({"Sec-WebSocket-Extensions": value}).status == 400

    def test_a_header_is_never_made_of_two(self) -> None:
        """What one header begins, the next must not end."""
        assert refusal({"Sec-WebSocket-Extensions": 'a; x="1'}, 'Sec-WebSocket-Extensions: 2"').status == 400


class TestCookies:
    def test_malformed_cookies_break_nothing(self) -> None:
        opened = request({"Cookie": 'a=1; b; =2; c d=3; e="4"; a=5; f=%zz; \xe4=6'})
        assert opened.cookies == {"a": "1", "e": "4", "f": "%zz"}

    def test_cookies_of_several_headers_are_read(self) -> None:
        assert request({"Cookie": "a=1"}, "cookie: b=2").cookies == {"a": "1", "b": "2"}

    def test_there_may_be_none(self) -> None:
        assert request().cookies == {}


class TestSameOrigin:
    """RFC 6455, section 10.2."""

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:8000", "http://localhost:8000"),
            ("example.com", "http://example.com"),
            ("example.com", "https://example.com"),
            ("example.com:80", "http://example.com"),
            ("example.com:443", "https://example.com"),
            ("example.com", "http://example.com:80"),
            ("example.com", "https://example.com:443"),
            ("EXAMPLE.com", "HTTP://example.COM"),
            ("[::1]:8000", "http://[::1]:8000"),
            ("[FE80::1]", "http://[fe80::1]"),
            ("127.0.0.1:80", "http://127.0.0.1"),
        ],
    )
    def test_same(self, host: str, origin: str) -> None:
        assert same_origin(host, origin)

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:8000", "null"),
            ("localhost:8000", ""),
            ("localhost:8000", "http://localhost"),
            ("localhost:8000", "http://localhost:8001"),
            ("localhost:8000", "http://127.0.0.1:8000"),
            ("localhost:8000", "localhost:8000"),
            ("localhost:8000", "http://localhost:8000/"),
            ("localhost:8000", "http://localhost:8000/x"),
            ("localhost:8000", "http://evil@localhost:8000"),
            ("localhost:8000", "http://localhost:8000@evil"),
            ("localhost:8000", "http://localhost:8000 http://evil"),
            ("localhost:8000", "http://evil http://localhost:8000"),
            ("localhost:8000", "http://localhost:8000?http://evil"),
            ("localhost:8000", "http://localhost:8000.evil"),
            ("example.com", "http://example.com.evil"),
            ("example.com", "http://evilexample.com"),
            ("example.com", "http://a.example.com"),
            ("example.com:443", "http://example.com"),
            ("example.com:80", "https://example.com"),
            ("example.com", "http://example.com:443"),
            ("localhost", "chrome-extension://localhost"),
            ("localhost", "file://localhost"),
            ("", "http://"),
            (":80", "http://:80"),
            ("", "file://"),
            ("a b", "http://a b"),
            ("example.com:0", "http://example.com"),
        ],
    )
    def test_foreign(self, host: str, origin: str) -> None:
        assert not same_origin(host, origin)

    @given(st.text(), st.text())
    def test_any_text_is_compared(self, host: str, origin: str) -> None:
        assert same_origin(host, origin) in (True, False)


class TestAnswer:
    """RFC 6455, section 4.2.2."""

    def test_the_accept_key_is_that_of_the_rfc(self) -> None:
        assert accept_key(KEY) == ACCEPT

    def test_the_least_answer(self) -> None:
        assert response_fields(request()) == [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", ACCEPT),
        ]

    def test_the_bytes_of_an_answer(self) -> None:
        plain = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        plain += b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n"
        assert build_response(request()) == plain + b"\r\n"
        assert build_response(request(), extra=[]) == build_response(request(), extra=iter(())) == plain + b"\r\n"
        assert build_response(request(), extra=iter([("X-Own", "\xe4")])) == plain + b"X-Own: \xe4\r\n\r\n"
        with pytest.raises(ValueError, match="offered: none"):
            build_response(request(), subprotocol="")

    def test_a_full_answer(self) -> None:
        offered = request({"Sec-WebSocket-Protocol": "a, B"})
        extra = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        fields = response_fields(offered, subprotocol="B", extensions="x; y=1", extra=extra)
        assert fields[3:] == [("Sec-WebSocket-Protocol", "B"), ("Sec-WebSocket-Extensions", "x; y=1"), *extra]

    @pytest.mark.parametrize("subprotocol", ["c", "b", "", "a, B", "a\r\nX: 1"])
    def test_a_subprotocol_that_was_not_offered_is_refused(self, subprotocol: str) -> None:
        with pytest.raises(ValueError, match="offered: a, B"):
            response_fields(request({"Sec-WebSocket-Protocol": "a, B"}), subprotocol=subprotocol)

    def test_a_subprotocol_is_refused_where_none_was_offered(self) -> None:
        with pytest.raises(ValueError, match="offered: none"):
            response_fields(request(), subprotocol="a")

    @pytest.mark.parametrize(
        "name",
        ["Upgrade", "connection", "Content-Length", "Transfer-Encoding", "Sec-WebSocket-Accept", "sec-websocket-x"],
    )
    def test_the_handshakes_own_headers_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=name):
            response_fields(request(), extra=[(name, "0")])

    @pytest.mark.parametrize("field", [("a b", "1"), ("X", "1\r\nUpgrade: h2c"), ("X", "\x00"), ("", "1"), ("X", "\n")])
    def test_headers_that_may_not_be_sent_are_refused(self, field: tuple[str, str]) -> None:
        with pytest.raises(ValueError, match="header"):
            response_fields(request(), extra=[field])

    def test_malformed_extensions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="extension"):
            response_fields(request(), extensions="a;\r\nX: 1")


# Any spelling that the grammar allows (RFC 9110, 5; RFC 6455, 4 and 9.1), and none that it does not

BLANKS = st.text(" \t", max_size=2)
VALUES = st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True)
OTHERS = TOKENS.filter(lambda name: name.lower() not in KNOWN and not name.lower().startswith("sec-websocket"))
KNOWN = {"host", "origin", "cookie", "upgrade", "connection", "content-length", "transfer-encoding"}
EXTENSIONS = st.lists(
    st.tuples(TOKENS, st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=3)), min_size=1, max_size=3
)


@st.composite
def any_case(draw: st.DrawFn, name: str) -> str:
    return "".join(draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)


@st.composite
def any_list(draw: st.DrawFn, name: str, elements: list[str]) -> list[tuple[str, str]]:
    """A list in one header line or in several, with blanks and empty elements (RFC 9110, 5.3 and 5.6.1)."""
    lines, line = [], ""
    for element in elements:
        line += draw(BLANKS) + element + draw(BLANKS)
        if draw(st.booleans()):
            lines.append((name, line))
            line = ""
        else:
            line += draw(st.sampled_from([",", ",,", ", ,"]))
    return [*lines, (name, line)] if line else lines


@st.composite
def any_extension(draw: st.DrawFn, name: str, params: list[tuple[str, str | None]]) -> str:
    text = name
    for key, value in params:
        text += draw(BLANKS) + ";" + draw(BLANKS) + key
        if value is not None:
            escaped = "".join(rf"\{letter}" for letter in value)
            quoted = draw(st.sampled_from([value, f'"{value}"', f'"{escaped}"']))
            text += draw(BLANKS) + "=" + draw(BLANKS) + quoted
    return text


@st.composite
def any_request(draw: st.DrawFn) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The header lines of a good request, in any order, and what they say."""
    said: dict[str, Any] = {
        "host": draw(st.sampled_from(["localhost", "example.org:8000", "[::1]:80", "192.0.2.1"])),
        "key": base64.b64encode(draw(st.binary(min_size=16, max_size=16))).decode(),
        "version": draw(st.sampled_from([13, 8])),
        "origin": draw(st.none() | st.sampled_from(["http://localhost", "null", "https://example.org:444"])),
        "subprotocols": draw(st.lists(TOKENS, unique=True, max_size=4)),
        "extensions": draw(st.just([]) | EXTENSIONS),
        "cookies": draw(st.dictionaries(TOKENS, st.from_regex("[a-z0-9]*", fullmatch=True), max_size=3)),
    }
    lines = [("Host", said["host"]), ("Sec-WebSocket-Key", said["key"])]
    lines.append(("Sec-WebSocket-Version", str(said["version"])))
    if said["origin"] is not None:
        lines.append(("Origin" if said["version"] == 13 else "Sec-WebSocket-Origin", said["origin"]))
    if said["cookies"]:
        lines.append(("Cookie", "; ".join(f"{name}={value}" for name, value in said["cookies"].items())))
    for name, wanted in (("Upgrade", "websocket"), ("Connection", "upgrade")):
        others = [token for token in draw(st.lists(TOKENS, max_size=2)) if token.lower() != wanted]
        lines += draw(any_list(name, draw(st.permutations([draw(any_case(wanted)), *others]))))
    lists = {
        "Sec-WebSocket-Protocol": said["subprotocols"],
        "Sec-WebSocket-Extensions": [draw(any_extension(*extension)) for extension in said["extensions"]],
        "Accept": draw(st.lists(VALUES, max_size=2)),
    }
    batches = [draw(any_list(name, elements)) for name, elements in lists.items() if elements]
    batches += [[line] for line in lines]
    batches += [[(name, value)] for name, value in draw(st.lists(st.tuples(OTHERS, VALUES), max_size=3))]
    return [line for batch in draw(st.permutations(batches)) for line in batch], said


@st.composite
def spelled(draw: st.DrawFn, lines: list[tuple[str, str]]) -> str:
    return "".join(f"{draw(any_case(name))}:{draw(BLANKS)}{value}{draw(BLANKS)}\r\n" for name, value in lines)


OPTIONAL = ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions")
GRAMMAR = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class TestAnySpelling:
    @GRAMMAR
    @given(any_request(), st.data())
    def test_a_good_request_is_understood(
        self, request: tuple[list[tuple[str, str]], dict[str, Any]], data: st.DataObject
    ) -> None:
        lines, said = request
        target = data.draw(st.sampled_from(["/", "/chat?room=1", "//a/../b", "http://localhost/x"]))
        wire = f"GET {target} HTTP/1.1\r\n{data.draw(spelled(lines))}\r\n".encode("latin-1")
        head = parse_request_head(wire)
        assert is_upgrade(head)
        opened = check_request(head)
        if target.startswith("http"):
            said["host"] = "localhost"  # RFC 9112, 3.2.2
        assert {name: getattr(opened, name) for name in said} == said
        assert opened.target == target
        agreed = response_fields(opened, subprotocol=said["subprotocols"][0] if said["subprotocols"] else None)
        head101 = serialize_head("HTTP/1.1 101 Switching Protocols", agreed)
        answer = read_response_head(io.BytesIO(head101).readline)
        check_response(answer, key=said["key"], subprotocols=said["subprotocols"])

    FAULTS: Mapping[str, tuple[Callable[[str, str], list[str]], set[int]]] = {
        "sec-websocket-key": (lambda name, value: [value[1:]], {400}),
        "sec-websocket-version": (lambda name, value: [f"0{value}"], {400}),
        "host": (lambda name, value: [value, value], {400}),
        "upgrade": (lambda name, value: [value.lower().replace("websocket", "web socket")], {426}),
        "connection": (lambda name, value: [value.lower().replace("upgrade", "upgraded")], {426}),
        "sec-websocket-protocol": (lambda name, value: [value + "a b"], {400}),
        "sec-websocket-extensions": (lambda name, value: [value + '; a="'], {400}),
    }

    @GRAMMAR
    @given(any_request(), st.data())
    def test_with_one_fault_it_is_refused(
        self, request: tuple[list[tuple[str, str]], dict[str, Any]], data: st.DataObject
    ) -> None:
        lines, _ = request
        broken = data.draw(st.sampled_from(sorted({name.lower() for name, _ in lines} & set(self.FAULTS))))
        change, statuses = self.FAULTS[broken]
        changed = [
            (name, new) for name, value in lines for new in (change(name, value) if name.lower() == broken else [value])
        ]
        with pytest.raises(HandshakeError) as caught:
            wire = f"GET / HTTP/1.1\r\n{data.draw(spelled(changed))}\r\n".encode("latin-1")
            check_request(parse_request_head(wire))
        assert caught.value.status in statuses

    @GRAMMAR
    @given(st.lists(TOKENS, unique=True, min_size=1, max_size=3), st.booleans(), st.data())
    def test_a_good_answer_is_understood_and_with_one_fault_refused(
        self, subprotocols: list[str], extended: bool, data: st.DataObject
    ) -> None:
        chosen = data.draw(st.sampled_from(subprotocols))
        others = [token for token in data.draw(st.lists(TOKENS, max_size=2)) if token.lower() != "upgrade"]
        lines = [
            ("Upgrade", data.draw(any_case("websocket"))),
            ("Sec-WebSocket-Accept", ACCEPT),
            ("Sec-WebSocket-Protocol", chosen),
            *data.draw(any_list("Connection", [data.draw(any_case("upgrade")), *others])),
        ]
        if extended:
            lines += data.draw(any_list("Sec-WebSocket-Extensions", ["x; y=z"]))
        lines = data.draw(st.permutations(lines))

        def check(lines: list[tuple[str, str]]) -> Any:
            wire = f"HTTP/1.1 101 whatever\r\n{data.draw(spelled(lines))}\r\n".encode("latin-1")
            answer = read_response_head(io.BytesIO(wire).readline)
            return check_response(answer, key=KEY, subprotocols=subprotocols, extensions="x; y=z")

        assert check(lines) == (chosen, [("x", [("y", "z")])] if extended else [])
        broken = data.draw(st.sampled_from(sorted({name for name, _ in lines})))
        wrong = data.draw(st.sampled_from([None, "no;", "\x01", f"{ACCEPT[:-2]}x="]))
        if broken in OPTIONAL and wrong is None:
            return
        with pytest.raises(HandshakeError):
            check([(name, wrong or "") if name == broken else (name, value) for name, value in lines])

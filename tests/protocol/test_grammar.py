"""The grammar of header values: RFC 9110, sections 5.5, 5.6 and 7.2; RFC 6455, section 9.1."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.protocol.grammar import (
    Extensions,
    check_field,
    format_extension,
    is_token,
    parse_extensions,
    parse_host,
    tokens,
)

from ..support import assert_linear

TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True)


class TestTokens:
    def test_tokens(self) -> None:
        assert tokens("chat") == ["chat"]
        assert tokens("a, b\t,c ,, A,") == ["a", "b", "c", "A"]

    @pytest.mark.parametrize("value", ["", " ", ",", " , ,", "a b", "a;b", "a, b c", "a/b", '"a"', "ä", "a\x00", "a\n"])
    def test_what_is_not_a_list_of_tokens_is_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="list"):
            tokens(value)

    @given(st.lists(TOKENS, min_size=1))
    def test_a_list_of_tokens_survives_the_wire(self, items: list[str]) -> None:
        assert all(map(is_token, items))
        assert tokens(", ".join(items)) == items


class TestExtensions:
    @pytest.mark.parametrize(
        ("value", "extensions"),
        [
            ("a", [("a", [])]),
            ("a, b", [("a", []), ("b", [])]),
            ("a;x;y=1,b", [("a", [("x", None), ("y", "1")]), ("b", [])]),
            (" a ; x = 1 ;y\t,\tb ", [("a", [("x", "1"), ("y", None)]), ("b", [])]),
            ('a; x="1"', [("a", [("x", "1")])]),
            ('a; x="\\1\\2"; y', [("a", [("x", "12"), ("y", None)])]),
            ("a; x; x=1; x", [("a", [("x", None), ("x", "1"), ("x", None)])]),
            ("a, a", [("a", []), ("a", [])]),
            (",a,,b,", [("a", []), ("b", [])]),
            ("constructor; __proto__", [("constructor", [("__proto__", None)])]),
        ],
    )
    def test_extensions(self, value: str, extensions: Extensions) -> None:
        assert parse_extensions(value) == extensions

    @pytest.mark.parametrize(
        "value",
        [
            "",
            " ",
            ",",
            ";",
            "a;",
            "a; ",
            "a;;x",
            "a;=1",
            "a; x=",
            "a; x=,b",
            "a x",
            "a=1",
            "a; x y",
            "a; x=1 2",
            "ä",
            'a; x="',
            'a; x="1',
            'a; x=""',
            'a; x="1 2"',
            'a; x="a,b"',
            'a; x="\\"',
            'a; x="\\""',
            'a; x="1"2',
            '"a"',
            "a; x==1",
            "a; (x)",
            "a\x00",
            "a\r\n",
            "a; x=\x0b1",
            'a; x="1\r\n"',
            'a; "x"',
            "a/b",
            "a; x=ä",
        ],
    )
    def test_malformed_extensions_are_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="extension"):
            parse_extensions(value)

    @given(
        st.lists(st.tuples(TOKENS, st.lists(st.tuples(TOKENS, st.none() | TOKENS), max_size=4)), min_size=1, max_size=4)
    )
    def test_extensions_survive_the_wire(self, extensions: Extensions) -> None:
        value = ", ".join(format_extension(name, params) for name, params in extensions)
        check_field("Sec-WebSocket-Extensions", value)
        assert parse_extensions(value) == extensions

    @given(st.text(alphabet='ab ;=,"\\\t\r\n\x00ä'))
    def test_any_other_text_is_refused_or_made_of_tokens(self, value: str) -> None:
        try:
            extensions = parse_extensions(value)
        except ValueError:
            return
        assert parse_extensions(", ".join(format_extension(name, params) for name, params in extensions)) == extensions

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("", []),
            ("a b", []),
            ("a", [("", None)]),
            ("a", [("x", "")]),
            ("a", [("x", "1\r\n")]),
            ("a", [("x;y", None)]),
        ],
    )
    def test_only_tokens_are_formatted(self, name: str, params: list[tuple[str, str | None]]) -> None:
        with pytest.raises(ValueError, match="token"):
            format_extension(name, params)


class TestHost:
    @pytest.mark.parametrize(
        ("value", "parsed"),
        [
            ("localhost", ("localhost", None)),
            ("Example.COM:8000", ("example.com", 8000)),
            ("127.0.0.1:1", ("127.0.0.1", 1)),
            ("[::1]", ("[::1]", None)),
            ("[FE80::1:127.0.0.1]:65535", ("[fe80::1:127.0.0.1]", 65535)),
            ("a_b.c-d", ("a_b.c-d", None)),
            ("localhost:", ("localhost", None)),
            ("", ("", None)),
        ],
    )
    def test_a_valid_host_is_read(self, value: str, parsed: tuple[str, int | None]) -> None:
        assert parse_host(value) == parsed

    @pytest.mark.parametrize(
        "value",
        [
            *("a b", "a,b", "a/b", "user@a", "a:b", "a:1:2", "::1", "[::1", "::1]", "[]", "[g]", "a:65536", "a:-1"),
            *("http://a", "a?b", "a#b", "a\\b", "ä", "a:\xb2", "a:999999", "[::1]a", "a[::1]", "a:1 "),
        ],
    )
    def test_a_malformed_host_is_refused(self, value: str) -> None:
        assert parse_host(value) is None


class TestFields:
    """What may be sent as a header."""

    @pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\r\n", "a\x00", " a"])
    def test_a_name_that_is_not_a_token_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="header name"):
            check_field(name, "1")

    @pytest.mark.parametrize(
        "value", ["\r", "\n", "a\r\nX: 1", "\x00", "\x7f", "a\x0b", "\u20ac", " a", "a\t", "\ud800"]
    )
    def test_a_value_that_may_not_be_sent_is_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="value of header X-A"):
            check_field("X-A", value)

    @pytest.mark.parametrize(("name", "value"), [(b"a", "1"), ("a", b"1"), ("a", 1), ("a", None)])
    def test_other_types_are_refused(self, name: str, value: str) -> None:
        with pytest.raises(TypeError, match="str"):
            check_field(name, value)


@pytest.mark.parametrize(
    "piece", ["a", " ", "\t", ",", ";", "=", '"', "\\", "a,", "a;", ";a", ";a=", ';a="', " ;", '\\"', "a ", ";a "]
)
def test_values_are_parsed_in_linear_time(piece: str) -> None:
    def parse_all(size: int) -> None:
        for value in (piece * size, "b" + piece * size, "b;c" + piece * size, 'b;c="' + piece * size + "!"):
            for parse in (tokens, parse_extensions):
                with suppress(ValueError):
                    parse(value)
            parse_host(value)

    assert_linear(parse_all, 1 << 11)

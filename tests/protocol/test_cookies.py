"""Cookies: RFC 6265, section 4."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from http.cookies import SimpleCookie
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.protocol.cookies import format_cookie, format_cookies, parse_cookies
from websocketserver.protocol.grammar import check_field

from ..support import assert_linear

NAMES = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True)
VALUES = st.from_regex(r"[!#-+\--:<-\[\]-~]*", fullmatch=True)


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ("a=1", [("a", "1")]),
        ("a=1; b=2", [("a", "1"), ("b", "2")]),
        ("a=1;b=2", [("a", "1"), ("b", "2")]),
        ("a=1; a=2", [("a", "1"), ("a", "2")]),
        (" a =\t1 ", [("a", "1")]),
        ("a=b=c", [("a", "b=c")]),
        ("a=", [("a", "")]),
        ('a="1"', [("a", "1")]),
        ('a="', [("a", '"')]),
        ("a=%41", [("a", "%41")]),
        ("a=%", [("a", "%")]),
        ("a=ä,b c", [("a", "ä,b c")]),
    ],
)
def test_cookies_are_read(value: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_cookies(value) == pairs


@pytest.mark.parametrize("malformed", ["", ";", "a", "=1", "a b=1", "ä=1", "[a]=1", '"a"=1', ",=", "a\x00=1"])
def test_malformed_cookies_are_left_out_and_the_others_stay(malformed: str) -> None:
    assert parse_cookies(f"first=1; {malformed}; last=2") == [("first", "1"), ("last", "2")]


@given(st.text())
def test_no_text_breaks_the_parser(value: str) -> None:
    for name, _ in parse_cookies(value):
        check_field(name, "")


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_what_a_client_sends_is_what_a_server_reads(pairs: list[tuple[str, str]]) -> None:
    value = format_cookies(pairs)
    check_field("Cookie", value)
    assert parse_cookies(value) == pairs


def test_a_mapping_of_cookies_is_sent() -> None:
    assert format_cookies({"a": "1", "b": '"2"'}) == 'a=1; b="2"'
    assert format_cookies({}) == ""


def test_parsing_is_linear() -> None:
    for piece in ("a=", ";", " ", '"', "a=1;", 'a=";'):
        assert_linear(lambda size, piece=piece: parse_cookies(piece * size), 1 << 13)  # type: ignore[misc]


class TestSetCookie:
    """RFC 6265, section 4.1."""

    def test_name_and_value_alone(self) -> None:
        assert format_cookie("session", "abc") == "session=abc"

    def test_all_attributes(self) -> None:
        moment = datetime(2030, 1, 2, 4, 4, 5, tzinfo=timezone(timedelta(hours=1)))
        cookie = format_cookie(
            "session",
            '"abc"',
            path="/chat",
            domain="Example.com",
            expires=moment,
            max_age=60,
            secure=True,
            httponly=True,
            samesite="Strict",
        )
        assert cookie == (
            'session="abc"; Path=/chat; Domain=example.com; Expires=Wed, 02 Jan 2030 03:04:05 GMT; Max-Age=60; '
            "Secure; HttpOnly; SameSite=Strict"
        )

    def test_max_age_0_deletes(self) -> None:
        assert format_cookie("session", "", max_age=0) == "session=; Max-Age=0"

    def test_samesite_none_goes_with_secure(self) -> None:
        assert format_cookie("a", "1", secure=True, samesite="None") == "a=1; Secure; SameSite=None"
        with pytest.raises(ValueError, match="secure=True"):
            format_cookie("a", "1", samesite="None")

    @pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "ä", "a\r\n", "a\x00", '"a"', "a,b"])
    def test_a_name_that_is_not_a_token_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="name must be a token"):
            format_cookie(name, "1")

    @pytest.mark.parametrize("value", [" ", "a b", "a,b", "a;b", "a\\b", 'a"b', '"', '"a', "ä", "\r\n", "a\n", "\x7f"])
    def test_a_value_with_other_than_cookie_octets_is_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="quote"):
            format_cookie("a", value)

    @pytest.mark.parametrize("value", ["a;b", "a b", "", "\r\n", "a\n", "ä"])
    def test_control_characters_blanks_and_semicolons_in_attributes_are_refused(self, value: str) -> None:
        with pytest.raises(ValueError, match="path of a cookie"):
            format_cookie("a", "1", path="/" + value if value else value)
        with pytest.raises(ValueError, match="domain of a cookie"):
            format_cookie("a", "1", domain=value)

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"path": "chat"}, "begin with a slash"),
            ({"expires": datetime(2030, 1, 1)}, "time zone"),
            ({"max_age": -1}, "0 or more"),
            ({"samesite": "strict"}, '"Strict"'),
        ],
    )
    def test_other_attributes_are_checked(self, attributes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            format_cookie("a", "1", **attributes)

    @pytest.mark.parametrize(
        "attributes",
        [{"name": 1}, {"value": 1}, {"path": 1}, {"domain": b"a"}, {"expires": 1}, {"max_age": 1.5}, {"max_age": True}],
    )
    def test_other_types_are_refused(self, attributes: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            format_cookie(**{"name": "a", "value": "1", **attributes})

    def test_the_standard_library_reads_it(self) -> None:
        (morsel,) = SimpleCookie(format_cookie("a", "b=c", path="/d", max_age=5, httponly=True)).values()
        assert (morsel.key, morsel.value, morsel["path"], morsel["max-age"]) == ("a", "b=c", "/d", "5")
        assert morsel["httponly"] is True

    @given(NAMES, VALUES)
    def test_whatever_is_accepted_may_be_sent(self, name: str, value: str) -> None:
        check_field("Set-Cookie", format_cookie(name, value))

"""Whole heads: the same by both twins, and None for whatever is unusual. What heads mean is tested by test_headers."""

from __future__ import annotations

import pytest

from websocketserver.protocol.headers import MAX_HEADERS, MAX_LINE

from .twins import TWINS

HEAD = b"GET /chat HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nX-Own: \t\xe4\tc \r\ncookie:d\r\nEmpty:\r\n\r\n"


@pytest.fixture(params=TWINS)
def split(request):
    """Return split_request with the limits that it has in use."""
    wholehead = TWINS[request.param]["wholehead"]
    return lambda data: wholehead.split_request(data, MAX_LINE, MAX_HEADERS, wholehead.COMMON_NAMES)


def test_a_head_is_taken_apart_as_it_was_sent(split):
    start, pairs, fields, size = split(HEAD + b"\x81\x80")
    assert start == ("GET", "/chat", "HTTP/1.1", "GET /chat HTTP/1.1")
    assert pairs == [("Host", "h"), ("Cookie", "a=b"), ("X-Own", "\xe4\tc"), ("cookie", "d"), ("Empty", "")]
    assert fields == {"host": ["h"], "cookie": ["a=b", "d"], "x-own": ["\xe4\tc"], "empty": [""]}
    assert size == len(HEAD)


def test_common_names_are_kept_once(split):
    _, pairs, fields, _ = split(HEAD)
    _, others, again, _ = split(HEAD)
    assert pairs[0][0] is others[0][0] and next(iter(fields)) is next(iter(again))


def test_half_a_head_is_none(split):
    assert [size for size in range(len(HEAD) + 1) if split(HEAD[:size]) is not None] == [len(HEAD)]


@pytest.mark.parametrize("byte", [code for code in range(32) if code not in b"\t"] + [0x7F])
def test_a_control_character_anywhere_is_none(split, byte):
    assert all(split(HEAD[:at] + bytes([byte]) + HEAD[at:]) is None for at in range(len(HEAD) - 1))


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET / HTTP/2.0", b"GET / HTTP/1.10", b"GET / HTTP/1.x", b"GET / http/1.1", b"GET /", b"GET  / HTTP/1.1"),
        *(b"GET / a HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"G(T / HTTP/1.1", b"GET /\xe4 HTTP/1.1", b""),
    ],
)
def test_another_request_line_is_none(split, line):
    assert split(line + HEAD[HEAD.index(b"\r\n") :]) is None


@pytest.mark.parametrize("line", [b"no colon", b": nameless", b" folded: 1", b"a b: 1", b"a : 1", b"\xe4: 1", b"a(: 1"])
def test_a_wrong_header_is_none(split, line):
    assert split(HEAD[:-2] + line + b"\r\n\r\n") is None


def test_what_is_long_is_none(split):
    def head(count: int, size: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + b"a: 1\r\n" * (count - 1) + b"b:" + b"1" * size + b"\r\n\r\n"

    room = MAX_LINE - len(head(1, 0))
    assert split(head(MAX_HEADERS, 1)) is not None and split(head(MAX_HEADERS + 1, 1)) is None
    assert split(head(1, room)) is not None and split(head(1, room + 1)) is None
    assert split(b"GET / HTTP/1.1\r\n\r\n") is None


@pytest.fixture(params=TWINS)
def split_response(request):
    """Return split_response with the limits that it has in use."""
    wholehead = TWINS[request.param]["wholehead"]
    return lambda data: wholehead.split_response(data, MAX_LINE, MAX_HEADERS, wholehead.COMMON_NAMES)


FIELDS = b"\r\nUpgrade: websocket\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 101 Switching Protocols", ("HTTP/1.1", 101, "Switching Protocols")),
        (b"HTTP/1.0 404 \tn\xf6 \x7e", ("HTTP/1.0", 404, "\tn\xf6 ~")),
        (b"HTTP/9.9 999", ("HTTP/9.9", 999, "")),
        (b"HTTP/1.1 200 ", ("HTTP/1.1", 200, "")),
    ],
)
def test_a_final_response_is_taken_apart_as_it_was_sent(split_response, line, status):
    taken, pairs, fields, size = split_response(line + FIELDS + b"\x81\x00")
    assert taken == status
    assert pairs == [("Upgrade", "websocket"), ("Set-Cookie", "a"), ("set-cookie", "b")]
    assert fields == {"upgrade": ["websocket"], "set-cookie": ["a", "b"]}
    assert size == len(line + FIELDS)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 10", b"HTTP/1.1 1010", b"HTTP/1.1 101x", b"HTTP/1.1  101 OK"),
        *(b"HTTP/1.1 100 Continue", b"HTTP/1.1 199 ", b"HTTP/1.1 020 ", b"http/1.1 101 ", b"HTTP/1x1 101 "),
        *(b"HTTP/x.1 101 ", b"HTTP/1.x 101 ", b"HTTP/1.1-101 ", b"HTTP/1.1 2x0 ", b"HTTP/1.1 20x "),
        b"HTTP/1.1 101 \x7f",
    ],
)
def test_another_status_line_is_none(split_response, line):
    assert split_response(line + FIELDS) is None

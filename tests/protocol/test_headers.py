"""HTTP heads: RFC 9112, sections 2 to 6."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from websocketserver.exceptions import HandshakeError
from websocketserver.protocol import headers
from websocketserver.protocol.grammar import check_field, is_token
from websocketserver.protocol.headers import (
    MAX_HEAD,
    MAX_HEADERS,
    MAX_LINE,
    HeadError,
    RequestHead,
    RequestParser,
    parse_request_head,
    read_request_head,
    read_response_head,
    requested_host,
    serialize_head,
    take_request_head,
    take_response_head,
)

from ..support import assert_linear

TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", fullmatch=True)
VALUES = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])).map(lambda text: text.strip(" "))
CONTROLS = [chr(code) for code in range(32) if chr(code) not in "\t\r\n"] + ["\x7f"]

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\n"
    b"Host: localhost:8000\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"X-Note: a\xe4\x85\tb\r\n"
    b"\r\n"
)


class Pipe:
    """A readline over bytes of which no more than these ever come: waiting for more fails the test."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def readline(self, limit: int) -> bytes:
        assert limit > 0
        line = self.stream.readline(limit)
        if not line.endswith(b"\n") and len(line) < limit:
            pytest.fail(f"waits for more behind {line[-40:]!r}")
        return line


def whole(data: bytes) -> RequestHead:
    head = read_request_head(Pipe(data).readline)
    assert head is not None
    return head


def byte_by_byte(data: bytes) -> RequestHead:
    parser, buffer = RequestParser(), bytearray()
    for position in range(len(data)):
        buffer += data[position : position + 1]
        if (head := parser.feed(buffer)) is not None:
            assert position == len(data) - 1
            assert not buffer
            return head
    pytest.fail("waits for more")


def with_the_next_glued_on(data: bytes) -> RequestHead:
    behind = b"\x81\x85\r\n\r\n"
    reader = io.BufferedReader(io.BytesIO(data + behind))
    head = read_request_head(reader.readline)
    assert reader.read() == behind
    buffer = bytearray(data + behind)
    fed = RequestParser().feed(buffer)
    assert buffer == behind
    assert head is not None
    assert fed is not None
    assert same(head, fed)
    return head


def in_one_step(data: bytes) -> RequestHead:
    """The quick way, with the next glued on, and the long one for what it leaves to that."""
    taken = take_request_head(data + b"\x81\x85\r\n\r\n")
    if taken is None:
        return whole(data)
    head, size = taken
    assert size == len(data)
    assert same(head, whole(data))
    return head


Reading = Callable[[bytes], RequestHead]
three_ways = pytest.mark.parametrize("read", [whole, byte_by_byte, with_the_next_glued_on, in_one_step])


def same(one: RequestHead, other: RequestHead) -> bool:
    return one == other and one.headers.items() == other.headers.items()


def request(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: localhost") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


def refused(data: bytes, status: int = 400) -> str:
    """Check that a head is refused however it arrives, without waiting for more; return the message."""
    messages = []
    for read in (whole, byte_by_byte):
        with pytest.raises(HeadError) as caught:
            read(data)
        assert caught.value.status == status
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].isascii()
    assert messages[0].isprintable()
    return messages[0]


class TestRequest:
    @three_ways
    def test_a_head_is_read_as_it_was_sent(self, read: Reading) -> None:
        head = read(REQUEST)
        assert (head.method, head.target, head.version) == ("GET", "/chat?room=1", "HTTP/1.1")
        assert head.request_line == "GET /chat?room=1 HTTP/1.1"
        assert head.headers.items() == [
            ("Host", "localhost:8000"),
            ("Upgrade", "websocket"),
            ("Connection", "keep-alive, Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
            ("X-Note", "a\xe4\x85\tb"),
        ]
        assert head.headers["sec-websocket-KEY"] == "dGhlIHNhbXBsZSBub25jZQ=="
        assert head.fields["x-note"] == ["a\xe4\x85\tb"]

    @three_ways
    def test_repeated_headers_are_kept_in_order(self, read: Reading) -> None:
        head = read(request(b"X-A: 1", b"x-b: 2", b"x-a: 3"))
        assert head.headers.items() == [("Host", "localhost"), ("X-A", "1"), ("x-b", "2"), ("x-a", "3")]
        assert head.headers.get_all("X-A") == ["1", "3"]
        assert head.fields == {"host": ["localhost"], "x-a": ["1", "3"], "x-b": ["2"]}

    @three_ways
    def test_blanks_around_a_value_are_not_part_of_it(self, read: Reading) -> None:
        head = read(request(b"A:1", b"B: \t 2 \t", b"C:", b"D: \t", b"E: \xa03\xa0"))
        assert head.headers.items()[1:] == [("A", "1"), ("B", "2"), ("C", ""), ("D", ""), ("E", "\xa03\xa0")]

    def test_the_whole_is_parsed_as_what_is_read(self) -> None:
        assert same(parse_request_head(REQUEST), whole(REQUEST))

    @pytest.mark.parametrize("data", [b"", b"\r\n", REQUEST + b"\x00", REQUEST + REQUEST, REQUEST[:-1], REQUEST[:30]])
    def test_the_whole_must_be_one_head(self, data: bytes) -> None:
        with pytest.raises(HeadError) as caught:
            parse_request_head(data)
        assert caught.value.status == 400

    def test_no_input_is_no_request(self) -> None:
        assert read_request_head(io.BytesIO(b"").readline) is None
        assert read_request_head(io.BytesIO(b"\r\n").readline) is None
        assert RequestParser().feed(bytearray()) is None

    def test_input_that_ends_within_the_head_is_refused(self) -> None:
        for size in range(1, len(REQUEST)):
            with pytest.raises(HeadError):
                read_request_head(io.BytesIO(REQUEST[:size]).readline)

    @three_ways
    def test_one_empty_line_ahead_is_passed_over(self, read: Reading) -> None:
        assert same(read(b"\r\n" + REQUEST), whole(REQUEST))

    def test_a_second_empty_line_ahead_is_refused(self) -> None:
        refused(b"\r\n\r\n")

    @pytest.mark.parametrize("method", [b"GET", b"POST", b"M-SEARCH", b"get"])
    def test_any_method_is_read(self, method: bytes) -> None:
        assert whole(request(start=method + b" / HTTP/1.1")).method == method.decode()

    @pytest.mark.parametrize(
        "target", ["//evil/..//x", "*", "http://localhost/", "/%00?a=%0d#b", "localhost:443", "/~|{}"]
    )
    def test_the_target_is_left_as_it_was_sent(self, target: str) -> None:
        assert whole(request(start=f"GET {target} HTTP/1.1".encode())).target == target

    @pytest.mark.parametrize(
        "line",
        [
            b" ",
            b"GET",
            b"GET /  HTTP/1.1",
            b"GET  / HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/\tHTTP/1.1",
            b"GET / HTTP/1.1 x",
            b"GET /a b HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /\xe4 HTTP/1.1",
            b"GET /\x0b HTTP/1.1",
            b"GET /a\rb HTTP/1.1",
            b"GET / HTTP/1.1\r",
            b"G\xc3T / HTTP/1.1",
            b"GET / http/1.1",
            b"GET / HTTP/1",
            b"GET / HTTP/1.10",
            b"GET / HTTP/01.1",
            b"GET / HTTP/+1.1",
            b"GET / HTTP/1.\xb2",
            b"GET / HTTP /1.1",
            b"GET / ICAP/1.1",
            b"G(T / HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
    )
    def test_a_malformed_request_line_is_refused_before_anything_else_comes(self, line: bytes) -> None:
        refused(line + b"\r\n")

    @pytest.mark.parametrize("line", [b"GET /\r\n", b"GET /chat\r\n"])
    def test_http_0_9_is_refused(self, line: bytes) -> None:
        assert "HTTP/0.9" in refused(line)

    @pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0"])
    def test_other_major_versions_are_refused_with_505(self, version: bytes) -> None:
        assert "HTTP/1.1" in refused(b"PRI * " + version + b"\r\n", 505)

    def test_later_minor_versions_are_read(self) -> None:
        assert whole(request(start=b"GET / HTTP/1.9")).version == "HTTP/1.9"


class TestHeaderLines:
    """No header is lost, none is invented: where a line is not one header, the head is refused."""

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            (b"no colon", "no colon"),
            (b"X-A : 1", "blank before its colon"),
            (b"X-A\t: 1", "blank before its colon"),
            (b" folded", "folded"),
            (b"\tfolded: 1", "folded"),
            (b" ", "folded"),
            (b": 1", "not a token"),
            (b"X A: 1", "not a token"),
            (b"X\xe4: 1", "not a token"),
            (b"X\x00: 1", "not a token"),
            (b"(X): 1", "not a token"),
            (b"From me@example.com Thu Jan 1 00:00:00 1970", "not a token"),
            (b"X-A: 1\r", "control character"),
            (b"X-A: \r1", "control character"),
            (b"X-A: 1\rUpgrade: websocket", "control character"),
            (b"X-A\r: 1", "not a token"),
            (b"\rX-A: 1", "not a token"),
        ],
    )
    def test_a_malformed_line_is_refused_before_the_next_comes(self, line: bytes, fault: str) -> None:
        assert fault in refused(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n")

    @pytest.mark.parametrize("control", CONTROLS)
    def test_control_characters_are_refused(self, control: str) -> None:
        for value in (control, "a" + control, control + "a", "a" + control + "b", "a " + control):
            assert "control" in refused(request(f"X-A: {value}".encode()).split(b"\r\n\r\n")[0] + b"\r\n")

    def test_the_refusal_names_the_line_and_does_not_repeat_it(self) -> None:
        message = refused(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: secret\x00\r\n")
        assert "line 2" in message
        assert "secret" not in message

    @pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028"])
    def test_lines_end_nowhere_but_at_crlf(self, separator: str) -> None:
        line = f"X-A: 1{separator}X-Injected: 2".encode("latin-1" if separator < "\xff" else "utf-8")
        try:
            head = whole(request(line))
        except HeadError:
            assert separator < "\x20"
        else:
            assert head.headers.keys() == ["Host", "X-A"]

    @pytest.mark.parametrize("size", range(1, REQUEST.count(b"\r\n") + 1))
    def test_a_bare_lf_is_refused(self, size: int) -> None:
        *lines, last = REQUEST.split(b"\r\n")[:size]
        assert "bare LF" in refused(b"".join(line + b"\r\n" for line in lines) + last + b"\n")

    def test_no_header_at_all_may_follow_under_http_1_0(self) -> None:
        assert whole(b"GET / HTTP/1.0\r\n\r\n").headers.items() == []


class TestLimits:
    """Each is noticed as soon as it is passed: Pipe has no byte beyond that."""

    def test_a_request_line_of_the_limit_passes(self) -> None:
        target = b"/" * (MAX_LINE - len(b"GET  HTTP/1.1\r\n"))
        assert whole(request(start=b"GET " + target + b" HTTP/1.1")).target == target.decode()

    def test_a_longer_request_line_is_refused_with_414(self) -> None:
        assert "8192" in refused(b"GET " + b"/" * (MAX_LINE - 4), 414)

    def test_a_header_line_of_the_limit_passes(self) -> None:
        value = b"a" * (MAX_LINE - len(b"X-A: \r\n"))
        assert whole(request(b"X-A: " + value)).fields["x-a"] == [value.decode()]

    def test_a_longer_header_line_is_refused_with_431(self) -> None:
        assert "8192" in refused(b"GET / HTTP/1.1\r\nX-A: " + b"a" * (MAX_LINE - 5), 431)

    def test_as_many_headers_as_allowed_pass(self) -> None:
        lines = [b"X-%d: 1" % number for number in range(MAX_HEADERS - 1)]
        assert len(whole(request(*lines)).headers) == MAX_HEADERS

    def test_one_header_more_is_refused_with_431(self) -> None:
        lines = [b"X: 1\r\n"] * (MAX_HEADERS + 1)
        assert "100 headers" in refused(b"GET / HTTP/1.1\r\n" + b"".join(lines), 431)

    @three_ways
    def test_a_head_of_the_limit_passes(self, read: Reading) -> None:
        data = self.head_of(MAX_HEAD)
        assert len(data) == MAX_HEAD
        assert len(read(data).headers) == 6

    @pytest.mark.parametrize("more", [1, 2, 3, 1000])
    def test_a_larger_head_is_refused_with_431_at_the_limit(self, more: int) -> None:
        assert "32768" in refused(self.head_of(MAX_HEAD + more)[:MAX_HEAD], 431)

    @staticmethod
    def head_of(size: int) -> bytes:
        lines = [b"X: " + b"a" * 7000] * 4
        rest = size - len(request(*lines, b"X: "))
        return request(*lines, b"X: " + b"a" * rest)

    def test_an_endless_line_costs_no_more_than_its_limit(self) -> None:
        asked = []

        def readline(limit: int) -> bytes:
            asked.append(limit)
            return b"a" * limit

        with pytest.raises(HeadError):
            read_request_head(readline)
        assert asked == [MAX_LINE]

    def test_endless_headers_cost_no_more_than_their_limit(self) -> None:
        lines = iter([b"GET / HTTP/1.1\r\n"])
        asked = 0

        def readline(limit: int) -> bytes:
            nonlocal asked
            asked += 1
            return next(lines, b"X: 1\r\n")

        with pytest.raises(HeadError):
            read_request_head(readline)
        assert asked == 1 + MAX_HEADERS + 1


class TestHost:
    """RFC 9112, section 3.2."""

    @pytest.mark.parametrize("value", ["localhost", "Example.COM:8000", "[::1]:80", "localhost:", ""])
    def test_a_valid_host_is_read(self, value: str) -> None:
        assert whole(request(host=b"Host: " + value.encode())).headers["Host"] == value

    @pytest.mark.parametrize("value", ["a b", "a,b", "user@a", "::1", "a:b", "a:65536", "http://a", "\xe4", "a:\xb2"])
    def test_a_malformed_host_is_refused(self, value: str) -> None:
        assert "Host" in refused(request(host=b"Host: " + value.encode("latin-1")))

    def test_two_hosts_are_refused(self) -> None:
        refused(request(b"host: localhost"))
        refused(request(b"host: localhost", start=b"GET / HTTP/1.0"))

    def test_no_host_is_refused_but_under_http_1_0(self) -> None:
        refused(request(host=b""))
        refused(request(host=b"", start=b"GET / HTTP/1.2"))
        assert whole(request(host=b"", start=b"GET / HTTP/1.0")).version == "HTTP/1.0"
        refused(request(host=b"Host: a b", start=b"GET / HTTP/1.0"))


class TestFraming:
    """RFC 9112, section 6: where the body ends is beyond doubt."""

    @pytest.mark.parametrize("length", [b"0", b"5", b"007", b"9" * 19])
    def test_a_length_passes(self, length: bytes) -> None:
        assert whole(request(b"Content-Length: " + length, start=b"POST / HTTP/1.1")).method == "POST"

    @pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
    def test_chunked_passes(self, coding: bytes) -> None:
        assert whole(request(b"Transfer-Encoding: " + coding, start=b"POST / HTTP/1.1")).method == "POST"

    @pytest.mark.parametrize(
        "length", [b"", b"+5", b"-5", b"5, 5", b"5 5", b"0x5", b"5.0", b"1_000", b"a", b"\xb2", b"9" * 20, b"9" * 5000]
    )
    def test_a_malformed_length_is_refused(self, length: bytes) -> None:
        refused(request(b"Content-Length: " + length, start=b"POST / HTTP/1.1"))

    @pytest.mark.parametrize(
        "lines",
        [
            [b"Content-Length: 5", b"Content-Length: 6"],
            [b"Content-Length: 5", b"content-length: 5"],
            [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
            [b"Transfer-Encoding: identity"],
            [b"Transfer-Encoding: gzip, chunked"],
            [b"Transfer-Encoding: chunked, identity"],
            [b"Transfer-Encoding: xchunked"],
            [b"Transfer-Encoding: \xa0chunked"],
            [b"Transfer-Encoding:"],
        ],
    )
    def test_doubtful_framing_is_refused(self, lines: list[bytes]) -> None:
        refused(request(*lines, start=b"POST / HTTP/1.1"))

    def test_transfer_encoding_under_http_1_0_is_refused(self) -> None:
        refused(request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"))


class TestResponse:
    @pytest.mark.parametrize("behind", [b"", b"\x81\x05hello\r\n"])
    def test_a_head_is_read_as_it_was_sent_and_not_a_byte_more(self, behind: bytes) -> None:
        data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
        reader = io.BufferedReader(io.BytesIO(data + behind))
        head = read_response_head(reader.readline)
        assert (head.version, head.status, head.reason) == ("HTTP/1.1", 101, "Switching Protocols")
        assert head.headers.items() == [("Upgrade", "websocket"), ("X-A", "1"), ("x-a", "2")]
        assert head.fields == {"upgrade": ["websocket"], "x-a": ["1", "2"]}
        assert reader.read() == behind
        assert take_response_head(data + behind) == (head, len(data))

    @pytest.mark.parametrize(
        ("line", "status", "reason"),
        [
            (b"HTTP/1.1 404 Not Found", 404, "Not Found"),
            (b"HTTP/1.1 200 ", 200, ""),
            (b"HTTP/1.0 200", 200, ""),
            (b"HTTP/1.1 599 \xe4\tb", 599, "\xe4\tb"),
        ],
    )
    def test_status_lines(self, line: bytes, status: int, reason: str) -> None:
        head = read_response_head(Pipe(line + b"\r\n\r\n").readline)
        assert (head.status, head.reason) == (status, reason)
        data = line + b"\r\nX: 1\r\n\r\n"
        assert take_response_head(data) == (read_response_head(Pipe(data).readline), len(data))

    @pytest.mark.parametrize(
        "data",
        [
            b"\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 \r\n",
            b"HTTP/1.1 20\r\n",
            b"HTTP/1.1 1010 OK\r\n",
            b"HTTP/1.1 099 OK\r\n",
            b"HTTP/1.1 +10 OK\r\n",
            b"HTTP/1.1  101 OK\r\n",
            b"http/1.1 101 OK\r\n",
            b"ICY 200 OK\r\n",
            b"HTTP/1.1 101 O\x00K\r\n",
            b"HTTP/1.1 101 O\rK\r\n",
            b"HTTP/1.1 101 OK\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"HTTP/1.1 101 " + b"a" * MAX_LINE,
            b"HTTP/1.1 101 OK\r\nno colon\r\n",
            b"HTTP/1.1 101 OK\r\nX: 1\n",
            b"HTTP/1.1 101 OK\r\nX: \x00\r\n",
            b"HTTP/1.1 101 OK\r\nX: 1\r\n folded\r\n",
            b"HTTP/1.1 101 OK\r\n" + b"X: 1\r\n" * (MAX_HEADERS + 1),
            (b"HTTP/1.1 101 OK\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 5)[:MAX_HEAD],
        ],
    )
    def test_a_malformed_head_is_refused_without_a_status_before_more_comes(self, data: bytes) -> None:
        with pytest.raises(HandshakeError) as caught:
            read_response_head(Pipe(data).readline)
        assert take_response_head(data + b"X: 1\r\n\r\n") is None
        assert caught.value.status is None
        assert str(caught.value).isascii()

    @pytest.mark.parametrize("data", [b"", b"HTTP/1.1 1", b"HTTP/1.1 101 OK\r\n", b"HTTP/1.1 101 OK\r\nX: 1\r"])
    def test_input_that_ends_within_the_head_is_refused(self, data: bytes) -> None:
        with pytest.raises(HandshakeError):
            read_response_head(io.BytesIO(data).readline)

    def test_interim_responses_are_passed_over(self) -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        assert take_response_head(interim) is None
        head = read_response_head(Pipe(interim + b"HTTP/1.1 101 OK\r\nX: 1\r\n\r\n").readline)
        assert head.status == 101
        assert head.headers.items() == [("X", "1")]

    def test_endless_interim_responses_are_refused(self) -> None:
        lines = iter([b"HTTP/1.1 100 Continue\r\n", b"\r\n"] * 1000)
        with pytest.raises(HandshakeError, match="interim"):
            read_response_head(lambda limit: next(lines))
        assert len(list(lines)) > 1900


class TestWriting:
    def test_a_head_is_written(self) -> None:
        assert (
            serialize_head("GET / HTTP/1.1", [("Host", "a"), ("X", "ä")])
            == b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\r\n\r\n"
        )

    @given(st.lists(st.tuples(TOKENS, VALUES), max_size=50))
    def test_what_may_be_sent_is_read_as_it_was_sent(self, fields: list[tuple[str, str]]) -> None:
        for name, value in fields:
            check_field(name, value)
        head = read_response_head(io.BytesIO(serialize_head("HTTP/1.1 200 OK", fields)).readline)
        assert head.headers.items() == fields


class TestHostileInput:
    @given(st.data())
    def test_a_mutated_head_gives_a_head_or_an_error_and_no_invented_header(self, data: st.DataObject) -> None:
        mutated = bytearray(REQUEST)
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(mutated)))
            stop = data.draw(st.integers(start, min(start + 3, len(mutated))))
            mutated[start:stop] = data.draw(st.sampled_from(PIECES) | st.binary(max_size=3))
        self.check(bytes(mutated))

    def test_a_usual_head_is_read_in_one_step(self) -> None:
        assert take_request_head(REQUEST) is not None
        assert take_request_head(b"\r\n" + REQUEST) is None
        assert all(take_request_head(REQUEST[:size]) is None for size in range(len(REQUEST)))

    @given(
        st.lists(
            st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"Host:", b"x", b":", b"\t", *[b"\r\n"] * 4, *b"\r\n"])
        )
    )
    @example([b"GET / HTTP/1.0\r\n", b"\r\n"])
    def test_no_mix_of_a_heads_pieces_breaks_the_parser(self, pieces: list[bytes | int]) -> None:
        self.check(b"".join(piece if isinstance(piece, bytes) else bytes([piece]) for piece in pieces))

    @staticmethod
    def check(data: bytes) -> None:
        buffer = bytearray(data)
        stream = io.BytesIO(data)
        taken = take_request_head(data)
        try:
            head = read_request_head(stream.readline)
        except HeadError as error:
            assert taken is None
            assert error.status in (400, 414, 431, 505)
            with suppress(HeadError):  # where the end of the input is the fault, the parser waits for more
                assert RequestParser().feed(buffer) is None
            return
        assert taken is None or (taken[1] == stream.tell() and head is not None and same(taken[0], head))
        fed = RequestParser().feed(buffer)
        assert (head is None) == (fed is None)
        if head is None or fed is None:
            return
        assert same(head, fed)
        assert stream.read() == bytes(buffer)
        # What was consumed, split at its line ends and nowhere else, is what was read: nothing is lost or invented.
        consumed = data[: len(data) - len(buffer)].removeprefix(b"\r\n")
        assert consumed.count(b"\r") == consumed.count(b"\n") == consumed.count(b"\r\n")
        start, *lines, end, _ = consumed.split(b"\r\n")
        assert start.decode() == head.request_line == f"{head.method} {head.target} {head.version}"
        assert end == b""
        fields = [line.decode("latin-1").split(":", 1) for line in lines]
        assert head.headers.items() == [(name, value.strip(" \t")) for name, value in fields]
        assert all(is_token(name) for name, _ in fields)
        assert head.fields == {name.lower(): head.headers.get_all(name) for name, _ in fields}

    @pytest.mark.parametrize("piece", [b"a", b" ", b"\t", b":", b"a ", b" :", b"/", b"\x00", b"\xe4", b"\r", b'"'])
    def test_lines_are_parsed_in_linear_time(self, piece: bytes) -> None:
        def parse_all(size: int) -> None:
            for line in (piece * size, b"a:" + piece * size, b"GET " + piece * size, b"a:" + piece * size + b"\x00"):
                for parse in (
                    headers._HeaderLines(1 << 30).feed,
                    headers._parse_request_line,
                    lambda line: read_response_head(lambda limit: b"HTTP/1.1 200 " + line),
                ):
                    with suppress(HandshakeError):
                        parse(line + b"\r\n")

        assert_linear(parse_all, 1 << 14)


PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\x0b",
    b"\x85",
    b"\r\nX: 1",
    b"\r\n ",
    b"Host",
    b"HTTP/1.0",
]


@pytest.mark.parametrize(
    ("line", "header", "host"),
    [
        ("GET / HTTP/1.1", "Host: example.org:80\r\n", "example.org:80"),
        ("GET http://other.example:81/a HTTP/1.1", "Host: example.org\r\n", "other.example:81"),
        ("GET WSS://other.example?a HTTP/1.1", "Host: example.org\r\n", "other.example"),
        ("OPTIONS * HTTP/1.1", "Host:\r\n", ""),
        ("GET / HTTP/1.0", "", ""),
    ],
)
def test_the_host_that_a_request_is_for(line: str, header: str, host: str) -> None:
    assert requested_host(parse_request_head(f"{line}\r\n{header}\r\n".encode())) == host

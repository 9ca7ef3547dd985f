"""The client's half of the opening handshake, against servers written by hand (RFC 6455, section 4.1)."""

from __future__ import annotations

import base64
import gc
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from websocketserver import opening as module
from websocketserver.deadline import Deadline
from websocketserver.exceptions import HandshakeError
from websocketserver.opening import MAX_BODY, Accepted, Opening, Target, parse_url
from websocketserver.protocol.deflate import PerMessageDeflate
from websocketserver.streams import Link

from .support import MS, SOON, run_in_thread

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
DEFLATE = PerMessageDeflate()


def accept(request: bytes) -> str:
    """The right answer to the key in the request (1.3)."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", request)
    assert key
    return base64.b64encode(hashlib.sha1(key[1] + GUID).digest()).decode()


def switching(request: bytes, *fields: str, **changes: str | None) -> bytes:
    """A right 101, but for these fields: added, changed, or with None left out."""
    usual = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept(request)}
    merged = {**usual, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, *fields, "", ""]).encode()


def make(url: str = "ws://localhost/", **options: Any) -> Opening:
    defaults: dict[str, Any] = {
        "version": 13,
        "origin": None,
        "subprotocols": (),
        "headers": None,
        "cookies": None,
        "extensions": (),
    }
    return Opening(parse_url(url), **{**defaults, **options})


def fields(request: bytes) -> dict[str, str]:
    lines = request.decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return dict(line.split(": ", 1) for line in lines[1:-2])


def read_head(sock: socket.socket) -> bytes:
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        data = sock.recv(1 << 16)
        assert data, "the client has gone before its request was complete"
        request += data
    return request


Script = Callable[[socket.socket, bytes], None]


@contextmanager
def scripted(script: Script) -> Iterator[socket.socket]:
    """Yield a socket at whose other end the script answers a request, and then closes."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            theirs.settimeout(SOON)
            script(theirs, read_head(theirs))

    server = run_in_thread(serve)
    try:
        with ours:
            yield ours
    finally:
        server.result()


def perform(script: Script, timeout: float | None = SOON, **options: Any) -> Accepted:
    with scripted(script) as sock:
        return make(**options).perform(Link(sock, Deadline(None)), Deadline(timeout))


def answer(*parts: bytes | Callable[[bytes], bytes]) -> Script:
    """Answer with these parts, one write each; functions get the request."""

    def script(sock: socket.socket, request: bytes) -> None:
        with suppress(OSError):  # a client that has seen enough goes
            for part in parts:
                sock.sendall(part if isinstance(part, bytes) else part(request))

    return script


def refused(script: Script, **options: Any) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        perform(script, **options)
    return caught.value


class TestURL:
    """Section 3, and RFC 3986."""

    @pytest.mark.parametrize(
        ("url", "target"),
        [
            ("ws://example.com", Target(False, "example.com", 80, "/", None)),
            ("wss://example.com", Target(True, "example.com", 443, "/", None)),
            ("WS://Example.COM:8000/Path", Target(False, "example.com", 8000, "/Path", None)),
            ("ws://h:/x", Target(False, "h", 80, "/x", None)),
            ("ws://h?a=b&c=d?e", Target(False, "h", 80, "/?a=b&c=d?e", None)),
            ("ws://h/p;v=1/?q=%20+a", Target(False, "h", 80, "/p;v=1/?q=%20+a", None)),
            ("ws://h//x", Target(False, "h", 80, "//x", None)),
            ("ws://[::1]:8000/", Target(False, "::1", 8000, "/", None)),
            ("wss://[2001:DB8::1]", Target(True, "2001:db8::1", 443, "/", None)),
            ("ws://127.0.0.1:65535/", Target(False, "127.0.0.1", 65535, "/", None)),
            ("ws://h/näh?ä=\u2028", Target(False, "h", 80, "/n%C3%A4h?%C3%A4=%E2%80%A8", None)),
            ('ws://h/"<>\\^`{|}', Target(False, "h", 80, "/%22%3C%3E%5C%5E%60%7B%7C%7D", None)),
            ("ws://bücher.example/", Target(False, "xn--bcher-kva.example", 80, "/", None)),
            ("ws://me:secret@h/", Target(False, "h", 80, "/", b"me:secret")),
            ("ws://me@h/", Target(False, "h", 80, "/", b"me:")),
            ("ws://m%C3%A9:s%3A%40%2F@h/", Target(False, "h", 80, "/", "mé:s:@/".encode())),
            ("ws://a@b:c:d@h/", Target(False, "h", 80, "/", b"a@b:c:d")),
        ],
    )
    def test_what_it_says(self, url: str, target: Target) -> None:
        assert parse_url(url) == target

    @pytest.mark.parametrize(
        "url",
        [
            *("", "ws", "ws:", "ws://", "ws:///path", "ws:path", "//host/", "host:80", "/path", "ws://:80/"),
            *("http://h/", "https://h/", "wsx://h/", "file:///etc/passwd", "ws+unix://h/"),
            *("ws://h/#", "ws://h/#fragment", "ws://h/?q#f", "ws://h#"),
            *("ws://h:65536/", "ws://h:-1/", "ws://h:x/", "ws://h:8 0/", "ws://h:0/"),
            *(
                "ws://[::1/",
                "ws://[::1",
                "ws://b\u00fc..cher/",
                "ws://a..b/",
                "ws://./",
                f"ws://{64 * 'a'}/",
                "ws://a\uff0fb/",
            ),
            *("ws://a%3Ab:c@h/",),  # a user's name holds no colon (RFC 7617, 2)
        ],
    )
    def test_what_is_no_websocket_url(self, url: str) -> None:
        with pytest.raises(ValueError):
            parse_url(url)

    @pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
    def test_a_port_that_is_none_is_named_with_its_url(self, port: str) -> None:
        with pytest.raises(ValueError, match=f"the port of 'ws://h:{port}/' is not a number"):
            parse_url(f"ws://h:{port}/")

    @pytest.mark.parametrize("character", ["\r", "\n", "\t", "\0", " ", "\x1f", "\x7f"])
    @pytest.mark.parametrize("url", ["{}ws://h/", "w{}s://h/", "ws://h{}/", "ws://u{}@h/", "ws://h/{}", "ws://h/?{}"])
    def test_control_characters_and_blanks(self, url: str, character: str) -> None:
        with pytest.raises(ValueError, match="control character"):
            parse_url(url.format(character))

    @pytest.mark.parametrize("url", [b"ws://h/", None, 5, ["ws://h/"]])
    def test_anything_but_a_str(self, url: Any) -> None:
        with pytest.raises(TypeError, match="URL"):
            parse_url(url)

    def test_only_what_holds_no_secret_is_kept_for_the_next(self) -> None:
        for url in ("ws://kept.example/public", "ws://me:secret@kept.example/", "ws://kept.example/?token=secret"):
            assert make(url).request
        targets = [each for each in gc.get_objects() if isinstance(each, Target)]
        assert [each.path for each in targets if each.host == "kept.example"] == ["/public"]


class TestRequest:
    def test_what_every_request_says(self) -> None:
        request = make("ws://localhost:8000/chat?room=1").request
        assert request.startswith(b"GET /chat?room=1 HTTP/1.1\r\nHost: localhost:8000\r\n")
        got = fields(request)
        assert len(base64.b64decode(got.pop("Sec-WebSocket-Key"), validate=True)) == 16
        assert got == {
            "Host": "localhost:8000",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
        }

    def test_each_has_a_key_of_its_own(self) -> None:
        assert len({fields(make().request)["Sec-WebSocket-Key"] for _ in range(100)}) == 100

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("ws://h/", "h"),
            ("ws://h:80/", "h"),
            ("ws://h:443/", "h:443"),
            ("wss://h:443/", "h"),
            ("wss://h:80/", "h:80"),
            ("ws://[::1]/", "[::1]"),
            ("ws://[::1]:8000/", "[::1]:8000"),
        ],
    )
    def test_the_host_names_its_port_unless_it_is_the_usual_one(self, url: str, host: str) -> None:
        assert fields(make(url).request)["Host"] == host

    def test_a_second_one_differs_in_its_key_alone(self) -> None:
        url = "ws://localhost/\r?AAAAAAAAAAAAAAAAAAAAAA==".replace("\r", "Sec-WebSocket-Key:")
        first, second = make(url).request, make(url).request
        keys = [fields(request)["Sec-WebSocket-Key"] for request in (first, second)]
        assert second == first.replace(keys[0].encode(), keys[1].encode()) != first
        assert fields(make(url, origin="https://example.com").request)["Origin"] == "https://example.com"

    def test_what_is_equal_but_another_is_not_remembered(self) -> None:
        other: Any = 13.0
        with suppress(TypeError, ValueError):
            make("ws://h/equal", version=other)
        assert fields(make("ws://h/equal").request)["Sec-WebSocket-Version"] == "13"

    def test_the_users_name_is_for_basic_authentication(self) -> None:
        request = make("ws://Aladdin:open%20sesame@h/").request
        assert fields(request)["Authorization"] == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617, 2
        assert fields(request)["Host"] == "h"
        own = make("ws://me:secret@h/", headers={"authorization": "Bearer x"}).request
        assert fields(own)["authorization"] == "Bearer x"
        assert b"Basic" not in own

    def test_everything_at_once(self) -> None:
        request = make(
            version=8,
            origin="https://example.com",
            subprotocols=["chat", "superchat"],
            headers=[("X-A", "1"), ("X-A", "2")],
            cookies={"a": "1", "b": "2"},
            extensions=[PerMessageDeflate(client_max_window_bits=15, server_max_window_bits=15)],
        ).request
        assert b"\r\nX-A: 1\r\nX-A: 2\r\n" in request
        got = fields(request)
        assert got["Sec-WebSocket-Version"] == "8"
        assert got["Sec-WebSocket-Origin"] == "https://example.com"
        assert got["Sec-WebSocket-Protocol"] == "chat, superchat"
        assert got["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        assert got["Cookie"] == "a=1; b=2"
        assert "Origin" not in got

    @pytest.mark.parametrize("bad", ["a\r\nb", "a\nb", "a\rb", "a\0b", "a\x7fb"])
    @pytest.mark.parametrize(
        "where",
        [
            lambda bad: {"headers": {"X-A": bad}},
            lambda bad: {"headers": {bad: "x"}},
            lambda bad: {"headers": [("Host", bad)]},
            lambda bad: {"origin": bad},
            lambda bad: {"subprotocols": [bad]},
            lambda bad: {"cookies": {"a": bad}},
            lambda bad: {"cookies": {bad: "a"}},
        ],
    )
    def test_control_characters(self, where: Callable[[str], dict[str, Any]], bad: str) -> None:
        with pytest.raises(ValueError):
            make(**where(bad))

    @pytest.mark.parametrize(
        "options",
        [
            {"headers": {"Sec-WebSocket-Key": "x"}},
            {"headers": {"Content-Length": "5"}},
            {"headers": {"Upgrade": "h2c"}},
            {"headers": {"Cookie": "a=1"}, "cookies": {"a": "1"}},
            {"headers": ["X-A: 1"]},
            {"subprotocols": ["chat", "chat"]},
            {"subprotocols": ["ch at"]},
            {"subprotocols": [""]},
            {"version": 7},
            {"url": "ws://ho$t/"},
        ],
    )
    def test_what_makes_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError):
            make(**options)

    @pytest.mark.parametrize("what", ["headers", "cookies"])
    @pytest.mark.parametrize("fields", ["a=b", ["X: 1"], ["ab"], [("a", "b", "c")], {"a"}])
    def test_what_are_no_pairs(self, what: str, fields: Any) -> None:
        with pytest.raises(ValueError, match=f"^{what} must be a mapping, or pairs of a name and a value$"):
            make(**{what: fields})

    @pytest.mark.parametrize(
        "options",
        [
            {"headers": {"X-A": 5}},
            {"headers": {5: "x"}},
            {"headers": {5: "x"}, "url": "ws://me@h/"},
            {"headers": 5},
            {"subprotocols": "chat"},
            {"subprotocols": [5]},
            {"subprotocols": None},
            {"origin": 5},
            {"origin": ["https://h"]},
            {"subprotocols": [["chat"]]},
            {"cookies": {"a": 5}},
        ],
    )
    def test_other_types(self, options: dict[str, Any]) -> None:
        with pytest.raises(TypeError) as caught:
            make(**options)
        assert "unhashable" not in str(caught.value)


class TestAnswer:
    def test_a_plain_one(self) -> None:
        accepted = perform(answer(switching))
        assert (accepted.subprotocol, accepted.codecs, accepted.rest) == (None, [], b"")
        assert (accepted.head.status, accepted.head.headers["upgrade"]) == (101, "websocket")

    def test_byte_by_byte(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            for byte in switching(request):
                sock.sendall(bytes([byte]))

        assert perform(script).rest == b""

    def test_what_comes_behind_it_is_kept(self) -> None:
        for size in (1, 5, 5000, 100_000):
            frames = bytes(i % 251 for i in range(size))
            with scripted(answer(lambda request, frames=frames: switching(request) + frames)) as sock:
                rest = make().perform(Link(sock, Deadline(None)), Deadline(SOON)).rest
                sock.settimeout(SOON)
                while data := sock.recv(1 << 16):
                    rest += data
            assert rest == frames

    def test_interim_answers_are_passed_over(self) -> None:
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        assert perform(answer(b"HTTP/1.1 100 Continue\r\n\r\n", interim, switching)).head.status == 101

    def test_what_was_agreed_on(self) -> None:
        fields = ("Sec-WebSocket-Protocol: b", "Sec-WebSocket-Extensions: permessage-deflate")
        script = answer(lambda request: switching(request, *fields))
        accepted = perform(script, subprotocols=["a", "b"], extensions=[DEFLATE])
        assert accepted.subprotocol == "b"
        assert [codec.name for codec in accepted.codecs] == ["permessage-deflate"]

    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            (["Sec-WebSocket-Protocol: c"], "Protocol"),
            (["Sec-WebSocket-Protocol: A"], "Protocol"),
            (["Sec-WebSocket-Protocol: a, b"], "Protocol"),
            (["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"], "Protocol"),
            (["Sec-WebSocket-Extensions: x-unknown"], "x-unknown"),
            (["Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate"], "permessage-deflate"),
            (["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99"], "window"),
            (["Sec-WebSocket-Extensions: ;"], "Extensions"),
            (["Sec-WebSocket-Accept: again"], "Accept"),
            (["Upgrade: websocket"], "Upgrade"),
        ],
    )
    def test_what_was_not_asked_for(self, fields: list[str], match: str) -> None:
        script = answer(lambda request: switching(request, *fields))
        error = refused(script, subprotocols=["a", "b"], extensions=[DEFLATE])
        assert match in str(error)
        assert (error.status, error.headers["Connection"], error.body) == (101, "Upgrade", b"")

    def test_without_any_offer(self) -> None:
        for field in ("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Extensions: permessage-deflate"):
            assert refused(answer(lambda request, field=field: switching(request, field))).status == 101

    @pytest.mark.parametrize(
        "changes",
        [
            {"Upgrade": None},
            {"Upgrade": "h2c"},
            {"Connection": None},
            {"Connection": "close"},
            {"Sec_WebSocket_Accept": None},
            {"Sec_WebSocket_Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
        ],
    )
    def test_a_wrong_101(self, changes: dict[str, str | None]) -> None:
        error = refused(answer(lambda request: switching(request, **changes) + b"what is behind is no body"))
        assert (error.status, error.body) == (101, b"")
        assert next(iter(changes)).replace("_", "-") in str(error)

    def test_an_accept_key_in_other_case(self) -> None:
        swapped = answer(lambda request: switching(request, Sec_WebSocket_Accept=accept(request).swapcase()))
        assert "Accept" in str(refused(swapped))

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"HTTP/1.1 101",
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n",
            b"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n",
            b"HTTP/1.1 200 OK\r\nX-A : 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-A: a\rUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\n\r\n",
            b"HTTP/2 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 1O1 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 099 Odd\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x15\x03\x01\x00\x02\x02\x46",
            bytes(100),
            b"HTTP/1.1 200 " + b"a" * 10_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 101 + b"\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 9000 + b"\r\n\r\n",
        ],
    )
    def test_what_is_no_answer(self, head: bytes) -> None:
        error = refused(answer(head))
        assert (error.status, dict(error.headers), error.body) == (None, {}, b"")

    def test_an_old_version_of_http(self) -> None:
        script = answer(lambda request: switching(request).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert "HTTP/1.0" in str(refused(script))

    @pytest.mark.parametrize(
        "piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n", b"X-A: 1\r\n", b"a"]
    )
    def test_an_answer_without_end(self, piece: bytes) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            with pytest.raises(OSError):  # until the client has had enough
                while True:
                    sock.sendall(piece * 1000)

        assert refused(script).status is None


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


class TestRefusal:
    """The server's answer is in the HandshakeError: status, headers, and the beginning of the body."""

    @pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 426, 503])
    def test_status_and_headers(self, status: int) -> None:
        head = f"HTTP/1.1 {status} Why Not\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n".encode()
        error = refused(answer(head))
        assert (error.status, error.headers["x-a"], error.body) == (status, "1", b"")
        verdict = "refused" if status >= 400 else "has no WebSocket there"
        assert str(error) == f"the server {verdict}: {status} Why Not"

    def test_nothing_is_followed(self) -> None:
        error = refused(answer(b"HTTP/1.1 302 Found\r\nLocation: ws://localhost/\r\nContent-Length: 0\r\n\r\n"))
        assert error.headers["Location"] == "ws://localhost/"

    @pytest.mark.parametrize(
        ("rest", "body"),
        [
            (b"Content-Length: 4\r\n\r\nbusy", b"busy"),
            (b"Content-Length: 4\r\n\r\nbusy and more", b"busy"),
            (b"Content-Length: 99\r\n\r\nbusy", b"busy"),  # less than announced
            (b"Content-Length: 99999999999999999999\r\n\r\nbusy", b"busy"),
            (b"Content-Length: -4\r\n\r\nbusy", b""),
            (b"Content-Length: some\r\n\r\nbusy", b""),
            (b"Content-Length: 0\r\n\r\nbusy", b""),
            (b"\r\nbusy", b"busy"),  # until the end of the stream
            (b"\r\n", b""),
            (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"bu", b"sy", b""), b"busy"),
            (b"Transfer-Encoding: Chunked\r\n\r\n4;name=value\r\nbusy\r\n0\r\nTrailer: x\r\n\r\n", b"busy"),
            (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"busy"), b"busy"),  # cut off
            (b"Transfer-Encoding: chunked\r\n\r\n63\r\nbusy", b"busy"),
            (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\nzz\r\nbusy", b"busy"),
            (b"Transfer-Encoding: chunked\r\n\r\n-4\r\nbusy\r\n", b""),
        ],
    )
    def test_bodies(self, rest: bytes, body: bytes) -> None:
        error = refused(answer(b"HTTP/1.1 503 Busy\r\n" + rest))
        assert (error.status, error.body) == (503, body)

    def test_a_body_byte_by_byte(self) -> None:
        text = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
        assert refused(answer(*(text[i : i + 1] for i in range(len(text))))).body == b"busy"

    @pytest.mark.parametrize(
        ("head", "piece"),
        [
            (b"\r\n", b"a" * 1000),
            (b"Content-Length: 999999999\r\n\r\n", b"a" * 1000),
            (b"Transfer-Encoding: chunked\r\n\r\n", chunked(b"a" * 1000)),
            (b"Transfer-Encoding: chunked\r\n\r\n", chunked(b"a")),
        ],
    )
    def test_a_body_without_end(self, monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes) -> None:
        monkeypatch.setattr(module, "BODY_TIME", 60)

        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 503 Busy\r\n" + head)
            with pytest.raises(OSError):  # until the client has had enough
                while True:
                    sock.sendall(piece * 100)

        error = refused(script)
        assert error.body == b"a" * MAX_BODY

    def test_chunks_of_no_size_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BODY_TIME", 60)

        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n")
            with pytest.raises(OSError):
                while True:
                    sock.sendall(b"-1\r\n\r\n" * 1000)

        assert refused(script, timeout=None).body == b""

    @pytest.mark.parametrize("timeout", [None, SOON])
    @pytest.mark.parametrize("rest", [b"\r\nno", b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"no")])
    def test_a_body_that_never_ends_does_not_hold_the_refusal(
        self, rest: bytes, timeout: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "BODY_TIME", 20 * MS)

        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\n" + rest)
            assert sock.recv(1) == b""  # the client goes first

        error = refused(script, timeout=timeout)
        assert (error.status, error.body) == (403, b"no")

    def test_the_body_does_not_outlast_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BODY_TIME", 60)

        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\nno")
            assert sock.recv(1) == b""

        try:
            error = refused(script, timeout=200 * MS)
        except TimeoutError:  # the machine stood still, and the head was late
            error = refused(script, timeout=SOON / 2)
        assert error.body == b"no"

    def test_a_reason_that_is_no_text(self) -> None:
        error = refused(answer(b"HTTP/1.1 403 \x85\r\nContent-Length: 0\r\n\r\n"))
        assert str(error) == "the server refused: 403"


class TestDeadline:
    def test_a_server_that_never_answers(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            assert sock.recv(1) == b""

        with pytest.raises(TimeoutError):
            perform(script, timeout=30 * MS)

    def test_a_byte_now_and_then_renews_nothing(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            pause = threading.Event()
            with pytest.raises(OSError):
                while not pause.wait(5 * MS):
                    sock.sendall(b"H")

        with pytest.raises(TimeoutError):
            perform(script, timeout=50 * MS)

    def test_a_server_that_resets(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            theirs.close()
            with pytest.raises((ConnectionError, HandshakeError)):
                make().perform(Link(ours, Deadline(None)), Deadline(SOON))

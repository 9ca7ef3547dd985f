"""Upgrade: the opening handshake, what refuses it, and the frames that come with it."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import pytest

from websocketserver.exceptions import HandshakeError
from websocketserver.protocol.handshake import accept_key

from .serving import (
    Quiet,
    default_server,
    events,
    leave,
    lines,
    pytest_generate_tests,
    server_class,
    serving,
)
from .support import (
    KEY,
    MASK,
    RawPeer,
    frame,
    opening_request,
    raw_client,
    wait_until,
)

__all__ = ["default_server", "pytest_generate_tests", "server_class"]  # under every server

TEXT, BINARY, CLOSE = 1, 2, 8


def head_and_body(peer: RawPeer) -> tuple[str, str]:
    return peer.head.decode("latin-1"), peer.read_to_end().decode()


class TestHandshake:
    def test_answer_says_what_the_rfc_says(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running, raw_client(running) as peer:
            head = peer.head.decode("latin-1").split("\r\n")
            assert head == [
                "HTTP/1.1 101 Switching Protocols",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Accept: {accept_key(KEY)}",
            ]
            leave(peer)
        assert lines(running)[0] == '"GET / HTTP/1.1" 101 -'

    @pytest.mark.parametrize(
        ("headers", "status", "says"),
        [
            ({"Host": None}, 400, "Host"),
            ({"Sec-WebSocket-Key": "short"}, 400, "Sec-WebSocket-Key"),
            ({"Content-Length": "5"}, 400, "body"),
            ({"Transfer-Encoding": "chunked"}, 400, "body"),
            ({"Connection": "keep-alive"}, 426, "Upgrade: websocket"),
            ({"Sec-WebSocket-Version": "7"}, 426, "Sec-WebSocket-Version: 13, 8"),
            ({"Sec-WebSocket-Extensions": "permessage-deflate; ="}, 400, "Sec-WebSocket-Extensions"),
            ({"Origin": "https://evil.example"}, 403, "origin"),
        ],
    )
    def test_refusals(self, server_class: Any, headers: dict[str, str | None], status: int, says: str) -> None:
        with serving(server_class=server_class) as running:
            with raw_client(running, headers=headers, status=status) as peer:
                head, body = head_and_body(peer)
                assert head.startswith(f"HTTP/1.1 {status} ")
                assert "Content-Type: text/plain" in head
                assert {"Connection: close", "Connection: Upgrade, close"} & set(head.split("\r\n"))
                assert says in head + body
                assert body.startswith(f"{status} ")
        assert len(lines(running)) == 1
        assert lines(running)[0].startswith(f'"GET / HTTP/1.1" {status} ')

    @pytest.mark.parametrize(
        ("request_line", "status"),
        [
            ("POST / HTTP/1.1", 405),
            ("GET / HTTP/1.0", 505),
            ("GET / HTTP/2.0", 505),
            ("GET /" + "x" * 9000 + " HTTP/1.1", 414),
        ],
    )
    def test_refused_request_lines(self, request_line: str, status: int) -> None:
        request = opening_request().replace(b"GET / HTTP/1.1", request_line.encode())
        with serving() as running, raw_client(running, request=request, status=status) as peer:
            head, body = head_and_body(peer)
            assert ("Allow: GET" in head) == (status == 405)
            assert body.startswith(f"{status} ")

    def test_version_8_has_its_origin_elsewhere(self) -> None:
        class Handler(Quiet):
            def check_origin(self, origin: str | None) -> bool:
                self.events.append(origin)
                return True

        headers: dict[str, str | None] = {"Sec-WebSocket-Version": "8", "Sec-WebSocket-Origin": "http://localhost"}
        with serving(Handler) as running, raw_client(running, headers=headers) as peer:
            leave(peer)
            peer.read_close()
        assert events(running)[0] == "http://localhost"

    def test_versions_can_be_restricted(self) -> None:
        with serving(websocket_versions=(13,)) as running:
            with raw_client(running, headers={"Sec-WebSocket-Version": "8"}, status=426) as peer:
                assert "Sec-WebSocket-Version: 13" in peer.head.decode().split("\r\n")

    @pytest.mark.parametrize(
        ("allowed", "origin", "passes"),
        [
            ((), None, True),
            ((), "http://localhost", True),
            ((), "https://localhost", False),
            ((), "http://other.example", False),
            ((), "null", False),
            (("https://a.example",), "https://a.example", True),
            (("https://a.example",), "https://a.example.evil.example", False),
            (("https://a.example",), "http://localhost", True),
            (("*",), "https://anything.example", True),
            (("null",), "null", True),
            ((re.compile(r"https://[a-z]+\.example"),), "https://b.example", True),
            ((re.compile(r"https://[a-z]+\.example"),), "https://b.example:444", False),
            (None, "https://anything.example", True),
        ],
    )
    def test_origins(self, allowed: Any, origin: str | None, passes: bool) -> None:
        with serving(allowed_origins=allowed) as running:
            status = 101 if passes else 403
            with raw_client(running, headers={"Host": "localhost:80", "Origin": origin}, status=status) as peer:
                if passes:
                    leave(peer)

    def test_an_origin_cannot_forge_lines_of_the_log(self) -> None:
        with serving() as running:
            for origin in ("http://\x9b2J", "http://" + "x" * 5000):
                with raw_client(running, headers={"Origin": origin}, status=403):
                    pass
            assert [line.isprintable() and len(line) < 250 for line in lines(running)] == [True, True]

    def test_allowed_origins_must_not_be_one_str(self) -> None:
        with pytest.raises(TypeError, match="allowed_origins must be a sequence"):
            type("Handler", (Quiet,), {"allowed_origins": "https://a.example"})
        with serving(errors_expected=True) as running:
            running.server.RequestHandlerClass.allowed_origins = "https://a.example"
            with raw_client(running, headers={"Origin": "https://b.example"}, status=500):
                pass
        assert isinstance(running.errors[0], TypeError)

    def test_authorize_refuses_with_a_status(self, server_class: Any) -> None:
        class Handler(Quiet):
            def authorize(self) -> HTTPStatus | None:
                return None if self.headers.get("Authorization") == "yes" else HTTPStatus.UNAUTHORIZED

        with serving(Handler, server_class=server_class) as running:
            with raw_client(running, status=401) as peer:
                assert head_and_body(peer)[1].startswith("401 Unauthorized")
            with raw_client(running, headers={"Authorization": "yes"}) as peer:
                leave(peer)

    def test_authorize_may_answer_itself(self, server_class: Any) -> None:
        class Handler(Quiet):
            def authorize(self) -> HTTPStatus | None:
                if self.path == "/error":
                    self.send_error(HTTPStatus.NOT_FOUND, "no such room")
                else:
                    self.send_response(HTTPStatus.UNAUTHORIZED)
                    self.send_header("WWW-Authenticate", "Basic")
                    if self.path == "/whole":
                        self.end_headers()
                return None

        with serving(Handler, server_class=server_class) as running:
            with raw_client(running, "/error", status=404) as peer:
                head, body = head_and_body(peer)
                assert head.startswith("HTTP/1.1 404")
                assert "no such room" in body
            for path in ("/whole", "/begun"):
                with raw_client(running, path, status=401) as peer:
                    assert "WWW-Authenticate: Basic" in peer.head.decode()
                    assert peer.read_to_end() == b""
        assert events(running) == []

    @pytest.mark.parametrize("answer", [True, False, 200, 1000, "401", object()])
    def test_authorize_must_return_a_status(self, answer: Any) -> None:
        with serving(authorize=lambda self: answer, errors_expected=True) as running:
            with raw_client(running, status=500):
                pass
        assert isinstance(running.errors[0], (TypeError, ValueError))

    @pytest.mark.parametrize("hook", ["check_origin", "authorize", "select_subprotocol", "response_headers"])
    def test_an_exception_in_a_hook_is_500_and_one_report(self, server_class: Any, hook: str) -> None:
        def fail(self: Any, *args: Any) -> None:
            raise LookupError(hook)

        with serving(server_class=server_class, errors_expected=True, **{hook: fail}) as running:
            with raw_client(running, status=500) as peer:
                head, body = head_and_body(peer)
                assert hook not in head + body
        assert [error.args for error in running.errors] == [(hook,)]
        assert events(running) == []

    @pytest.mark.parametrize("hook", ["check_origin", "authorize", "select_subprotocol", "response_headers"])
    def test_a_handshake_error_in_a_hook_refuses(self, hook: str) -> None:
        def refuse(self: Any, *args: Any) -> None:
            raise HandshakeError("come back later", 503, {"Retry-After": "9"})

        with serving(**{hook: refuse}) as running, raw_client(running, status=503) as peer:
            head, body = head_and_body(peer)
            assert "Retry-After: 9" in head
            assert "come back later" in body

    def test_a_refusal_of_a_hook_arrives_behind_unread_input(self) -> None:
        class Handler(Quiet):
            def authorize(self) -> HTTPStatus | None:
                self.send_error(HTTPStatus.UNAUTHORIZED)
                return None

        with serving(Handler) as running:
            for _ in range(10):
                with raw_client(running, glued=bytes(100_000), status=401) as peer:
                    assert peer.read_to_end().endswith(b"</html>\n")

    def test_the_first_of_our_subprotocols_that_was_offered(self) -> None:
        with serving(subprotocols=("v2", "v1")) as running:
            for offered, chosen in (("v1, v2", "v2"), ("v1", "v1"), ("v3", None), (None, None)):
                with raw_client(running, headers={"Sec-WebSocket-Protocol": offered}) as peer:
                    got = re.search(r"Sec-WebSocket-Protocol: (.*)", peer.head.decode())
                    assert (got and got[1].strip()) == chosen
                    leave(peer)

    def test_a_subprotocol_that_was_not_offered_is_500(self) -> None:
        with serving(select_subprotocol=lambda self, offered: "mine", errors_expected=True) as running:
            with raw_client(running, headers={"Sec-WebSocket-Protocol": "theirs"}, status=500):
                pass
        assert "mine" in str(running.errors[0])

    @pytest.mark.parametrize("headers", [[("Set-Cookie", "a=1"), ("X-Own", "2")], {"Set-Cookie": "a=1", "X-Own": "2"}])
    def test_response_headers_are_added(self, headers: Any) -> None:
        with serving(response_headers=lambda self: headers) as running, raw_client(running) as peer:
            assert {"Set-Cookie: a=1", "X-Own: 2"} < set(peer.head.decode().split("\r\n"))
            leave(peer)

    @pytest.mark.parametrize(
        "field",
        [
            ("X-Own", "1\r\nSet-Cookie: evil=1"),
            ("X-Own\r\nSet-Cookie: evil=1", "1"),
            ("X-Own", "\0"),
            ("Sec-WebSocket-Accept", "x"),
            ("Content-Length", "0"),
            ("X-Own", 7),
        ],
    )
    def test_a_bad_response_header_is_500_and_never_sent(self, field: tuple[str, Any]) -> None:
        with serving(response_headers=lambda self: [field], errors_expected=True) as running:
            with raw_client(running, status=500) as peer:
                head, body = head_and_body(peer)
                assert "evil" not in head + body
                assert "X-Own" not in head
        assert len(running.errors) == 1

    def test_bad_settings_are_500_and_one_report(self) -> None:
        """Those of one connection: a class with bad ones cannot be defined."""

        class Handler(Quiet):
            def authorize(self) -> None:
                self.max_message_size = -1

        with serving(Handler, errors_expected=True) as running, raw_client(running, status=500):
            pass
        assert "max_message_size" in str(running.errors[0])

    def test_settings_are_those_of_the_class(self) -> None:
        with serving(max_message_size=4) as running, raw_client(running) as peer:
            peer.frame(TEXT, b"12345")
            assert peer.read_close() == 1009
            leave(peer, 1009)
            wait_until(lambda: any("max_message_size" in line for line in lines(running)))

    def test_compression_is_negotiated(self) -> None:
        headers: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
        with serving() as running, raw_client(running, headers=headers) as peer:
            assert "Sec-WebSocket-Extensions: permessage-deflate" in peer.head.decode()
            leave(peer)
        with serving(compression=None) as running, raw_client(running, headers=headers) as peer:
            assert "Sec-WebSocket-Extensions" not in peer.head.decode()
            leave(peer)

    def test_the_connection_knows_request_and_response(self) -> None:
        class Handler(Quiet):
            def on_open(self) -> None:
                request = self.websocket.request
                response = self.websocket.response
                assert request is not None and response is not None
                self.events.append((request.target, request.cookies, self.path))
                self.events.append((response.status, response.headers["Upgrade"], self.websocket.subprotocol))
                self.events.append(self.request.getpeername() == self.client_address)

        headers: dict[str, str | None] = {"Cookie": "a=1"}
        with serving(Handler) as running, raw_client(running, "//x/../y?q=%20", headers=headers) as peer:
            leave(peer)
            peer.read_close()
        assert events(running)[:3] == [
            ("//x/../y?q=%20", {"a": "1"}, "//x/../y?q=%20"),
            (101, "websocket", None),
            True,
        ]

    def test_handle_upgrade_may_be_overridden(self) -> None:
        class Handler(Quiet):
            def handle_upgrade(self) -> None:
                if self.path == "/ws":
                    super().handle_upgrade()
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

        with serving(Handler) as running:
            with raw_client(running, "/other", status=404) as peer:
                peer.read_to_end()
            with raw_client(running, "/ws") as peer:
                leave(peer)
                assert peer.read_close() == 1000


class TestGluedFrames:
    """Bytes that come together with the request are the first frames."""

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_every_time(self, tls: bool) -> None:
        glued = frame(TEXT, b"glued", key=MASK)
        with serving(tls=tls) as running:
            for _ in range(50):
                with raw_client(running, glued=glued) as peer:
                    assert peer.read_frame().payload == b"glued"
                    peer.close_frame()
                    assert peer.read_close() == 1000

    def test_under_every_server(self, server_class: Any) -> None:
        with serving(server_class=server_class) as running:
            with raw_client(running, glued=frame(TEXT, b"glued", key=MASK)) as peer:
                assert peer.read_frame().payload == b"glued"
                leave(peer)
                assert peer.read_close() == 1000

    @pytest.mark.parametrize("size", [0, 1, 7000, 9000, 200_000])
    def test_of_any_size_and_broken_anywhere(self, size: int) -> None:
        payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
        glued = frame(BINARY, payload, key=MASK) + frame(CLOSE, b"\x03\xe8", key=MASK)
        with serving() as running, raw_client(running, glued=glued) as peer:
            assert peer.read_frame().payload == payload
            assert peer.read_close() == 1000

    def test_a_second_request_is_no_frame(self) -> None:
        with serving() as running, raw_client(running, glued=opening_request()) as peer:
            assert peer.read_close() == 1002

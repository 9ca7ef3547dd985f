"""Credentials: who somebody is, by a token or by a name and a password."""

from __future__ import annotations

import base64
import hmac
import urllib.error
import urllib.request
from typing import Any

import pytest

from websocketserver import BasicAuth, HandshakeError, Router, TokenAuth, WebSocketClient
from websocketserver.protocol.headers import parse_request_head

from .serving import Quiet, default_server, leave, lines, pytest_generate_tests, server_class, serving
from .support import SOON, Running, raw_client, running_server

__all__ = ["default_server", "pytest_generate_tests", "server_class"]  # under both servers, as there

TABLE = {"t0ken-a": "ada", "t0ken-g": "grace"}


class Request:
    """As much of a handler as is asked for credentials."""

    secret_parameters = ("token",)

    def __init__(self, *headers: str, target: str = "/") -> None:
        head = parse_request_head("\r\n".join([f"GET {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
        self.headers, self.path = head.headers, head.target


def basic(credentials: bytes) -> str:
    return "Authorization: Basic " + base64.b64encode(credentials).decode()


class TestTokens:
    @pytest.mark.parametrize(
        ("request_", "who"),
        [
            (Request("Authorization: Bearer t0ken-a"), "ada"),
            (Request("authorization: bEARER   t0ken-g"), "grace"),
            (Request("Authorization: Bearer t0ken-b"), None),
            (Request("Authorization: Bearer T0KEN-A"), None),
            (Request("Authorization: Bearer t0ken-a b"), None),
            (Request("Authorization: Bearer"), None),
            (Request("Authorization: Basic t0ken-a"), None),
            (Request("Authorization: t0ken-a"), None),
            (Request("Authorization: Bearer t0ken-a", "Authorization: Bearer t0ken-a"), None),
            (Request("Authorization: Bearer t\xf6ken"), None),
            (Request("Sec-WebSocket-Protocol: chat, bearer.t0ken-a"), "ada"),
            (Request("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: bearer.t0ken-a"), "ada"),
            (Request("Sec-WebSocket-Protocol: bearer."), None),
            (Request("Sec-WebSocket-Protocol: t0ken-a"), None),
            (Request(target="/?token=t0ken-a"), "ada"),
            (Request(target="/?x&token=t0%6ben-a&token=y"), "ada"),
            (Request(target="/?Token=t0ken-a"), None),
            (Request(target="/token=t0ken-a"), None),
            (Request("Cookie: a=b; session=t0ken-g"), "grace"),
            (Request("Cookie: a=b", 'Cookie: session="t0ken-g"'), "grace"),
            (Request("Cookie: t0ken-g"), None),
            (Request(), None),
            (Request("Authorization: Bearer wrong", "Cookie: session=t0ken-g"), None),
            (Request("Authorization: Basic wrong", "Cookie: session=t0ken-g"), "grace"),
        ],
    )
    def test_are_found_where_they_may_be(self, request_: Any, who: str | None) -> None:
        auth = TokenAuth(TABLE, subprotocol="bearer.", query="token", cookie="session")
        assert auth.identify(request_) == who

    @pytest.mark.parametrize(
        "request_",
        [
            Request("Authorization: Bearer t0ken-a"),
            Request("Sec-WebSocket-Protocol: bearer.t0ken-a"),
            Request(target="/?token=t0ken-a"),
            Request("Cookie: session=t0ken-a"),
        ],
    )
    def test_count_nowhere_else(self, request_: Any) -> None:
        assert TokenAuth(TABLE, header=False, cookie="other").identify(request_) is None

    def test_one_for_all(self) -> None:
        request: Any = Request("Authorization: Bearer t0ken-a")
        assert TokenAuth("t0ken-a").identify(request) is True
        assert TokenAuth("t0ken-b").identify(request) is None

    def test_a_function_decides(self) -> None:
        auth = TokenAuth(lambda token: token.upper() if token.startswith("t") else None)
        accepted: Any = Request("Authorization: Bearer t0ken-a")
        refused: Any = Request("Authorization: Bearer x")
        assert (auth.identify(accepted), auth.identify(refused)) == ("T0KEN-A", None)

    def test_of_which_the_log_would_tell_is_an_error(self) -> None:
        request: Any = Request(target="/?key=t0ken-a")
        with pytest.raises(ValueError, match="add 'key' to the handler's secret_parameters"):
            TokenAuth(TABLE, query="key").identify(request)

    @pytest.mark.parametrize(
        ("arguments", "options", "error"),
        [
            (("",), {}, ValueError),
            (({"": "ada"},), {}, ValueError),
            (({b"t": "ada"},), {}, TypeError),
            ((["t"],), {}, TypeError),
            (("t",), {"header": False}, ValueError),
            (("t",), {"subprotocol": "a b"}, ValueError),
            (("t",), {"cookie": "a;b"}, ValueError),
            (("t",), {"realm": 'a"b'}, ValueError),
            (("t",), {"realm": "a\r\nb"}, ValueError),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments: Any, options: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            TokenAuth(*arguments, **options)


class TestPasswords:
    @pytest.mark.parametrize(
        ("header", "who"),
        [
            (basic(b"ada:pa:ss"), "ada"),
            (basic("grün:wörd\u00a0".encode()), "grün"),
            (basic(b"ada:pa:s"), None),
            (basic(b"ada:"), None),
            (basic(b"nobody:pa:ss"), None),
            (basic(b"ada"), None),
            (basic(b""), None),
            (basic(b"ada:pa:ss\n"), None),
            (basic(b"ada:\xff"), None),
            ("Authorization: Basic !!!", None),
            ("Authorization: Basic YWRhOnBhOnN", None),
            ("Authorization: Basic \xe4", None),
            ("Authorization: Basic", None),
            ("Authorization: Bearer YWRhOnBhOnNz", None),
            ("X: y", None),
        ],
    )
    def test_prove_a_name(self, header: str, who: str | None) -> None:
        request: Any = Request(header)
        assert BasicAuth({"ada": "pa:ss", "grün": "wörd\u00a0"}).identify(request) == who

    def test_a_function_decides(self) -> None:
        asked = []

        def accept(user: str, password: str) -> bool:
            asked.append((user, password))
            return password == "right"

        auth = BasicAuth(accept)
        right: Any = Request(basic(b"ada:right"))
        wrong: Any = Request(basic(b"ada:wro:ng"))
        assert (auth.identify(right), auth.identify(wrong)) == ("ada", None)
        assert asked == [("ada", "right"), ("ada", "wro:ng")]
        controlled: Any = Request(basic(b"ada:\0right"))
        assert auth.identify(controlled) is None
        assert len(asked) == 2, "control characters reach nobody"

    @pytest.mark.parametrize(
        ("table", "error"),
        [
            ({"a:b": "x"}, ValueError),
            ({"a": ""}, ValueError),
            ({"a": b"x"}, TypeError),
            ({b"a": "x"}, TypeError),
            ([("a", "x")], TypeError),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, table: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            BasicAuth(table)


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        (TokenAuth(TABLE), "Authorization: Bearer t0ken-a"),
        (TokenAuth(TABLE), "Authorization: Bearer t0ken-x"),
        (TokenAuth(TABLE), "Authorization: Bearer x"),
        (BasicAuth(TABLE), basic(b"t0ken-a:ada")),
        (BasicAuth(TABLE), basic(b"t0ken-a:x")),
        (BasicAuth(TABLE), basic(b"x:x")),
    ],
)
def test_comparing_takes_the_same_time_whatever_is_given(
    auth: Any, header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-33880: every secret is compared, as hashes of one length, by what does not stop at a difference."""
    compared = []

    def compare_digest(known: bytes, given: bytes) -> bool:
        compared.append((len(known), len(given)))
        return known == given

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    auth.identify(Request(header))
    assert compared == [(32, 32)] * len(TABLE)


class Members(Quiet):
    tokens = TokenAuth(TABLE, subprotocol="bearer.", query="token", cookie="session")
    subprotocols = ("chat",)

    def authorize(self) -> None:
        self.user = self.tokens.require(self)

    def on_open(self) -> None:
        self.websocket.send(f"hello {self.user}")


def refusal(running: Running, **options: Any) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        WebSocketClient(running.url(), **options)
    assert caught.value.status == 401
    return caught.value


class TestAuthorize:
    @pytest.mark.parametrize(
        ("path", "options"),
        [
            ("/", {"headers": {"Authorization": "Bearer t0ken-a"}}),
            ("/", {"cookies": {"session": "t0ken-a"}}),
            ("/?token=t0ken-a", {}),
            ("/", {"subprotocols": ["bearer.t0ken-a", "chat"]}),
        ],
    )
    def test_admits_who_has_a_token(self, server_class: Any, path: str, options: Any) -> None:
        with serving(Members, server_class=server_class) as running:
            with WebSocketClient(running.url(path), **options) as client:
                assert client.recv(SOON) == "hello ada"
                assert client.subprotocol == ("chat" if "subprotocols" in options else None)
        assert "t0ken" not in "".join(lines(running))

    def test_refuses_others_before_anything_is_open(self, server_class: Any) -> None:
        with serving(Members, server_class=server_class) as running:
            error = refusal(running, headers={"Authorization": "Bearer wr0ng"})
            assert error.headers["WWW-Authenticate"] == 'Bearer realm="websocketserver"'
            refusal(running)
        assert running.server.RequestHandlerClass.events == []
        assert lines(running) == ['"GET / HTTP/1.1" 401 no valid credentials'] * 2

    def test_of_basic_asks_for_name_and_password(self, server_class: Any) -> None:
        auth = BasicAuth({"ada": "pass"}, realm="here")
        with serving(Members, server_class=server_class, tokens=auth) as running:
            assert refusal(running).headers["WWW-Authenticate"] == 'Basic realm="here", charset="UTF-8"'
            refusal(running, headers={"Authorization": "Basic \xff"})
            header = basic(b"ada:pass").partition(": ")[2]
            with WebSocketClient(running.url(), headers={"Authorization": header}) as client:
                assert client.recv(SOON) == "hello ada"

    @pytest.mark.parametrize("offered", ["bearer.t0ken-a, other", "bearer.t0ken-a"])
    @pytest.mark.parametrize("also", [{}, {"Authorization": "Bearer t0ken-a"}])
    def test_a_token_among_the_subprotocols_is_never_answered(self, offered: str, also: dict[str, str | None]) -> None:
        def first(self: Any, offered: list[str]) -> str | None:
            return next(iter(offered), None)

        with serving(Members, select_subprotocol=first) as running:
            headers = {"Sec-WebSocket-Protocol": offered, **also}
            with raw_client(running, headers=headers) as peer:
                assert b"t0ken" not in peer.head
                assert (b"Sec-WebSocket-Protocol: other" in peer.head) is ("other" in offered)
                assert peer.read_frame().payload == b"hello ada"
                leave(peer)

    def test_holds_for_the_functions_of_a_router(self) -> None:
        kind: Any = type("Mine", (Members,), {"lines": [], "events": [], "on_open": Quiet.on_open})
        router = Router(kind)
        router.mount("/", lambda websocket: websocket.send(str(websocket.subprotocol)))
        with running_server(router, server_class=Quiet.default_server) as running:
            refusal(running)
            with WebSocketClient(running.url(), subprotocols=["bearer.t0ken-a", "mine"]) as client:
                assert client.recv(SOON) == "mine"

    def test_a_query_that_the_log_would_show_is_500_and_one_report(self) -> None:
        with serving(Members, secret_parameters=(), errors_expected=True) as running:
            with raw_client(running, "/?token=t0ken-a", status=500):
                pass
        assert [type(error) for error in running.errors] == [ValueError]


def test_a_page_asks_too() -> None:
    class Page(Quiet):
        auth = BasicAuth({"ada": "pass"})

        def do_GET(self) -> None:
            user = self.auth.identify(self)
            self.send_response(200 if user else 401)
            if not user:
                self.send_header("WWW-Authenticate", self.auth.challenge)
            self.end_headers()

    with serving(Page) as running:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(running.http_url(), timeout=SOON)
        with caught.value as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, Page.auth.challenge)
        header = basic(b"ada:pass").partition(": ")[2]
        request = urllib.request.Request(running.http_url(), headers={"Authorization": header})
        with urllib.request.urlopen(request, timeout=SOON) as page:
            assert page.status == 200

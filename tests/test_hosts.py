"""Hosts: which names a server answers to, so that no page can reach it under a name of its own (DNS rebinding)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from websocketserver import HandshakeError, Router, WebSocketClient
from websocketserver.hosts import is_allowed_host

from .serving import Quiet, default_server, exchange, leave, lines, pytest_generate_tests, server_class, serving
from .support import SOON, opening_request, raw_client, running_server, wait_until

__all__ = ["default_server", "pytest_generate_tests", "server_class"]  # under both servers, as there

OURS = ("localhost", "chat.example:8000", re.compile(r"(.+\.)?example\.org"))


class Page(Quiet):
    allowed_hosts = OURS

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()


def status(answer: bytes) -> int:
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("localhost:9999", True),
        ("chat.example:8000", True),
        ("chat.example", False),
        ("chat.example:8001", False),
        ("example.org", True),
        ("a.b.Example.ORG:1", True),
        ("evilexample.org", False),
        ("example.org.evil", False),
        ("evil", False),
        ("localhost.", False),
        ("", False),
        (":80", False),
        ("a b", False),
        ("user@localhost", False),
        ("localhost:99999", False),
    ],
)
def test_hosts(host: str, allowed: bool) -> None:
    assert is_allowed_host(host, OURS, 80) is allowed


def test_an_address_is_named_as_in_a_url() -> None:
    allowed = ("127.0.0.1", "[::1]:8000")
    assert is_allowed_host("127.0.0.1:5", allowed, 80)
    assert is_allowed_host("[::1]:8000", allowed, 80)
    assert not is_allowed_host("[::1]", allowed, 80)
    assert not is_allowed_host("[::2]:8000", allowed, 80)


def test_a_host_without_a_port_has_that_of_the_scheme() -> None:
    assert is_allowed_host("x", ("x:80",), 80)
    assert not is_allowed_host("x", ("x:80",), 443)
    assert is_allowed_host("x:443", ("x:443",), 80)


def test_nothing_is_allowed_by_an_empty_list() -> None:
    assert not is_allowed_host("localhost", (), 80)


@pytest.mark.parametrize(
    ("allowed", "error", "says"),
    [
        ("localhost", TypeError, "one str"),
        ((b"localhost",), TypeError, "str or a compiled pattern"),
        (("*",), ValueError, "allowed_hosts = None"),
        (("http://localhost",), ValueError, "not 'http://localhost'"),
        (("",), ValueError, "not ''"),
    ],
)
def test_what_no_host_can_be_is_refused(allowed: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        is_allowed_host("localhost", allowed, 80)


class TestRequests:
    def test_an_upgrade_for_another_host_is_refused(self, server_class: Any) -> None:
        with serving(Page, server_class=server_class) as running:
            with raw_client(running, headers={"Host": "evil.example"}, status=421) as peer:
                assert b"host evil.example is not served here" in peer.read_to_end()
            with raw_client(running, headers={"Host": "localhost:1"}) as peer:
                leave(peer)
            wait_until(lambda: len(lines(running)) == 3)
        assert lines(running)[0] == '"GET / HTTP/1.1" 421 host evil.example is not served here'

    def test_a_page_for_another_host_is_refused(self, server_class: Any) -> None:
        with serving(Page, server_class=server_class) as running:
            assert status(exchange(running, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")) == 421
            assert status(exchange(running, b"GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n")) == 204

    def test_a_page_that_has_our_address_by_another_name_is_of_our_origin_but_not_of_our_host(self) -> None:
        """DNS rebinding: to the browser the page and we are one, so that its Origin says nothing."""
        headers = {"Host": "evil.example:80", "Origin": "http://evil.example"}
        with serving() as running, raw_client(running, headers=headers) as peer:
            leave(peer)
        with serving(Page) as running, raw_client(running, headers=headers, status=421):
            pass

    @pytest.mark.parametrize("upgrade", [False, True])
    @pytest.mark.parametrize(
        ("target", "host", "passes"),
        [("http://localhost/", "evil.example", True), ("http://evil.example/", "localhost", False)],
    )
    def test_the_target_may_name_it(self, upgrade: bool, target: str, host: str, passes: bool) -> None:
        with serving(Page) as running:
            if upgrade:
                request = opening_request(target, host=host)
            else:
                request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            assert status(exchange(running, request)) == ((101 if upgrade else 204) if passes else 421)

    def test_who_names_none_is_refused(self) -> None:
        with serving(Page) as running:
            answer = exchange(running, b"GET / HTTP/1.0\r\n\r\n")
            assert (status(answer), answer.split(b": ")[-1]) == (421, b"host (none) is not served here\n")

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("port", [80, 443])
    def test_the_default_port_is_the_schemes(self, tls: bool, port: int) -> None:
        passes = port == (443 if tls else 80)
        with serving(Page, tls=tls, allowed_hosts=(f"localhost:{port}",)) as running:
            with raw_client(running, status=101 if passes else 421) as peer:
                if passes:
                    leave(peer)

    def test_every_request_of_a_connection_is_looked_at(self) -> None:
        with serving(Page, protocol_version="HTTP/1.1") as running:
            answer = exchange(running, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHost: evil\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"204", b"421"]

    def test_the_server_is_told_of_a_handshake_that_failed(self) -> None:
        told: list[HandshakeError] = []
        attributes = {"handshake_failed": lambda self, handler, error: told.append(error), "log_message": lambda *_: 0}
        with serving(Page, server_attributes=attributes) as running:
            with raw_client(running, headers={"Host": "evil"}, status=421):
                pass
            wait_until(lambda: told)
        assert told[0].status == 421

    def test_an_override_decides_instead(self) -> None:
        asked: list[str] = []

        def check_host(self: Any, host: str) -> bool:
            asked.append(host)
            return host == "ours"

        with serving(Page, check_host=check_host) as running:
            with raw_client(running, headers={"Host": "ours"}) as peer:
                leave(peer)
            with raw_client(running, status=421):
                pass
        assert asked == ["ours", "localhost"]

    def test_a_setting_that_makes_no_sense_is_500_and_one_report(self) -> None:
        with serving(Page, errors_expected=True) as running:
            running.server.RequestHandlerClass.allowed_hosts = ("*",)
            with raw_client(running, status=500):
                pass
        assert [type(error) for error in running.errors] == [ValueError]


class TestRoutes:
    @pytest.mark.parametrize("upgrade", [False, True])
    @pytest.mark.parametrize("whose", ["router", "route"])
    def test_are_for_our_hosts_too(self, upgrade: bool, whose: str) -> None:
        ours: Any = type("Ours", (Page,), {"lines": []})
        any_host: Any = type("Any", (Page,), {"lines": [], "allowed_hosts": None})
        told: list[HandshakeError] = []
        router = Router(ours if whose == "router" else any_host)
        router.mount("/", ours if whose == "route" else any_host)
        attributes = {"handshake_failed": lambda self, handler, error: told.append(error)}
        plain = b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n"
        with running_server(router, server_class=Quiet.default_server, server_attributes=attributes) as running:
            answer = exchange(running, opening_request(host="evil") if upgrade else plain)
            assert status(answer) == 421
            wait_until(lambda: len(told) == upgrade)
            assert status(exchange(running, plain.replace(b"evil", b"localhost"))) == 204
        assert [error.status for error in told] == [421] * upgrade

    def test_of_functions(self) -> None:
        router = Router(type("Ours", (Page,), {"lines": [], "events": []}))
        router.mount("/", lambda websocket: websocket.send("here"))
        with running_server(router, server_class=Quiet.default_server) as running:
            port = running.port
            with pytest.raises(HandshakeError, match="421"):
                WebSocketClient(f"ws://127.0.0.1:{port}/")
            with WebSocketClient(f"ws://127.0.0.1:{port}/", headers={"Host": f"localhost:{port}"}) as client:
                assert client.recv(SOON) == "here"


@pytest.mark.parametrize("allowed, error", [("localhost", TypeError), ((5,), TypeError), (("a b",), ValueError)])
def test_mistakes_are_told_where_a_handler_is_defined(allowed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="allowed"):
        type("Handler", (Quiet,), {"allowed_hosts": allowed})


def test_hosts_that_an_instance_knows_are_its_own() -> None:
    class Handler(Quiet):
        @property
        def allowed_hosts(self) -> Any:  # type: ignore[override]
            return ["example.org"]

    with serving(Handler) as running:
        assert status(exchange(running, opening_request(host="localhost"))) == 421

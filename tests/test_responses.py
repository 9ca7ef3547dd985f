"""Responses: no line of an application's making but those it means (CWE-113, gh-142533, CVE-2026-0865)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from websocketserver.exceptions import HandshakeError

from .serving import PAGE, Page, default_server, exchange, pytest_generate_tests, serving
from .support import opening_request, raw_client

__all__ = ["default_server", "pytest_generate_tests"]  # under both servers, as there

BAD_FIELDS = [
    ("X", "a\r\nEvil: 1"),
    ("X", "a\nEvil: 1"),
    ("X", "a\rEvil: 1"),
    ("X", "a\0"),
    ("X: y\r\nEvil", "1"),
    ("X Y", "1"),
    ("", "1"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_header_that_may_not_be_sent(name: str, value: str) -> None:
    class Handler(Page):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header(name, value)
            self.end_headers()

    with serving(Handler, errors_expected=True) as running:
        assert exchange(running, PAGE) == b""
    assert [type(error) for error in running.errors] == [ValueError]


@pytest.mark.parametrize("how", ["send_response", "send_error", "send_response_only"])
@pytest.mark.parametrize("reason", ["OK\r\nEvil: 1", "OK\nEvil: 1", "\0"])
def test_a_reason_that_may_not_be_sent(how: str, reason: str) -> None:
    class Handler(Page):
        def do_GET(self) -> None:
            getattr(self, how)(HTTPStatus.NOT_FOUND, reason)
            self.end_headers()

    with serving(Handler, errors_expected=True) as running:
        assert exchange(running, PAGE) == b""
    assert [type(error) for error in running.errors] == [ValueError]


def test_what_may_be_sent_is() -> None:
    class Handler(Page):
        def do_GET(self) -> None:
            self.send_response(HTTPStatus.OK, "Very\tf\xefne")
            self.send_header("X-Own", "\xe4\t!")
            self.send_header("Empty", "")
            self.send_header("Blanks", " a ")
            self.send_header("Content-Length", 0)  # type: ignore[arg-type]  # as with the standard library
            self.end_headers()

    with serving(Handler) as running:
        head = exchange(running, PAGE).decode("latin-1").split("\r\n")
        assert head[0] == "HTTP/1.1 200 Very\tf\xefne"
        assert {"X-Own: \xe4\t!", "Empty: ", "Blanks:  a ", "Content-Length: 0"} < set(head)


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_refusal_of_an_upgrade_with_such_a_header_is_500(name: str, value: str) -> None:
    def refuse(self: Any) -> None:
        raise HandshakeError("no", HTTPStatus.FORBIDDEN, {name: value})

    with serving(authorize=refuse, errors_expected=True) as running:
        with raw_client(running, status=500) as peer:
            assert b"Evil" not in peer.head + peer.read_to_end()
    assert [type(error) for error in running.errors] == [ValueError]


def test_an_answer_of_authorize_that_fails_half_way_is_500() -> None:
    def authorize(self: Any) -> None:
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", "Basic\r\nEvil: 1")

    with serving(authorize=authorize, errors_expected=True) as running:
        answer = exchange(running, opening_request())
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"WWW" not in answer
        assert b"Evil" not in answer
    assert [type(error) for error in running.errors] == [ValueError]


def test_an_answer_of_authorize_that_has_left_is_not_taken_back() -> None:
    def authorize(self: Any) -> None:
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.end_headers()
        raise LookupError("too late")

    with serving(authorize=authorize, errors_expected=True) as running:
        answer = exchange(running, opening_request())
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert answer.count(b"HTTP/1.1") == 1
    assert [error.args for error in running.errors] == [("too late",)]

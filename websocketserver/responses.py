"""Responses: the lines of an HTTP answer, checked before they are sent.

The standard library sends whatever it is given, line ends included, and will (gh-142533, gh-150680): whoever
has a say in a header's value or in a reason could write headers of his own, or a second response.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler

from .protocol.grammar import check_field, count_controls

__all__ = ["CheckedResponses"]


class CheckedResponses(BaseHTTPRequestHandler):
    """How a handler answers. Both methods raise ValueError for what may not be sent, before anything is."""

    _answered = 0  # the status of the answer that was begun, 0 where none was

    def send_response_only(self, code: int, message: str | None = None) -> None:
        """As inherited; a reason must have no control characters (RFC 9112, 4)."""
        if message is not None and count_controls(str(message).encode()):
            raise ValueError(f"the reason of a response must not contain control characters: {message!r:.100}")
        super().send_response_only(code, message)
        self._answered = code

    def send_header(self, keyword: str, value: str) -> None:
        """As inherited; the keyword must be a token, and the value Latin-1 without control characters (RFC 9110, 5)."""
        check_field(keyword, str(value).strip(" \t"))
        super().send_header(keyword, value)

    def _take_back_answer(self) -> None:
        """Forget the answer that was begun, unless it has left."""
        if getattr(self, "_headers_buffer", None):
            self._headers_buffer: list[bytes] = []
            self._answered = 0

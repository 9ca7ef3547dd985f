"""Close codes: which mean what, and which may go over the wire (RFC 6455, section 7.4)."""

from __future__ import annotations

from enum import IntEnum

from ..exceptions import Close, ProtocolError

__all__ = ["CloseCode", "pack_close", "parse_close"]

MAX_REASON = 123  # a control frame carries 125 bytes, two of them the code (5.5)


class CloseCode(IntEnum):
    """The registered close codes (RFC 6455, section 7.4.1, and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005  # only synthesised: a Close without a code
    ABNORMAL_CLOSURE = 1006  # only synthesised: the connection ended without a Close
    INVALID_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010  # only a client sends it
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015  # only synthesised


def _on_the_wire(code: int) -> bool:
    """Return whether a Close frame may carry this code (7.4.1, 7.4.2, IANA for 1012 to 1014)."""
    return 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code <= 4999


def pack_close(code: int, reason: str = "") -> bytes:
    """Return the payload of a Close frame; 1005 stands for one without a code.

    Raises ValueError for a code that must not be sent or a reason over 123 bytes, TypeError for
    other types: a close code or reason of the wrong kind never reaches the wire.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"close code must be an int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"close reason must be a str, not {type(reason).__name__}")
    if code == CloseCode.NO_STATUS_RECEIVED and not reason:
        return b""
    if not _on_the_wire(code):
        raise ValueError(f"close code {int(code)} may not be sent; use 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    try:
        encoded = reason.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"close reason cannot be encoded: {error}") from None
    if len(encoded) > MAX_REASON:
        raise ValueError(f"close reason is {len(encoded)} bytes of UTF-8, {MAX_REASON} at most")
    return code.to_bytes(2, "big") + encoded


def parse_close(payload: bytes) -> Close:
    """Return what a received Close frame says; raises ProtocolError where it may not say that."""
    if not payload:
        return Close(CloseCode.NO_STATUS_RECEIVED)  # 7.1.5: no code is present
    if len(payload) == 1:
        raise ProtocolError("Close payload of one byte")  # 5.5.1: a body starts with two bytes of code
    code = int.from_bytes(payload[:2], "big")
    if not _on_the_wire(code):
        raise ProtocolError(f"close code {code} must not appear on the wire")  # 7.4
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ProtocolError("close reason is not UTF-8", CloseCode.INVALID_PAYLOAD_DATA) from None  # 5.5.1, 8.1

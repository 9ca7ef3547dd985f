"""Close codes: which may be sent, received, or neither (RFC 6455, sections 5.5.1 and 7.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocketserver.exceptions import Close, ProtocolError
from websocketserver.protocol.closecodes import MAX_REASON, CloseCode, pack_close, parse_close

ON_THE_WIRE = [*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)]
SYNTHETIC = [CloseCode.NO_STATUS_RECEIVED, CloseCode.ABNORMAL_CLOSURE, CloseCode.TLS_HANDSHAKE]


def test_the_registered_codes_have_names() -> None:
    assert [int(code) for code in CloseCode] == [*range(1000, 1004), *range(1005, 1016)]


def test_every_code_that_may_be_sent_and_no_other() -> None:
    sent, received = [], []
    for code in range(1 << 16):
        try:
            assert pack_close(code) == (b"" if code == 1005 else code.to_bytes(2, "big"))
            sent.append(code)
        except ValueError as error:
            assert str(code) in str(error)
        try:
            assert parse_close(code.to_bytes(2, "big")) == Close(code, "")
            received.append(code)
        except ProtocolError as error:
            assert error.close_code == 1002
    assert received == ON_THE_WIRE
    assert sent == sorted([*ON_THE_WIRE, 1005])  # as the Close without a code


@pytest.mark.parametrize("code", [-1, 1 << 16, 1 << 70, 0, *SYNTHETIC[1:]])
def test_codes_that_are_never_sent(code: int) -> None:
    with pytest.raises(ValueError, match=str(int(code))):
        pack_close(code)


class TestPacking:
    def test_no_code_is_an_empty_payload_without_a_reason(self) -> None:
        assert pack_close(1005) == b""
        with pytest.raises(ValueError, match="1005"):
            pack_close(1005, "why")

    def test_code_and_reason(self) -> None:
        assert pack_close(CloseCode.GOING_AWAY, "né") == b"\x03\xe9n\xc3\xa9"

    def test_the_longest_reason_in_bytes(self) -> None:
        assert len(pack_close(1000, MAX_REASON * "x")) == 125
        assert len(pack_close(1000, "é" * 61 + "x")) == 125
        for reason in ("x" * 124, "é" * 62):
            with pytest.raises(ValueError, match="124 bytes"):
                pack_close(1000, reason)

    def test_a_reason_that_cannot_be_encoded(self) -> None:
        with pytest.raises(ValueError, match="reason"):
            pack_close(1000, "\ud800")

    @pytest.mark.parametrize("code", ["1000", 1000.0, None, True, b"\x03\xe8", [1000]])
    def test_codes_of_another_type(self, code: Any) -> None:
        with pytest.raises(TypeError, match="code"):
            pack_close(code)

    @pytest.mark.parametrize("reason", [b"bye", None, 5, ["bye"]])
    def test_reasons_of_another_type(self, reason: Any) -> None:
        with pytest.raises(TypeError, match="reason"):
            pack_close(1000, reason)


class TestParsing:
    def test_nothing_is_1005(self) -> None:
        assert parse_close(b"") == Close(1005, "")

    @pytest.mark.parametrize("byte", [b"\x00", b"\x03", b"\xff"])
    def test_one_byte_is_no_code(self, byte: bytes) -> None:
        with pytest.raises(ProtocolError, match="one byte") as caught:
            parse_close(byte)
        assert caught.value.close_code == 1002

    @pytest.mark.parametrize("reason", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"ok\xf4\x90\x80\x80"])
    def test_a_reason_that_is_not_text(self, reason: bytes) -> None:
        with pytest.raises(ProtocolError) as caught:
            parse_close(b"\x03\xe8" + reason)
        assert caught.value.close_code == 1007

    @given(st.sampled_from(ON_THE_WIRE), st.text(max_size=30))
    def test_what_was_packed(self, code: int, reason: str) -> None:
        assert parse_close(pack_close(code, reason)) == Close(code, reason)

"""Forwarded addresses are believed as far as those who report them are."""

from __future__ import annotations

from typing import Any

import pytest

from websocketserver.forwarded import believed_addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "believed"),
    [
        ("10.0.0.1", [], [], ["10.0.0.1"]),
        ("10.0.0.1", ["1.1.1.1"], [], ["10.0.0.1"]),
        ("10.0.0.1", ["1.1.1.1"], ["10.0.0.1"], ["1.1.1.1", "10.0.0.1"]),
        ("10.0.0.1", ["1.1.1.1"], ["10.0.0.0/24"], ["1.1.1.1", "10.0.0.1"]),
        ("10.0.1.1", ["1.1.1.1"], ["10.0.0.0/24"], ["10.0.1.1"]),
        ("10.0.0.1", ["9.9.9.9, 1.1.1.1"], ["10.0.0.1"], ["1.1.1.1", "10.0.0.1"]),
        ("10.0.0.1", ["1.1.1.1, 10.0.0.2"], ["10.0.0.0/8"], ["1.1.1.1", "10.0.0.2", "10.0.0.1"]),
        ("10.0.0.1", ["9.9.9.9", "1.1.1.1 ,10.0.0.2"], ["10.0.0.0/8"], ["1.1.1.1", "10.0.0.2", "10.0.0.1"]),
        ("10.0.0.1", ["1.1.1.1, junk"], ["10.0.0.1"], ["10.0.0.1"]),
        ("10.0.0.1", [""], ["10.0.0.1"], ["10.0.0.1"]),
        ("::1", ["2001:DB8::1"], ["::1"], ["2001:db8::1", "::1"]),
        ("fe80::1%eth0", ["1.1.1.1"], ["fe80::/10"], ["1.1.1.1", "fe80::1%eth0"]),
        ("10.0.0.1", ["1.1.1.1"], ["::/0"], ["10.0.0.1"]),
        ("unix", ["1.1.1.1"], ["10.0.0.1"], ["unix"]),
        ("unix", ["1.1.1.1"], ["unix", "10.0.0.1"], ["1.1.1.1", "unix"]),
        ("10.0.0.1", ["1.1.1.1"], ["unix"], ["10.0.0.1"]),
    ],
)
def test_addresses(peer: str, forwarded: list[str], trusted: list[str], believed: list[str]) -> None:
    assert believed_addresses(peer, forwarded, trusted) == believed


@pytest.mark.parametrize(("trusted", "error"), [("10.0.0.1", TypeError), (["proxy.example"], ValueError)])
def test_what_cannot_be_trusted(trusted: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        believed_addresses("10.0.0.1", ["1.1.1.1"], trusted)

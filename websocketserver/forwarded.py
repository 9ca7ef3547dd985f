"""Forwarded addresses: whom a request comes from, as far as the proxies that say so are trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

__all__ = ["UNIX", "believed_addresses", "check_trusted", "is_trusted"]

UNIX = "unix"  # what a peer on a Unix socket is called: it has no address


def believed_addresses(peer: str, forwarded: Iterable[str], trusted: Sequence[str]) -> list[str]:
    """Return the addresses that a request came through, the client's first, the peer's last.

    ``forwarded`` are the values of X-Forwarded-For, ``trusted`` the addresses and networks
    ("127.0.0.1", "10.0.0.0/8", "unix") of proxies. An entry is believed where all that passed it on
    are trusted; the first that is not is as far as it goes. Raises TypeError or ValueError for what
    ``trusted`` must not be.
    """
    addresses = [peer]
    entries = [entry.strip() for value in forwarded for entry in value.split(",")]
    while is_trusted(addresses[0], trusted) and entries:
        address = _parse(entries.pop())
        if address is None:
            break
        addresses.insert(0, str(address))
    return addresses


def is_trusted(address: str, trusted: Sequence[str]) -> bool:
    """Return whether an address is a trusted proxy's; raises as ``believed_addresses`` does."""
    if isinstance(trusted, str):
        check_trusted(trusted)
    if address == UNIX:
        return UNIX in trusted
    parsed = _parse(address)
    return parsed is not None and any(parsed in ip_network(proxy, strict=False) for proxy in trusted if proxy != UNIX)


def check_trusted(trusted: Sequence[str]) -> None:
    """Raise TypeError or ValueError for what ``trusted`` must not be."""
    if isinstance(trusted, str):
        raise TypeError("trusted_proxies must be a sequence of addresses and networks, not one str")
    for proxy in trusted:
        try:
            if proxy != UNIX:
                ip_network(proxy, strict=False)
        except ValueError as error:
            raise ValueError(f"trusted_proxies must be addresses, networks and {UNIX!r}: {error}") from None


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address.partition("%")[0])
    except ValueError:
        return None

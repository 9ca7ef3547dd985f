"""Keys: what a client's frames are masked with, unpredictable and fresh for each (RFC 6455, sections 5.3 and 10.3)."""

from __future__ import annotations

import os

__all__ = ["new_key"]

_keys: list[bytes] = []  # drawn beforehand: one system call for many
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)  # the parent uses them


def new_key() -> bytes:
    """Return a masking key: unpredictable, and fresh for each frame (5.3, 10.3)."""
    try:
        return _keys.pop()
    except IndexError:
        drawn = os.urandom(1024)
        _keys.extend(drawn[at : at + 4] for at in range(4, len(drawn), 4))
        return drawn[:4]

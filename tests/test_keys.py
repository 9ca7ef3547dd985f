"""Keys: drawn from the system, each used once; that frames have them is seen in test_security.py."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from websocketserver import keys
from websocketserver.keys import new_key

from .program import run_program


def test_each_is_four_bytes_drawn_from_the_system_and_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    urandom, drawn = os.urandom, bytearray()

    def noted(size: int) -> bytes:
        drawn.extend(urandom(size))
        return bytes(drawn[-size:])

    monkeypatch.setattr(keys, "_keys", [])
    monkeypatch.setattr(os, "urandom", noted)
    taken = Counter(new_key() for _ in range(1000))
    assert not taken - Counter(bytes(drawn[at : at + 4]) for at in range(0, len(drawn), 4))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_the_child_of_a_fork_draws_its_own() -> None:
    done = run_program(FORKING)
    assert done.returncode == 0, done.stderr


FORKING = """
    import os, socket, warnings
    from websocketserver.connection import Role, WebSocketConnection

    warnings.simplefilter("ignore", DeprecationWarning)  # CPython's about forks of processes with threads

    def masks():
        ours, theirs = socket.socketpair()
        with theirs:
            websocket = WebSocketConnection(ours, role=Role.CLIENT)
            for _ in range(50):
                websocket.send(b"")
            sent = theirs.recv(50 * 6, socket.MSG_WAITALL)
            websocket.abort()
        return {sent[at + 2 : at + 6] for at in range(0, len(sent), 6)}

    before = masks()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, b"".join(masks()))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 200)
    assert len(theirs) == 200
    assert not masks() & {theirs[at : at + 4] for at in range(0, 200, 4)}
"""

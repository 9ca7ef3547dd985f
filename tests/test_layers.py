"""The house from the ground up: an import points to a line above its own, never below, never in a circle.

What only type checkers import counts too. A file that is not in the list fails: give it its place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "websocketserver"

PLAN = """
    exceptions

    protocol.__init__
    protocol.closecodes
    protocol.events
    protocol._speedups
    protocol.masking
    protocol.utf8
    protocol.frames
    protocol.payload
    protocol.grammar
    protocol.wholehead
    protocol.headers
    protocol.cookies
    protocol.extensions
    protocol.deflate
    protocol.handshake
    protocol.asking
    protocol.sender
    protocol.endpoint

    settings
    counters
    deadline
    keys
    transport
    tls
    streams
    keepalive
    pings
    output
    intake
    pump
    channel
    attendance
    fragments
    _express
    express
    trace
    sharing
    sending
    connection
    hooks

    accepting
    threads
    forwarded
    hosts
    logs
    credentials
    admission
    report
    accepted
    dump
    registry
    responses
    handlersocket
    httphandler
    upgrade
    handler
    verbs
    ending
    listening
    server
    unixserver
    polling
    tenancy
    pool
    pooled
    pooling
    router
    metrics

    opening
    dialing
    client

    demo
    terminal
    cli
    __init__
    __main__
"""
HOUSE = PLAN.split()

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for kind in ("*.py", "*.c")
    for path in PACKAGE.rglob(kind)
}


def imports(source: str, module: str) -> Iterator[str]:
    """Yield the modules of ours that a file imports, wherever in it."""
    folder = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
            names = [".".join(["websocketserver", *base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "websocketserver":
                yield _module(name.split(".")[1:])


def _module(parts: list[str]) -> str:
    """Return the longest module that a dotted name begins with."""
    for end in range(len(parts), 0, -1):
        for name in (".".join(parts[:end]), ".".join([*parts[:end], "__init__"])):
            if name in HOUSE:
                return name
    return "__init__"


def used(module: str) -> set[str]:
    return set(imports(FILES[module].read_text(), module)) if FILES[module].suffix == ".py" else set()


def test_the_list_is_the_house() -> None:
    assert len(HOUSE) == len(set(HOUSE))
    assert set(FILES) == set(HOUSE), "give each new file its place in the list"


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_upward(module: str) -> None:
    wrong = used(module) - set(HOUSE[: HOUSE.index(module)])
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}, which is not above it"


@pytest.mark.parametrize("module", sorted(name for name in FILES if name.startswith("protocol.")))
def test_the_protocol_knows_nothing_of_the_rest(module: str) -> None:
    assert all(name == "exceptions" or name.startswith("protocol.") for name in used(module))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from .frames import Frame", "protocol.frames"),
        ("from ..connection import Role", "connection"),
        ("from .. import connection", "connection"),
        ("from . import frames as f", "protocol.frames"),
        ("if TYPE_CHECKING:\n    from ..server import X", "server"),
        ("def f():\n    import websocketserver.client", "client"),
        ("from websocketserver.protocol import utf8", "protocol.utf8"),
        ("from websocketserver import WebSocketClient", "__init__"),
        ("from ._speedups import mask", "protocol._speedups"),
    ],
)
def test_no_import_escapes(line: str, found: str) -> None:
    assert list(imports(line, "protocol.endpoint")) == [found]

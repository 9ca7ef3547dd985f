"""Who is measured: our servers and clients, the peers, and the C programs that mark the limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .kit import HERE, Kit

__all__ = ["CLIENT", "LIMIT", "OURS", "PEER", "SERVER", "Contender", "clients", "servers"]

OURS, PEER, LIMIT = "ours", "peer", "limit"
SERVER, CLIENT = "server", "client"


@dataclass(frozen=True)
class Contender:
    """One row. A server's command gets PORT MODE DEFLATE PAYLOAD, a client's URL MODE SIZE COUNT."""

    name: str
    command: tuple[str, ...]
    kind: str = PEER
    role: str = SERVER
    environment: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()  # what comes behind a server's arguments
    can: frozenset[str] = frozenset({"deflate", "broadcast"})

    def __str__(self) -> str:
        return self.name


def servers(kit: Kit, packages: dict[str, Path]) -> list[Contender]:
    """Return all servers that can run here, ours first. ``packages`` maps a suffix of our rows' names to a package."""
    found = []
    for suffix, package in packages.items():
        program, path = _python(kit, "servers/ours.py"), {"PYTHONPATH": str(package)}
        can = frozenset({"deflate", "broadcast", "sleepers"})
        if "C twin" not in kit.missing:
            found.append(Contender("threaded" + suffix, program, OURS, SERVER, path, can=can))
            if kit.has_pool(package):
                found.append(Contender("pooled" + suffix, program, OURS, SERVER, path, ("pooled",), can | {"crowd"}))
        pure = {**path, "WEBSOCKETSERVER_PURE": "1"}
        found.append(Contender("threaded (pure Python)" + suffix, program, OURS, SERVER, pure, can=can))
    if "websockets" not in kit.missing:
        found.append(Contender("websockets sync", _python(kit, "servers/websockets_sync.py")))
    if not {"websockets", "uvloop"} & kit.missing.keys():
        asyncio = _python(kit, "servers/websockets_asyncio.py")
        found.append(Contender("websockets asyncio+uvloop", asyncio, flags=("uvloop",)))
    if not {"picows", "uvloop"} & kit.missing.keys():
        picows = _python(kit, "servers/picows_uvloop.py")
        found.append(Contender("picows+uvloop", picows, can=frozenset({"broadcast"})))
    if "ws" not in kit.missing:
        found.append(Contender("npm ws", _node("servers/npm_ws.js"), environment=_node_environment(kit)))
    sink = (str(kit.programs / "wssink"),)
    found.append(Contender("C threads", sink, LIMIT, flags=("thread",)))
    found.append(Contender("C epoll", sink, LIMIT, flags=("epoll",)))
    return found


def clients(kit: Kit, packages: dict[str, Path]) -> list[Contender]:
    """Return all clients that can run here, ours first."""
    found = []
    ours = _python(kit, "clients/ours.py")
    for suffix, package in packages.items():
        path = {"PYTHONPATH": str(package)}
        if "C twin" not in kit.missing:
            found.append(Contender("client" + suffix, ours, OURS, CLIENT, path))
        pure = {**path, "WEBSOCKETSERVER_PURE": "1"}
        found.append(Contender("client (pure Python)" + suffix, ours, OURS, CLIENT, pure))
    if "websockets" not in kit.missing:
        found.append(Contender("websockets.sync.client", _python(kit, "clients/websockets_sync.py"), role=CLIENT))
    if not {"websocket-client", "wsaccel"} & kit.missing.keys():
        program = _python(kit, "clients/websocket_client.py")
        found.append(Contender("websocket-client+wsaccel", program, role=CLIENT))
    if not {"picows", "uvloop"} & kit.missing.keys():
        found.append(Contender("picows client+uvloop", _python(kit, "clients/picows_asyncio.py"), role=CLIENT))
    if "ws" not in kit.missing:
        environment = _node_environment(kit)
        found.append(Contender("npm ws client", _node("clients/npm_ws.js"), role=CLIENT, environment=environment))
    return found


def _python(kit: Kit, program: str) -> tuple[str, ...]:
    return (str(kit.python), str(HERE / program))


def _node(program: str) -> tuple[str, ...]:
    return ("node", str(HERE / program))


def _node_environment(kit: Kit) -> dict[str, str]:
    return {"NODE_HOME_DIR": str(kit.node_modules)}

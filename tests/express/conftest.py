"""Both ways, both ends, both kinds of server; what there is with C alone is tested where there is C."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from websocketserver import Role, Settings, sending, sharing
from websocketserver import connection as module
from websocketserver import handler as handler_module
from websocketserver import pool as pool_module

from ..serving import OURS, Quiet
from ..support import half
from .kit import HAVE_C, Ends

collect_ignore = [] if HAVE_C else ["test_receive.py", "test_send.py", "test_serve.py", "test_share.py"]


@pytest.fixture(params=["at once", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "step by step":
        monkeypatch.setattr(module, "receive_at_once", lambda connection, ahead: None)
        monkeypatch.setattr(module, "ready_at_once", lambda connection, ahead: None)
        monkeypatch.setattr(sending, "send_at_once", lambda connection, message: False)
        monkeypatch.setattr(sending, "ping_at_once", lambda connection, payload: False)
        monkeypatch.setattr(handler_module, "handle_at_once", lambda connection, handler: None)
        monkeypatch.setattr(pool_module, "serve_at_once", lambda pool, worker, ready: ready.popleft())
        monkeypatch.setattr(sharing, "share_at_once", lambda connection, frame, guests: False)
        monkeypatch.setattr(sharing, "flush_at_once", lambda connection: False)
    return str(request.param)


@pytest.fixture
def ends(role: Role) -> Iterator[Ends]:
    with half(role, settings=Settings(ping_interval=None)) as pair:
        yield pair


@pytest.fixture
def server() -> Iterator[Ends]:
    with half(settings=Settings(ping_interval=None)) as pair:
        yield pair


@pytest.fixture(params=OURS, ids=lambda kind: kind.__name__[:-15])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quiet, "default_server", request.param)

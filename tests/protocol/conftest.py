"""Every test that takes one of these fixtures runs against both twins."""

from __future__ import annotations

import os
from types import ModuleType

import pytest

from .twins import TWINS

collect_ignore = ["test_speedups.py"] if os.environ.get("WEBSOCKETSERVER_PURE") else []


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> dict[str, ModuleType]:
    return TWINS[request.param]


@pytest.fixture
def masking(twin: dict[str, ModuleType]) -> ModuleType:
    return twin["masking"]


@pytest.fixture
def utf8(twin: dict[str, ModuleType]) -> ModuleType:
    return twin["utf8"]


@pytest.fixture
def frames(twin: dict[str, ModuleType]) -> ModuleType:
    return twin["frames"]


@pytest.fixture
def payload(twin: dict[str, ModuleType]) -> ModuleType:
    return twin["payload"]

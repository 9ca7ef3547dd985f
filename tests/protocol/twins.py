"""The twins side by side: Python, and C where it is built and not refused."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from unittest.mock import patch

PACKAGE = "websocketserver.protocol"
NAMES = ("masking", "utf8", "frames", "payload", "wholehead")  # in the order of their imports


def _load_pure() -> dict[str, ModuleType]:
    """Return the modules as WEBSOCKETSERVER_PURE=1 has them, beside those in use and unknown to anybody else."""
    modules = {}
    with patch.dict(os.environ, WEBSOCKETSERVER_PURE="1"), patch.dict(sys.modules):
        for name in NAMES:
            spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
            assert spec is not None and spec.loader is not None
            modules[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
    return modules


CHOSEN = {name: importlib.import_module(f"{PACKAGE}.{name}") for name in NAMES}
PYTHON = _load_pure()
HAVE_C = CHOSEN["frames"].FrameParser.__module__ == f"{PACKAGE}._speedups"
TWINS = {"python": PYTHON, "c": CHOSEN} if HAVE_C else {"python": PYTHON}

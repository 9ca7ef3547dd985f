"""The public names: all there, all documented, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import websocketserver

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(websocketserver.__path__, "websocketserver.")
    if not info.name.endswith(("__main__", "_speedups", "_express"))
)


def test_star_import_gives_exactly_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from websocketserver import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(websocketserver.__all__)


def test_the_list_is_without_duplicates_and_hides_nothing() -> None:
    names = websocketserver.__all__
    assert len(names) == len(set(names))
    public = {name for name, value in vars(websocketserver).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(websocketserver, name), ModuleType)}
    assert public - modules == set(names)


@pytest.mark.parametrize("name", websocketserver.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    thing = getattr(websocketserver, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert thing.__doc__ and thing.__doc__.strip()
        assert thing.__doc__ != getattr(thing.__base__, "__doc__", None) if inspect.isclass(thing) else True


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in REFERENCE.glob("*.rst"))
    documented = set(re.findall(r"^\.\. auto(?!module)\w+:: websocketserver\.(\w+)", text, re.MULTILINE))
    for module in re.findall(r"^\.\. automodule:: (\S+)", text, re.MULTILINE):
        documented.update(importlib.import_module(module).__all__)
    assert sorted(documented ^ set(websocketserver.__all__)) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_lists_what_it_offers(module: str) -> None:
    loaded = importlib.import_module(module)
    if module == "websocketserver.protocol":
        return
    assert loaded.__doc__
    for name in loaded.__all__:
        assert hasattr(loaded, name), f"{module}.__all__ names {name}, which is not there"


def test_the_public_names_come_from_modules_that_offer_them() -> None:
    offered = {name for module in MODULES for name in getattr(importlib.import_module(module), "__all__", ())}
    assert set(websocketserver.__all__) <= offered


def test_importing_the_package_starts_nothing_and_needs_nothing() -> None:
    """No thread, and no module but the standard library's and ours."""
    program = """
import sys, threading
import websocketserver
assert threading.active_count() == 1, threading.enumerate()
ours = {name for name in sys.modules if name.partition(".")[0] == "websocketserver"}
foreign = {n.partition(".")[0] for n in sys.modules} - set(sys.stdlib_module_names) - {"websocketserver", "__main__"}
print(" ".join(sorted(name for name in foreign if not name.startswith("_"))))
"""
    root = str(Path(websocketserver.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=root, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")

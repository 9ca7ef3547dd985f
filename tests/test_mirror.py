"""Every source file has its test file, of the same name and in the same place, and the other way round.

Where there is much to be tested it has a folder of test files instead.
"""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "websocketserver"

UNTESTED = {
    "__init__.py",  # names only: test_exports.py
    "__main__.py",  # one line: test_cli.py runs it
    "protocol/__init__.py",  # a docstring
}
WITHOUT_SOURCE = {
    "test_layers.py",
    "test_mirror.py",
    "test_exports.py",
    "test_kit.py",  # of support.py
    "test_faults.py",  # of faults.py, and two peers against each other
    "test_fuzz.py",  # of fuzz/
    "test_soak.py",  # of soak.py
    "test_security.py",  # of a page of the documentation, and of SECURITY.md
    "test_exit.py",  # of all, with processes
    "test_fork.py",  # of keepalive.py and ending.py, with processes
    "test_restart.py",  # of listening.py and ending.py, with processes
    "test_examples.py",
    "test_private_extension.py",  # of an example
    "test_docs.py",
    "test_blocking_calls.py",  # of every one on every path
    "test_requirements.py",  # of what SECURITY.md promises, on the wire
    "test_interruption.py",  # of every blocking call
    "test_memory.py",  # of all limits together
    "test_websocket_node.py",  # of a page of the documentation
    "test_websocket_node_programs.py",  # of examples
}


def files(folder: Path, pattern: str, *parts: str) -> set[Path]:
    return {path.relative_to(folder) for part in ("", *parts) for path in (folder / part).glob(pattern)}


def has_folder(source: Path) -> bool:
    return any((TESTS / source.with_name(source.stem.lstrip("_"))).glob("test_*.py"))


def test_every_source_file_has_its_tests_and_every_test_its_source() -> None:
    sources = files(PACKAGE, "*.py", "protocol") | files(PACKAGE, "*.c", "protocol")
    sources = {path for path in sources if str(path) not in UNTESTED and not has_folder(path)}
    expected = {path.with_name(f"test_{path.stem.lstrip('_')}.py") for path in sources}
    tests = {path for path in files(TESTS, "test_*.py", "protocol") if str(path) not in WITHOUT_SOURCE}
    assert sorted(map(str, expected - tests)) == [], "test files that are missing"
    assert sorted(map(str, tests - expected)) == [], "test files without a source"


def test_the_exceptions_exist() -> None:
    assert all((PACKAGE / name).is_file() for name in UNTESTED)
    assert all((TESTS / name).is_file() for name in WITHOUT_SOURCE)

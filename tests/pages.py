"""Pages of the documentation whose tables name tests: their rows, and which of the tests there are."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCS", "missing_tests", "named_files", "table_rows"]

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def table_rows(page: Path) -> list[list[str]]:
    """Return the cells of each row of the page's tables, those of their heads too."""
    found: list[list[str]] = []
    for line in page.read_text().splitlines():
        if line.startswith("   * - "):
            found.append([line[7:]])
        elif line.startswith("     - "):
            found[-1].append(line[7:])
        elif line.startswith("       ") and found:
            found[-1][-1] += " " + line.strip()
    return found


def named_files(cell: str) -> list[tuple[str, list[str]]]:
    """Return the files that a cell names, and what it names in each: tests, or classes of tests."""
    named = re.findall(r"``([\w/]+\.py)``:? ?((?:``\w+``(?:, )?)*)", cell)
    return [(file, re.findall(r"``(\w+)``", names)) for file, names in named]


def missing_tests(cell: str) -> list[str]:
    """Return those that there are not."""
    missing = []
    for file, names in named_files(cell):
        path = TESTS / file
        source = path.read_text() if path.is_file() else ""
        missing += [f"{file} {name}" for name in names if not re.search(rf"(?:def|class) {name}\b", source)]
        missing += [] if source else [file]
    return missing

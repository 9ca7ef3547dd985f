"""The documentation names all that is public, and nothing that is not."""

from __future__ import annotations

import re
from pathlib import Path

import websocketserver

DOCS = Path(__file__).parent.parent / "docs"


def documented() -> set[str]:
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    return set(re.findall(r"^\.\. auto(?:class|exception|function|data):: websocketserver\.(\w+)", pages, re.MULTILINE))


def test_every_public_name_is_documented() -> None:
    assert documented() == set(websocketserver.__all__)


def test_every_page_is_in_a_table_of_contents() -> None:
    for folder in ("tutorial", "howto", "reference", "explanation"):
        index = (DOCS / folder / "index.rst").read_text()
        for page in (DOCS / folder).glob("*.rst"):
            assert page.stem == "index" or re.search(rf"^   {page.stem}$", index, re.MULTILINE), page

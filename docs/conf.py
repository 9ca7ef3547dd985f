"""Sphinx; built by ``sphinx-build -W docs docs/_build/html``, without the network."""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # autodoc reads the checkout, installed or not
os.environ["WEBSOCKETSERVER_PURE"] = "1"  # where there is a twin in C, the one in Python has the docstrings

_metadata = configparser.ConfigParser()
_metadata.read(ROOT / "setup.cfg")

project = "websocketserver"
author = "the websocketserver contributors"
copyright = f"2026, {author}"
release = version = _metadata["metadata"]["version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_title = f"websocketserver {version}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

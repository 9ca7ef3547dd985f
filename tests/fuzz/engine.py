"""One target under libFuzzer: ``python3 -m tests.fuzz.engine TARGET [libFuzzer's arguments]``. Never returns."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    with atheris.instrument_imports(include=["websocketserver"]):
        from .targets import TARGETS
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Fuzz what reads bytes from peers, guided by coverage (atheris, libFuzzer's engine for Python).

    python3 -m tests.fuzz                        all targets, 60 seconds together
    python3 -m tests.fuzz inflater --seconds 600
    python3 -m tests.fuzz --replay               only what is in the corpus; needs no atheris

Begins with tests/fuzz/corpus/TARGET; what it finds interesting is kept in .cache/fuzz/corpus/TARGET, and what it finds
wrong in .cache/fuzz/TARGET-crash-..., for ``TARGET --replay FILE``. Exits with 1 then.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CORPUS = Path(__file__).parent / "corpus"
KEPT = ROOT / ".cache" / "fuzz"
NAMES = ("parser", "messages", "text", "inflater", "request", "response", "values")
LONGEST = 4096  # bytes of an input
OVERHEAD = 300  # seconds more that a run may take to begin and to end


def fuzz(name: str, seconds: float) -> tuple[int, bool]:
    """Run one target; return how many inputs it was given, and whether all was well."""
    kept = KEPT / "corpus" / name
    kept.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.engine", name, kept, CORPUS / name),
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={KEPT / name}-",
        "-print_final_stats=1",
        "-timeout=10",
        "-rss_limit_mb=2048",
    ]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds + OVERHEAD
    )
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode or executed is None:
        print(done.stdout[-3000:], done.stderr[-6000:])
    return int(executed[1]) if executed else 0, done.returncode == 0 and executed is not None


def replay(name: str, files: Sequence[Path]) -> int:
    """Give the target what is in these files; raises what it finds."""
    from .targets import TARGETS

    for file in files:
        try:
            TARGETS[name](file.read_bytes())
        except BaseException:
            print(f"{name}: {file}")
            raise
    return len(files)


def corpus(name: str) -> list[Path]:
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument("--seconds", type=float, default=60, help="for all together")
    parser.add_argument("--replay", nargs="*", type=Path, metavar="FILE", help="these, or the corpus, and no more")
    arguments = parser.parse_args()
    names = arguments.targets or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if arguments.replay is not None:
        count = sum(replay(name, arguments.replay or corpus(name)) for name in names)
        print(f"{count} inputs replayed, all is well")
        return
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is missing: pip install -e '.[fuzz]' (CPython 3.11 to 3.13 on Linux)")
    total, bad = 0, []
    for name in names:
        count, well = fuzz(name, arguments.seconds / len(names))
        total += count
        if not well:
            bad.append(name)
        print(f"{name:10} {count:>12,} inputs  {'all well' if well else 'FOUND SOMETHING'}", flush=True)
    print(f"{total:,} inputs, {len(bad)} targets with findings (crashes, or differences between the twins)")
    if bad:
        raise SystemExit(f"see {KEPT}: {', '.join(bad)}")


if __name__ == "__main__":
    main()

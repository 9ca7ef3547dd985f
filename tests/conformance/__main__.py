"""Run Autobahn's cases against our server and our client, print the counts, fail on a shortfall.

    python -m tests.conformance               groups 1 to 10
    python -m tests.conformance --sample      and every group of 12 and 13 at three sizes, as in CI
    python -m tests.conformance --all         all 517
    python -m tests.conformance 6.4 12.1.3    these
    python -m tests.conformance --side server --pooling

The two programs under test are server.py and client.py beside this file.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from os.path import relpath
from pathlib import Path

from .autobahn import CACHE, Autobahn, Result, Stalled

BASIC = ["1", "2", "3", "4", "5", "6", "7", "9", "10"]  # there is no group 8
# Of the eighteen cases of each compression group, 1,000 messages each: 16 bytes, 4 KiB, and 32 KiB in frames of 256.
SIZES = ("1", "5", "13")
SAMPLE = [
    f"{group}.{part}.{size}" for group, parts in ((12, 5), (13, 7)) for part in range(1, parts + 1) for size in SIZES
]

COUNTED = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED"]
# A case that only informs passes with any answer; what is not in here is a shortfall.
PASSES = {"OK", "INFORMATIONAL"}


def select(cases: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the cases that a pattern names: "12.1" is 12.1.1 and 12.1.10, not 12.10.1."""
    chosen = [case for case in cases if any(f"{case}.".startswith(f"{pattern}.") for pattern in patterns)]
    for pattern in patterns:
        if not any(f"{case}.".startswith(f"{pattern}.") for case in chosen):
            raise SystemExit(f"Autobahn has no case {pattern}")
    return chosen


def count(results: Sequence[Result]) -> str:
    """Return the counts as a line; whatever is not one of the other four words is a failure."""
    counts = Counter(result.behavior if result.behavior in COUNTED else "FAILED" for result in results)
    return ", ".join(f"{counts[word]} {word.lower()}" for word in COUNTED)


def shortfalls(results: Sequence[Result]) -> list[Result]:
    """Return the results that are less than asked for, in behaviour or in the way the connection was closed."""
    return [result for result in results if not {result.behavior, result.behavior_close} <= PASSES]


@contextmanager
def _running_server(command: Sequence[str], log: Path) -> Iterator[int]:
    """Yield the port of the server under test, which it prints as its first line; what it logs goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line.strip().isdigit():
                raise Stalled(f"{' '.join(command)} printed no port but {line!r}; see {log}")
            yield int(line)
        finally:
            process.kill()


def run(side: str, autobahn: Autobahn, command: Sequence[str], cases: Sequence[str]) -> list[Result]:
    """Run cases against one side, group by group; a group that stalls fails, the others go on."""
    results: list[Result] = []
    for group, members in groupby(cases, lambda case: case.split(".")[0]):
        chosen, name, start = list(members), f"{side}/{group}", time.monotonic()
        try:
            if side == "server":
                with _running_server(command, autobahn.reports / side / f"server-{group}.log") as port:
                    got = autobahn.test_server(port, chosen, name)
            else:
                got = autobahn.test_client(command, chosen, name)
        except Stalled as error:
            print(f"{side} group {group}: {error}", flush=True)
            got = [Result(case, "STALLED", "STALLED", autobahn.reports / name / "wstest.log") for case in chosen]
        print(f"{side} group {group:>2}: {count(got)} in {time.monotonic() - start:.1f} s", flush=True)
        results += got
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description="Autobahn against our server and our client."
    )
    parser.add_argument("cases", nargs="*", help="groups or cases, such as 6 or 12.1.3; default: 1 to 10")
    parser.add_argument("--sample", action="store_true", help="1 to 10 and three sizes of each group of 12 and 13")
    parser.add_argument("--all", action="store_true", help="all cases")
    parser.add_argument("--side", choices=["server", "client"], help="only our server, or only our client")
    parser.add_argument("--pooling", action="store_true", help="the server is a PoolingWebSocketServer")
    parser.add_argument("--server", metavar="COMMAND", help="another server: prints its port, then serves")
    parser.add_argument("--client", metavar="COMMAND", help="another client: gets URL and number of cases")
    parser.add_argument("--reports", type=Path, default=CACHE.parent / "autobahn-reports", help="where reports go")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    autobahn = Autobahn(options.reports)
    everything = autobahn.cases()
    patterns = options.cases or (BASIC + SAMPLE if options.sample else BASIC)
    cases = everything if options.all else select(everything, patterns)
    server = [sys.executable, "-m", "tests.conformance.server", *["pooling"] * options.pooling]
    client = [sys.executable, "-m", "tests.conformance.client"]
    commands = {
        "server": shlex.split(options.server) if options.server else server,
        "client": shlex.split(options.client) if options.client else client,
    }
    failures = 0
    for side in [options.side] if options.side else ["server", "client"]:
        start = time.monotonic()
        results = run(side, autobahn, commands[side], cases)
        print(f"{side}, {len(results)} cases: {count(results)}; {time.monotonic() - start:.0f} s", flush=True)
        for result in shortfalls(results):
            failures += 1
            print(f"  {result.case}: {result.behavior}, closing {result.behavior_close} ({relpath(result.report)})")
    print(f"{failures} shortfalls" if failures else "Autobahn: all as it should be")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

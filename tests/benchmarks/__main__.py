"""Measure our servers and client beside their peers, in interleaved rounds, and write tables and pictures.

    python -m tests.benchmarks                                   everything, 5 rounds: about half an hour
    python -m tests.benchmarks --scenarios echo,rtt-32           these groups or scenarios
    python -m tests.benchmarks --only threaded,websockets,C      these, or all whose names begin so
    python -m tests.benchmarks --targets                         what the targets need, and whether they are reached
    python -m tests.benchmarks --beside old=../old-checkout      another version of the package, in the same rounds

Everything it needs, it fetches and builds into .cache/benchmarks. Loopback only; Linux only. Quote ratios of one run,
never absolute numbers of two.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .contenders import Contender, clients, servers
from .kit import CACHE, ROOT, Kit, machine
from .measure import Measurement, Options
from .processes import lift_limits
from .report import BASELINES, Report
from .results import Results, number
from .scenarios import GROUPS, Group, Scenario, choose
from .targets import TARGETS

RESULTS = CACHE / "results"
DOCS = ROOT / "docs" / "explanation" / "performance"


def main() -> int:
    options = _arguments()
    if options.list:
        _list()
        return 0
    if not sys.platform.startswith("linux"):
        raise SystemExit("benchmarks: Linux only (epoll, /proc)")
    lift_limits()
    kit = Kit(update=options.update)
    packages = {"": kit.package(ROOT)}
    for name, _, folder in (each.partition("=") for each in options.beside):
        packages[f" @{name}"] = kit.package(Path(folder))
    for name, why in kit.missing.items():
        _say(f"! without {name}: {why}")
    contenders = _wanted(servers(kit, packages) + clients(kit, packages), options)
    groups = _groups(options)
    settings = Options(options.rounds, options.seconds, pin=options.pin)
    baselines = {False: options.baseline or BASELINES[False], True: options.client_baseline or BASELINES[True]}
    kinds = {each.name: each.kind for each in contenders}
    facts = {**machine(), **kit.versions}
    report = Report(groups, Results(), kinds, facts, settings, baselines)
    try:
        _measure(kit, contenders, report)
        status = 0
    except KeyboardInterrupt:
        _say("\ninterrupted: what was measured so far")
        status = 130
    _finish(report, options)
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", default="", metavar="NAMES", help="groups, or parts of scenarios' names")
    parser.add_argument("--only", default="", metavar="NAMES", help="contenders, or the beginnings of their names")
    parser.add_argument("--targets", action="store_true", help="run what the targets need, and judge them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each sample (default: 1)")
    parser.add_argument(
        "--pin",
        choices=["same", "split", "none"],
        default="same",
        help="server and load on one core (the steadiest reading), on two, or wherever the system puts them",
    )
    parser.add_argument("--baseline", help=f"for the servers (default: {BASELINES[False]})")
    parser.add_argument("--client-baseline", help=f"for the clients (default: {BASELINES[True]})")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=FOLDER", help="another checkout")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"default: {RESULTS.relative_to(ROOT)}")
    parser.add_argument("--docs", action="store_true", help="show the results in docs/explanation/performance.rst")
    parser.add_argument("--update", action="store_true", help="fetch the newest peers")
    parser.add_argument("--list", action="store_true", help="show the scenarios")
    return parser.parse_args()


def _list() -> None:
    for group in GROUPS:
        print(f"{group.name}: {group.title}")
        for scenario in group.scenarios:
            print(f"    {scenario.name:22} {scenario.title}")


def _wanted(contenders: list[Contender], options: argparse.Namespace) -> list[Contender]:
    """Return those that were asked for: an exact name is that one, a beginning all that begin so."""
    wanted = [word for word in options.only.split(",") if word]
    if options.targets and not wanted:
        named = {target.contender for target in TARGETS} | {target.baseline for target in TARGETS}
        return [each for each in contenders if each.name in named or "@" in each.name]
    names = {each.name for each in contenders}
    return [
        each
        for each in contenders
        if not wanted or any(each.name == word or word not in names and each.name.startswith(word) for word in wanted)
    ]


def _groups(options: argparse.Namespace) -> list[Group]:
    patterns = [word for word in options.scenarios.split(",") if word]
    if options.targets and not patterns:
        patterns = sorted({target.scenario for target in TARGETS})
    groups = choose(patterns)
    if not groups:
        raise SystemExit("benchmarks: no such scenario; --list shows them")
    return groups


def _measure(kit: Kit, contenders: list[Contender], report: Report) -> None:
    scenarios = [scenario for group in report.groups for scenario in group.scenarios]
    for at, scenario in enumerate(scenarios, 1):
        progress = f"[{at}/{len(scenarios)}] {scenario.name}"
        entered = [each for each in contenders if _takes_part(each, scenario)]
        if entered:
            _measure_one(kit, scenario, entered, report, progress)


def _takes_part(contender: Contender, scenario: Scenario) -> bool:
    if scenario.client != (contender.role == "client"):
        return False
    return scenario.client or scenario.needs() <= contender.can


def _measure_one(kit: Kit, scenario: Scenario, contenders: list[Contender], report: Report, progress: str) -> None:
    rounds = min(report.options.rounds, scenario.rounds or report.options.rounds)
    with Measurement(kit, scenario, contenders, report.options) as measurement:
        for at in range(1, rounds + 1):
            for contender, sample in measurement.round():
                who = f"{progress} round {at}/{rounds}  {contender.name}"
                if sample is None:
                    _say(f"{who}: failed: {measurement.failures[contender.name]}")
                else:
                    _say(f"{who}: {number(sample['value'])} {scenario.unit}")
                    report.results.add(scenario.name, contender.name, sample)
        report.results.failures[scenario.name] = measurement.failures


def _finish(report: Report, options: argparse.Namespace) -> None:
    report.write(options.output, targets=options.targets)
    if options.docs:
        report.write_for_docs(DOCS, targets=options.targets)
    for group in report.measured():
        print(f"\n### {group.title}\n\n{report.table(group)}")
    if options.targets:
        print(f"\n### Targets\n\n{report.targets()}")
    _say(f"written to {options.output}")


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

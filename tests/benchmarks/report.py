"""What a run leaves: tables in Markdown or for the documentation, a picture for each group, the raw samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from .measure import Options
from .picture import Panel, draw
from .results import Results
from .scenarios import Group
from .tables import Table, cpu, markdown, rates, restructured, wire
from .targets import judge

__all__ = ["Report"]

BASELINES = {False: "websockets sync", True: "websockets.sync.client"}


@dataclass
class Report:
    groups: Sequence[Group]
    results: Results
    kinds: Mapping[str, str]  # of each contender: ours, peer, limit
    facts: Mapping[str, str]  # machine and versions
    options: Options
    baselines: Mapping[bool, str]  # for servers (False) and clients (True)

    def measured(self) -> list[Group]:
        """Return the groups with those scenarios in which anybody took part."""
        groups = (
            replace(group, scenarios=tuple(each for each in group.scenarios if self.results.contenders(each.name)))
            for group in self.groups
        )
        return [group for group in groups if group.scenarios]

    def write(self, folder: Path, *, targets: bool) -> None:
        """Write everything into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_pictures(folder)
        for group in self.measured():
            (folder / f"{group.name}.md").write_text(self.table(group))
        (folder / "results.md").write_text(self._markdown(targets))
        (folder / "samples.json").write_text(json.dumps(self._raw(), indent=1))

    def write_for_docs(self, folder: Path, *, targets: bool) -> None:
        """Write what docs/explanation/performance.rst includes."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_pictures(folder)
        (folder / "results.inc").write_text(self._restructured(targets))

    def _write_pictures(self, folder: Path) -> None:
        for group in self.measured():
            (folder / f"{group.name}.svg").write_text(self._picture(group))

    def table(self, group: Group) -> str:
        """Return a group's tables in Markdown."""
        return "\n".join(map(markdown, self._tables(group)))

    def targets(self) -> str:
        """Return the table of targets in Markdown."""
        return markdown(judge(self.results))

    def _tables(self, group: Group) -> list[Table]:
        baseline = self.baselines[group.scenarios[0].client]
        tables = (rates(group, self.results, baseline), cpu(group, self.results), wire(group, self.results))
        return [table for table in tables if table is not None]

    def _picture(self, group: Group) -> str:
        panels = []
        for scenario in group.scenarios:
            names = self.results.contenders(scenario.name)
            title = f"{scenario.title}: {scenario.unit}" + (" (less is better)" if scenario.low else "")
            panels.append(Panel(title, [(name, self.results.median(scenario.name, name)) for name in names]))
        return draw(group.title, group.note, panels, self.kinds)

    def _how(self) -> str:
        pinned = {
            "same": "server and load on one core",
            "split": "server on one core, load on another",
            "none": "not bound to cores",
        }[self.options.pin]
        return (
            f"{date.today():%d %B %Y}; medians of {self.options.rounds} interleaved rounds of "
            f"{self.options.seconds:g} s; {pinned}. In brackets the ratio to {self.baselines[False]}, "
            f"for clients to {self.baselines[True]}; CPU is that of the measured program."
        )

    def _markdown(self, targets: bool) -> str:
        parts = ["# Benchmarks\n", self._how() + "\n"]
        parts.append("".join(f"- {name}: {value}\n" for name, value in self.facts.items()))
        for group in self.measured():
            parts += [f"## {group.title}\n", f"{_sentence(group.note)}\n", self.table(group)]
            parts.append(f"![{group.title}]({group.name}.svg)\n")
            parts.append("".join(f"- left out: {line}\n" for line in self._failures(group)))
        if targets:
            parts += ["## Targets\n", self.targets()]
        return "\n".join(part for part in parts if part)

    def _restructured(self, targets: bool) -> str:
        parts = [".. Written by ``python -m tests.benchmarks``.\n", self._how() + "\n"]
        parts.append("".join(f"* {name}: {value}\n" for name, value in self.facts.items()))
        for group in self.measured():
            parts += [f"{group.title}\n{'~' * len(group.title)}\n", f"{_sentence(group.note)}\n"]
            parts.append(f".. image:: performance/{group.name}.svg\n   :alt: {group.title}\n")
            parts += map(restructured, self._tables(group))
        if targets:
            parts += ["Targets\n~~~~~~~\n", restructured(judge(self.results))]
        return "\n".join(parts)

    def _failures(self, group: Group) -> list[str]:
        return [
            f"{contender}, {scenario.title}: {why}"
            for scenario in group.scenarios
            for contender, why in self.results.failures.get(scenario.name, {}).items()
        ]

    def _raw(self) -> dict[str, object]:
        return {
            "date": str(date.today()),
            "facts": dict(self.facts),
            "options": asdict(self.options),
            "samples": self.results.samples,
            "failures": self.results.failures,
        }


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."

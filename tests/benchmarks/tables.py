"""Tables, in Markdown and in reStructuredText."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Results, number
from .scenarios import Group, Scenario

__all__ = ["Table", "cpu", "markdown", "rates", "restructured", "wire"]


Table = tuple[list[str], list[list[str]]]  # head, rows


def rates(group: Group, results: Results, baseline: str) -> Table:
    """Return the medians of a group, each with its ratio to the baseline."""
    head = ["", *(f"{scenario.title} ({scenario.unit})" for scenario in group.scenarios)]
    rows = []
    for contender in results.contenders(*(scenario.name for scenario in group.scenarios)):
        row = [contender]
        for scenario in group.scenarios:
            value = results.median(scenario.name, contender)
            ratio = results.ratio(scenario.name, contender, baseline)
            row.append(number(value) + (f" ({number(ratio)})" if ratio is not None else ""))
        rows.append(row)
    return head, rows


def cpu(group: Group, results: Results) -> Table | None:
    """Return the CPU time of the measured program, in microseconds a message; None where that says nothing."""
    scenarios = [each for each in group.scenarios if not each.low and each.unit != "share"]
    return _each("CPU µs each", "cpu_us", scenarios, results) if scenarios else None


def wire(group: Group, results: Results) -> Table | None:
    """Return the bytes a compressed message has on the wire; None where nothing is compressed."""
    scenarios = [each for each in group.scenarios if each.deflate]
    return _each("bytes on the wire each", "wire_each", scenarios, results) if scenarios else None


def _each(title: str, what: str, scenarios: Sequence[Scenario], results: Results) -> Table:
    head = [title, *(scenario.title for scenario in scenarios)]
    contenders = results.contenders(*(scenario.name for scenario in scenarios))
    return head, [
        [contender, *(number(results.median(scenario.name, contender, what)) for scenario in scenarios)]
        for contender in contenders
    ]


def markdown(table: Table) -> str:
    """Return a table whose columns but the first are numbers."""
    head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def restructured(table: Table) -> str:
    """Return the same for Sphinx."""
    head, rows = table
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'*' if at == 0 else ' '} - {cell}".rstrip() for at, cell in enumerate(row)]
    return "\n".join(lines) + "\n"

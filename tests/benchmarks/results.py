"""The samples of a run, and what is read from them: medians, and ratios to a baseline of the same rounds."""

from __future__ import annotations

from statistics import median
from typing import Any

__all__ = ["Results", "number"]


class Results:
    """Samples by scenario and contender."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.failures: dict[str, dict[str, str]] = {}

    def add(self, scenario: str, contender: str, sample: dict[str, Any]) -> None:
        self.samples.setdefault(scenario, {}).setdefault(contender, []).append(sample)

    def contenders(self, *scenarios: str) -> list[str]:
        """Return whoever has a sample or a failure in one of the scenarios, in the order of the run."""
        found: dict[str, None] = {}
        for scenario in scenarios:
            found.update(dict.fromkeys(self.samples.get(scenario, ())))
            found.update(dict.fromkeys(self.failures.get(scenario, ())))
        return list(found)

    def median(self, scenario: str, contender: str, what: str = "value") -> float | None:
        """Return the median over the rounds; None where there is no sample."""
        values = [
            sample[what] for sample in self.samples.get(scenario, {}).get(contender, ()) if sample.get(what) is not None
        ]
        return median(values) if values else None

    def spread(self, scenario: str, contender: str) -> float | None:
        """Return how far the samples lie apart, as a share of their median."""
        values = [sample["value"] for sample in self.samples.get(scenario, {}).get(contender, ())]
        return (max(values) - min(values)) / median(values) if values and median(values) else None

    def ratio(self, scenario: str, contender: str, baseline: str) -> float | None:
        """Return the ratio of the medians."""
        value, base = self.median(scenario, contender), self.median(scenario, baseline)
        return value / base if value is not None and base else None


def number(value: float | None) -> str:
    """Return a number with three digits that count, or a dash."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

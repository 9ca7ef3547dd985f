"""What a run writes, from samples that were made up: nothing is built, started or measured here."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from .measure import METRICS, Options
from .picture import Panel, draw
from .report import BASELINES, Report
from .results import Results, number
from .scenarios import GROUPS, choose
from .targets import TARGETS, Target, judge

SCENARIOS = [scenario for group in GROUPS for scenario in group.scenarios]


def results(**medians: float) -> Results:
    made = Results()
    for contender, value in medians.items():
        for sample in (value, value * 3, value / 3):
            made.add("echo-1", contender, {"value": sample, "cpu_us": 7.0})
    return made


def report(made: Results) -> Report:
    return Report(choose(["echo-1"]), made, {"a": "ours"}, {"Python": "3.11"}, Options(), {**BASELINES, False: "b"})


def test_ratio_is_that_of_the_medians():
    assert results(a=100, b=50).ratio("echo-1", "a", "b") == 2


@pytest.mark.parametrize("missing", ["echo-10", "nothing"])
def test_ratio_to_what_was_not_measured_is_none(missing):
    assert results(a=100).ratio(missing, "a", "b") is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.5, "0.50"), (12.34, "12.3"), (123.4, "123"), (1234567, "1,234,567")]
)
def test_numbers_have_the_digits_that_count(value, text):
    assert number(value) == text


def test_scenarios_are_named_once_and_their_units_can_be_read():
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {scenario.unit for scenario in SCENARIOS} <= METRICS.keys()


def test_targets_name_scenarios_that_exist():
    assert {target.scenario for target in TARGETS} <= {scenario.name for scenario in SCENARIOS}


def test_exact_name_chooses_one_scenario_and_a_part_all_that_have_it():
    assert [each.name for group in choose(["echo-1"]) for each in group.scenarios] == ["echo-1"]
    assert {"echo-1", "echo-1000", "echo-16k"} <= {each.name for group in choose(["cho-1"]) for each in group.scenarios}


def test_target_is_reached_by_its_ratio_or_its_bound():
    made = results(a=100, b=50)
    assert Target("a", "echo-1", "b", 2).reached(made) is True
    assert Target("a", "echo-1", "b", 2.1).reached(made) is False
    assert Target("a", "echo-1", None, most=99).reached(made) is False
    assert Target("c", "echo-1", "b", 1).reached(made) is None


def test_unmeasured_targets_say_so():
    _, rows = judge(Results())
    assert {row[-1] for row in rows} == {"not measured"}


def test_table_shows_value_ratio_and_cpu_time():
    table = report(results(a=100, b=50)).table(choose(["echo-1"])[0])
    assert "| a | 100 (2.00) |" in table
    assert "| a | 7.00 |" in table


def test_everything_is_written_and_the_picture_is_well_formed(tmp_path: Path):
    report(results(a=100, b=50)).write(tmp_path, targets=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"echo.svg", "echo.md", "results.md", "samples.json"}
    ElementTree.parse(tmp_path / "echo.svg")


def test_docs_get_the_picture_and_what_they_include(tmp_path: Path):
    report(results(a=100, b=50)).write_for_docs(tmp_path, targets=True)
    assert {path.name for path in tmp_path.iterdir()} == {"echo.svg", "results.inc"}
    assert "100 (2.00)" in (tmp_path / "results.inc").read_text()


def test_picture_has_a_bar_for_each_value_and_none_for_what_is_missing():
    drawn = draw("<Echo>", "a & b", [Panel("one", [("a", 2.0), ("b", 1.0), ("c", None)])], {"a": "ours"})
    bars = ElementTree.fromstring(drawn).findall("{*}rect")
    assert [bar.get("class") for bar in bars] == ["card", "ours", "peer"]
    assert float(bars[1].get("width", 0)) == 2 * float(bars[2].get("width", 0))

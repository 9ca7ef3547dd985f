"""The harness must not pass what Autobahn does not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import SAMPLE, count, select, shortfalls
from .autobahn import Result

CASES = ["1.1.1", "2.1", "2.10", "12.1.1", "12.1.10", "12.10.1"]


def result(behavior: str, behavior_close: str = "OK") -> Result:
    return Result("1.1.1", behavior, behavior_close, Path("report"))


def test_a_pattern_names_a_case_or_a_group() -> None:
    assert select(CASES, ["2.1"]) == ["2.1"]
    assert select(CASES, ["12.1.1", "2"]) == ["2.1", "2.10", "12.1.1"]
    assert select(CASES, ["12.1"]) == ["12.1.1", "12.1.10"]


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(SystemExit, match="no case 8"):
        select(CASES, ["1", "8"])


def test_the_sample_has_three_sizes_of_every_compression_group() -> None:
    groups = [name.rpartition(".")[0] for name in SAMPLE]
    assert len(groups) == 36
    assert set(groups) == {f"12.{n}" for n in range(1, 6)} | {f"13.{n}" for n in range(1, 8)}


@pytest.mark.parametrize("close", ["OK", "INFORMATIONAL"])
@pytest.mark.parametrize("behavior", ["OK", "INFORMATIONAL"])
def test_what_passes(behavior: str, close: str) -> None:
    assert shortfalls([result(behavior, close)]) == []


@pytest.mark.parametrize(
    "short",
    [result(word) for word in ("NON-STRICT", "UNIMPLEMENTED", "FAILED", "MISSING", "STALLED")]
    + [result("OK", word) for word in ("WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "FAILED", "MISSING")],
)
def test_what_is_a_shortfall(short: Result) -> None:
    assert shortfalls([result("OK"), short]) == [short]


def test_every_case_is_counted() -> None:
    results = [result(word) for word in ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED", "MISSING")]
    assert count(results) == "1 ok, 1 non-strict, 1 informational, 1 unimplemented, 2 failed"

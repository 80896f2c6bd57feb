"""When a bar is met, and how it is written down."""

from __future__ import annotations

import math

import pytest

from benchmarks.bars import Bar, Figure, broken_bar, median_figure, percentile
from benchmarks.operator.writes import densest


@pytest.mark.parametrize(
    ("figures", "met"),
    [
        pytest.param((Figure("time", 2.9, "s", 3),), True, id="below the target"),
        pytest.param((Figure("time", 3, "s", 3),), True, id="exactly the target"),
        pytest.param((Figure("time", 3.1, "s", 3),), False, id="above the target"),
        pytest.param((Figure("time", math.nan, "s", 3),), False, id="no number"),
        pytest.param((Figure("time", 99, "s"),), True, id="only reported"),
        pytest.param((Figure("a", 1, "s", 3), Figure("b", 4, "s", 3)), False, id="one of two is missed"),
    ],
)
def test_a_bar_is_met_when_every_figure_is_within_its_target(figures: tuple[Figure, ...], met: bool) -> None:
    assert Bar("C-0", "title", figures).met is met


def test_a_bar_that_could_not_be_measured_is_missed_and_says_why() -> None:
    bar = broken_bar("C-0", "title", TimeoutError("nobody came"))

    assert bar.as_json()["met"] is False
    assert bar.as_json()["value"] is None
    assert "nobody came" in str(bar)


def test_one_figure_is_written_flat_and_several_by_name() -> None:
    flat = Bar("C-0", "title", (median_figure("time", [1.0, 2.0, 4.0], "s", 3),)).as_json()
    named = Bar("C-0", "title", (Figure("p50", 1.0, "ms", 2), Figure("p99", 5.0, "ms", 4))).as_json()

    assert (flat["value"], flat["target"], flat["samples"]) == (2.0, 3, [1.0, 2.0, 4.0])
    assert named["value"] == {"p50": 1.0, "p99": 5.0}
    assert named["target"] == {"p50": 2, "p99": 4}
    assert named["met"] is False


def test_a_missed_figure_is_marked_in_the_line() -> None:
    line = str(Bar("C-0", "title", (Figure("p50", 1.0, "ms", 2), Figure("p99", 5.0, "ms", 4))))

    assert "MISSED" in line
    assert line.count("✗") == 1


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        pytest.param(50, 50, id="the median of a hundred"),
        pytest.param(99, 99, id="one of a hundred is above the 99th"),
        pytest.param(100, 100, id="the largest"),
        pytest.param(0, 1, id="the smallest"),
    ],
)
def test_percentiles_are_samples(percent: float, expected: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == expected


@pytest.mark.parametrize(
    ("times", "most"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([0.0, 10.0, 20.0], 1, id="exactly a window apart"),
        pytest.param([0.0, 9.9, 20.0], 2, id="two within a window"),
        pytest.param([5.0, 0.0, 6.0, 15.5, 15.6], 3, id="in any order, whichever window is fullest"),
    ],
)
def test_the_fullest_window_is_found(times: list[float], most: int) -> None:
    assert densest(times, 10.0) == most

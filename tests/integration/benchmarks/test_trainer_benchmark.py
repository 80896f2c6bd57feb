"""`python -m benchmarks.trainer --quick` measures for real and reports honestly. How fast, it does not say.

Here the bars that do not depend on how fast the machine is, and one that does; all of them take longer than a suite may.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BARS = ("A-5", "A-11")
TIMEOUT_SECONDS = 580

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS + 20)


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    """Everything is measured once."""
    # Not pytest's own folder: sockets stand in this one, and their paths are bounded.
    with tempfile.TemporaryDirectory(prefix="ftt-") as name:
        output = Path(name) / "trainer.json"
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.trainer", "--quick", "--only", *BARS, "--output", str(output)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": name},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
        yield json.loads(output.read_text())


def figures_of(bar: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each figure with value, target and direction, by name."""
    fields = {key: bar.get(key) for key in ("value", "target", "moreIsBetter")}
    if not isinstance(bar["value"], dict):
        return {"": fields}
    return {
        name: {key: each[name] if isinstance(each, dict) else each for key, each in fields.items()}
        for name in bar["value"]
    }


def test_every_bar_is_measured(report: dict[str, Any]) -> None:
    assert list(report["bars"]) == list(BARS)
    assert [bar["error"] for bar in report["bars"].values() if "error" in bar] == []
    assert report["run"]["isFull"] is False


@pytest.mark.parametrize("identifier", BARS)
def test_a_bar_is_called_met_exactly_where_every_figure_is_good_enough(
    report: dict[str, Any], identifier: str
) -> None:
    bar = report["bars"][identifier]

    def is_good(figure: dict[str, Any]) -> bool:
        if figure["target"] is None:
            return True
        value, target = figure["value"], figure["target"]
        return bool(value >= target if figure["moreIsBetter"] else value <= target)

    assert bar["met"] is all(is_good(figure) for figure in figures_of(bar).values())


def test_the_counted_bars_hold_in_small_numbers_too(report: dict[str, Any]) -> None:
    """They do not depend on how fast the machine is."""
    bars = report["bars"]

    assert bars["A-5"]["met"] is True
    assert bars["A-11"]["met"] is True

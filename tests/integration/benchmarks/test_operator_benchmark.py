"""`python -m benchmarks.operator --quick` measures every bar for real and reports honestly. How fast, it does not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BARS = ("C-1", "C-2", "C-3", "C-4", "C-5", "C-6", "C-7", "C-8", "C-9", "C-11")
TIMEOUT_SECONDS = 540


@dataclass(frozen=True)
class Run:
    """One quick run: what it printed, and what it wrote."""

    lines: list[str]
    report: dict[str, Any]
    folder: Path
    """Where everything that it started had its state."""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Everything is measured once."""
    # Not pytest's own folder: sockets stand in this one, and their paths are bounded.
    with tempfile.TemporaryDirectory(prefix="ftq-") as name:
        output = Path(name) / "operator.json"
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.operator", "--quick", "--output", str(output)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": name},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
        yield Run(ended.stdout.splitlines(), json.loads(output.read_text()), Path(name))


def figures_of(bar: dict[str, Any]) -> list[tuple[float, float | None, str, list[float]]]:
    """Value, target, unit and samples of each of a bar's figures."""
    if isinstance(bar["value"], dict):
        return [
            (bar["value"][name], bar["target"][name], bar["unit"][name], bar["samples"][name])
            for name in bar["value"]
        ]
    return [(bar["value"], bar["target"], bar["unit"], bar["samples"])]


def test_every_bar_is_reported_in_a_line_of_its_own(run: Run) -> None:
    assert list(run.report["bars"]) == list(BARS)
    assert sorted(line.split()[0] for line in run.lines if line.startswith("C-")) == sorted(BARS)


@pytest.mark.parametrize("identifier", BARS)
def test_a_bar_is_called_met_exactly_where_every_figure_is_within_its_target(
    run: Run, identifier: str
) -> None:
    bar = run.report["bars"][identifier]
    figures = figures_of(bar)

    assert "error" not in bar
    assert all(value is not None and unit for value, _, unit, _ in figures)
    assert bar["met"] is all(target is None or value <= target for value, target, _, _ in figures)


def test_the_counted_bars_hold_in_small_numbers_too(run: Run) -> None:
    """They do not depend on how fast the machine is."""
    bars = run.report["bars"]

    assert bars["C-4"]["value"]["writes for unchanged objects"] == 0
    assert bars["C-6"]["value"]["writes in a life"] <= 14
    assert bars["C-6"]["value"]["events per transition"] <= 1
    assert bars["C-11"]["value"] <= 16


def test_the_figures_come_from_real_requests(run: Run) -> None:
    bars = run.report["bars"]
    life, burst = bars["C-6"]["details"]["life"][0], bars["C-3"]["details"]

    assert life["create jobs"] == life["create configmaps"] == 3
    assert life["update finetunejobs/status"] >= 4
    assert burst["ours"][0]["requests"]["create jobs"] >= 25
    assert burst["naive"][0]["requests"]["create jobs"] >= 25
    assert "update finetunejobs/status" not in burst["naive"][0]["requests"]
    assert bars["C-11"]["details"]["newestAttempt"] >= 12


def test_a_quick_run_says_that_it_is_no_measure(run: Run) -> None:
    assert run.report["run"]["isFull"] is False
    assert any("figures mean nothing" in line for line in run.lines)


def test_machine_and_versions_are_named(run: Run) -> None:
    assert run.report["machine"]["cores"] >= 1
    assert {"python", "kopf", "kube-apiserver", "etcd"} <= set(run.report["versions"])


def test_nothing_is_left_running(run: Run) -> None:
    def words(process: Path) -> str:
        try:
            return (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return ""  # It has ended meanwhile.

    processes = Path("/proc").glob("[0-9]*")
    assert [each for each in processes if str(run.folder) in words(each)] == []
    assert [each.name for each in run.folder.iterdir()] == ["operator.json"]

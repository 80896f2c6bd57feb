"""`python -m benchmarks.data --quick` measures every bar for real and reports honestly. How fast, it does not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BARS = ("A-8", "D-1", "D-2")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything is measured once."""
    output = tmp_path_factory.mktemp("benchmark") / "data.json"
    path = f"{ROOT / '.tools/uv/bin'}:{os.environ['PATH']}"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", "--quick", "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    content: dict[str, Any] = json.loads(output.read_text())
    return content


@pytest.mark.parametrize("identifier", BARS)
def test_every_bar_is_measured(report: dict[str, Any], identifier: str) -> None:
    bar = report["bars"][identifier]
    assert "error" not in bar
    assert all(value is not None and value > 0 for value in bar["value"].values())


def test_ours_and_the_rival_make_the_same_tokens(report: dict[str, Any]) -> None:
    assert report["bars"]["A-8"]["details"]["tokens"] > 100_000


def test_a_quick_run_says_so(report: dict[str, Any]) -> None:
    assert report["run"]["isFull"] is False

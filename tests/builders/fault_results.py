"""Figures of the long fault loops, in one file: each loop puts its own bar in, and leaves the others as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.bars import Bar, Figure
from benchmarks.report import RESULTS

__all__ = ["Figure", "write_bar"]

PATH = RESULTS / "faults.json"


def write_bar(identifier: str, title: str, figures: Sequence[Figure]) -> Bar:
    """Put a bar into benchmarks/results/faults.json, and print it."""
    bar = Bar(identifier, title, tuple(figures))
    content = json.loads(PATH.read_text()) if PATH.exists() else {}
    bars = {**content.get("bars", {}), identifier: bar.as_json()}
    PATH.write_text(
        json.dumps({**content, "bars": dict(sorted(bars.items()))}, indent=2, ensure_ascii=False) + "\n"
    )
    print(bar)
    return bar

"""Writes what the long fault tests counted: each adds its bars to `benchmarks/results/faults.json`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bars import Bar, Figure, JsonObject
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import RESULTS

FAULTS = RESULTS / "faults.json"
_PACKAGES = ("boto3", "s3transfer", "finetune-operator")


def count_bar(identifier: str, title: str, *, good: int, of: int, unit: str, problems: list[str]) -> Bar:
    """A bar that every single case must meet; `problems` says what became of the others."""
    figure = Figure(unit, good, unit, of, more_is_better=True)
    return Bar(identifier, title, (figure,), {"problems": problems} if problems else {})


def record(*bars: Bar, path: Path = FAULTS, **run: object) -> None:
    """Put bars into the file and leave those of other tests as they are. `run`: how they were measured."""
    content: JsonObject = json.loads(path.read_text()) if path.exists() else {}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    content["bars"] = {
        **content.get("bars", {}),
        **{bar.identifier: {**bar.as_json(), "run": {"finished": finished, **run}} for bar in bars},
    }
    content["bars"] = dict(sorted(content["bars"].items()))
    content["machine"], content["versions"] = describe_machine(), describe_versions(_PACKAGES)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    for bar in bars:
        print(bar, flush=True)

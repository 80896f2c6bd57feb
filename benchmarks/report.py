"""Writes a result file, `benchmarks/results/<name>.json`, in the one format that all benchmarks share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar

RESULTS = Path(__file__).parent / "results"


def write_report(
    path: Path, bars: Sequence[Bar], machine: Mapping[str, Any], versions: Mapping[str, str], **run: object
) -> None:
    """Write the file. `run` says how it was measured: how long it took, whether it was a full run, and so on."""
    content = {
        "bars": {bar.identifier: bar.as_json() for bar in bars},
        "machine": dict(machine),
        "versions": dict(versions),
        "run": {"finished": datetime.now(UTC).isoformat(timespec="seconds"), **run},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

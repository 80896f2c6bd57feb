"""B-1: what a checkpoint costs training: the time it stands still, and how much slower it is while files are uploaded.

A real run of the train stage, all weights trained, on a store whose link takes 50 MB/s. The log says when states were
copied and committed, and when each step ended.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.checkpoint.servers import limited, object_store, open_store
from devcluster import S3Server
from finetune_api.names import Stage
from tests.builders.training_runs import BUCKET, TrainingRun

LINK_BYTES_PER_SECOND = 50_000_000
_STALL_FACTOR, _STALL_MARGIN_MS = 1.5, 50.0
_LEAST_SPEED = 0.95
_LINE = re.compile(r"^(\S+ \S+) \w+ (.*)$", re.MULTILINE)
_STEP = re.compile(r"step (\d+)/\d+ ")
_COPIED = re.compile(r"copied the state after step (\d+) in (\d+) ms")
_COMMITTED = re.compile(r"checkpoint of step (\d+) committed")
_SHAPE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
}
# The first step allocates, and the first copy waits for its pages.
_WARM_STEPS = 2


@dataclass(frozen=True)
class RunPlan:
    """A run: its model, and how often it saves."""

    layers: int
    steps: int
    every_steps: int


@dataclass(frozen=True)
class Timeline:
    """What a log tells: seconds of steps without a save before them, beside an upload and not; stalls in ms."""

    uploading: list[float]
    idle: list[float]
    stalls_ms: list[float]
    saves_seconds: list[float]


def measure_stall(plan: RunPlan, folder: Path) -> Sequence[Bar]:
    """Train, read the log, and copy as many bytes in memory for comparison."""
    with (
        object_store(folder, is_remote=True) as server,
        limited(server.endpoint, LINK_BYTES_PER_SECOND) as url,
    ):
        run = _make_run(plan, folder, server)
        run.run(Stage.PREPARE)
        run.endpoint = url
        log = run.run(Stage.TRAIN).log
        state_bytes = _state_bytes(run)
    timeline = read_timeline(log)
    copies_ms = _copies_ms(state_bytes)
    copy_ms = statistics.median(copies_ms)
    idle, uploading = (statistics.median(each) for each in (timeline.idle, timeline.uploading))
    return [
        Bar(
            "B-1",
            f"a checkpoint of {state_bytes / 2**20:.0f} MiB, uploaded at 50 MB/s beside training",
            (
                median_figure(
                    "stall",
                    timeline.stalls_ms,
                    "ms",
                    round(_STALL_FACTOR * copy_ms + _STALL_MARGIN_MS, 1),
                ),
                median_figure("copying as many bytes", copies_ms, "ms"),
                Figure("speed while uploading", idle / uploading, "x", _LEAST_SPEED, more_is_better=True),
                median_figure("step, idle", timeline.idle, "s"),
                median_figure("step, uploading", timeline.uploading, "s"),
                median_figure("save", timeline.saves_seconds, "s"),
            ),
            {"steps": plan.steps, "everySteps": plan.every_steps},
        )
    ]


def read_timeline(log: str) -> Timeline:
    """Sort the steps of a log: those before which nothing was copied, by whether an upload was under way throughout."""
    timeline = Timeline([], [], [], [])
    step_ended: datetime | None = None
    copied_at: datetime | None = None
    committed_since_step = copied_since_step = False
    for text, message in _LINE.findall(log):
        at = _time_of(text)
        if at is None:
            continue
        if (match := _COPIED.match(message)) is not None:
            copied_since_step = True
            copied_at = at
            if int(match[1]) > 2 * _WARM_STEPS:
                timeline.stalls_ms.append(float(match[2]))
        elif _COMMITTED.match(message) and copied_at is not None:
            timeline.saves_seconds.append((at - copied_at).total_seconds())
            copied_at, committed_since_step = None, True
        elif (match := _STEP.match(message)) is not None:
            if step_ended is not None and int(match[1]) > _WARM_STEPS and not copied_since_step:
                seconds = (at - step_ended).total_seconds()
                if copied_at is not None:
                    timeline.uploading.append(seconds)
                elif not committed_since_step:
                    timeline.idle.append(seconds)
            step_ended, committed_since_step, copied_since_step = at, False, False
    return timeline


def _time_of(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f")
    except ValueError:
        return None


def _make_run(plan: RunPlan, folder: Path, server: S3Server) -> TrainingRun:
    from tests.builders.tiny_models import write_model

    base = write_model(folder / "base", "qwen2", num_hidden_layers=plan.layers, **_SHAPE)
    store, root = open_store(server), f"s3://{BUCKET}"
    store.upload_files({f"{root}/base/{path.name}": path for path in base.iterdir()})
    store.write_bytes(f"{root}/rows.jsonl", "".join(json.dumps(_row(n)) + "\n" for n in range(64)).encode())
    settings = {
        "method": {"type": "Full"},
        "training__maxSteps": plan.steps,
        "training__globalBatchSize": 2,
        "training__microBatchTokens": 512,
        "training__loggingSteps": 1,
        "checkpoints__everySteps": plan.every_steps,
        "checkpoints__keepLast": 1,
    }
    return TrainingRun(server, folder / "run", "b1b1b1b1-0000", settings)


def _row(number: int) -> dict[str, list[dict[str, str]]]:
    """All of one length, so that all steps cost the same."""
    answer = f"{number:02d}{'a' * 68}"
    return {"messages": [{"role": "user", "content": "q" * 20}, {"role": "assistant", "content": answer}]}


def _state_bytes(run: TrainingRun) -> int:
    from finetune_trainer.checkpoints import find_newest_checkpoint

    manifest = find_newest_checkpoint(run.store, run.job(Stage.TRAIN).layout).manifest
    assert manifest is not None, "the run has saved"
    return manifest.size_bytes


def _copies_ms(size_bytes: int) -> list[float]:
    """Copy as many bytes, as torch does it with as many threads, in a process of its own."""
    code = (
        "import sys, time, torch\n"
        "size = int(sys.argv[1]) // 4\n"
        "source, target = torch.ones(size), torch.zeros(size)\n"
        "for _ in range(7):\n"
        "    began = time.perf_counter(); target.copy_(source); print(1000 * (time.perf_counter() - began))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(size_bytes)], check=True, capture_output=True, text=True
    ).stdout
    return [float(line) for line in printed.split()][2:]

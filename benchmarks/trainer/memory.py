"""A-7: the memory of a step beyond what the loaded model holds, with a large vocabulary and a large micro-batch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Figure
from benchmarks.trainer.processes import TIGHT_MEMORY, train
from benchmarks.trainer.workload import (
    LARGE_VOCABULARY,
    Method,
    Workload,
    write_base_model,
    write_workload_rows,
)

FULL_LOGITS_SHARE = 0.5
TRL_SHARE = 1.05
LARGEST_LOSS_DIFFERENCE = 1e-5
_KINDS = ("ours", "hf", "trl")
METHODS: tuple[Method, ...] = ("Full", "LoRA")
_ROW_TOKENS, _ROWS = 128, 32


def measure_memory(
    folder: Path,
    rounds: int,
    *,
    methods: Sequence[Method] = METHODS,
    vocabulary: int = LARGE_VOCABULARY,
    rows: int = _ROWS,
) -> Bar:
    """Two steps of one micro-batch: the first warms up, the second is watched.

    All recompute activations, which is TRL's default; otherwise activations would hide what the logits cost.
    """
    workload = Workload(
        model=write_base_model(folder / "large-model", vocabulary),
        rows=write_workload_rows(folder / "rows-memory.arrow", [_ROW_TOKENS] * rows, 1.0),
        global_batch_size=rows,
        device_batch_size=rows,
        micro_batch_tokens=rows * _ROW_TOKENS,
        steps=2,
        skipped_steps=1,
        gradient_checkpointing=True,
    )
    figures, details = list[Figure](), dict[str, Any]()
    for method in methods:
        runs = _run_in_turns(replace(workload, method=method), folder / "workload.json", rounds)
        figures += compare_memory(method, runs)
        details[method] = {
            kind: {
                "stepMiB": [round(_step_mib(run)) for run in each],
                "restingMiB": round(each[0]["restingMiB"]),
                "loss": each[0]["losses"][0],
            }
            for kind, each in runs.items()
        }
    title = f"memory of a step, {rows * _ROW_TOKENS:,} tokens, vocabulary {vocabulary:,}"
    return Bar("A-7", title, tuple(figures), details)


def compare_memory(method: str, runs: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Ours as a share of the rivals', and how far the first losses are apart. Pure."""
    mib = {kind: statistics.median(map(_step_mib, each)) for kind, each in runs.items()}
    losses = {kind: float(each[0]["losses"][0]) for kind, each in runs.items()}
    return [
        Figure(f"{method}: of full logits'", mib["ours"] / mib["hf"], "x", FULL_LOGITS_SHARE),
        Figure(f"{method}: of TRL's", mib["ours"] / mib["trl"], "x", TRL_SHARE),
        Figure(
            f"{method}: loss apart",
            max(abs(losses["ours"] - losses[kind]) for kind in ("hf", "trl")),
            "",
            LARGEST_LOSS_DIFFERENCE,
        ),
        Figure(f"{method}: ours", mib["ours"], "MiB"),
    ]


def _run_in_turns(workload: Workload, file: Path, rounds: int) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for _ in range(rounds):
        for kind in _KINDS:
            runs[kind].append(
                train(kind, workload, file, "--memory-after-step", "1", environment=TIGHT_MEMORY)
            )
    return runs


def _step_mib(run: dict[str, Any]) -> float:
    return float(run["peakMiB"]) - float(run["restingMiB"])

"""A-5 and A-11: packed rows give what rows computed one by one give, and training ends where Trainer's ends."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.bars import Bar, Figure
from benchmarks.trainer.processes import OURS, run_module, train
from benchmarks.trainer.workload import Workload, draw_lengths, write_workload_rows

LARGEST_LOSS_DIFFERENCE = 1e-5
# 1 - cosine.
LARGEST_ANGLE = 1e-5
LARGEST_FINAL_DIFFERENCE = 0.01
# The end of a run is the mean of its last losses: a single step's depends on its rows.
_LAST_STEPS = 10
_SMALL_BATCH = 8


def measure_equality(base: Workload, folder: Path) -> Bar:
    """A-5: the worst of train() and eval(), with and without recomputed activations."""
    rows = write_workload_rows(folder / "rows-compared.arrow", draw_lengths(32), 0.5)
    workload = replace(base, rows=rows, precision="fp32")
    modes = run_module(OURS, "compare", "--workload", str(workload.save(folder / "workload.json")))
    return Bar(
        "A-5",
        "packed rows against transformers' own forward on one row at a time",
        (
            Figure("loss apart", max(_each(modes, "lossDifference")), "", LARGEST_LOSS_DIFFERENCE),
            Figure(
                "gradient apart, 1 - cosine",
                1 - min(_each(modes, "gradientCosine")),
                "",
                LARGEST_ANGLE,
            ),
            Figure("seen of other documents", max(_each(modes, "leak")), "", 0.0),
        ),
        modes,
    )


def measure_convergence(base: Workload, folder: Path, steps: int) -> Bar:
    """A-11: the same rows in the same order, as many steps."""
    rows = write_workload_rows(
        folder / "rows-converging.arrow", draw_lengths(_SMALL_BATCH * steps // 2, seed=1), 0.5
    )
    workload = replace(
        base,
        rows=rows,
        precision="fp32",
        steps=steps,
        skipped_steps=1,
        global_batch_size=_SMALL_BATCH,
        device_batch_size=_SMALL_BATCH,
    )
    losses = {
        kind: train(kind, workload, folder / "workload.json")["losses"] for kind in ("ours", "hf_ordered")
    }
    ours, theirs = (final_loss(each) for each in losses.values())
    apart = [abs(one - other) / other for one, other in zip(*losses.values(), strict=True)]
    return Bar(
        "A-11",
        f"final loss after {steps} steps against transformers.Trainer's",
        (
            Figure("apart", abs(ours - theirs) / theirs, "of it", LARGEST_FINAL_DIFFERENCE),
            Figure("ours", ours, ""),
            Figure("transformers.Trainer", theirs, ""),
        ),
        {
            "firstLoss": losses["ours"][0],
            "farthestApartOfAnyStep": max(apart),
            "losses": {kind: each[:: max(1, steps // 20)] for kind, each in losses.items()},
        },
    )


def final_loss(losses: Sequence[float]) -> float:
    """Mean of the last steps."""
    return statistics.fmean(losses[-_LAST_STEPS:])


def _each(modes: Mapping[str, Mapping[str, float]], name: str) -> list[float]:
    return [mode[name] for mode in modes.values()]

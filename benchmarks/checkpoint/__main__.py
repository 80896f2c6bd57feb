"""`make bench-checkpoint`: measures saving and storage, prints a line for each bar, writes results/checkpoint.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import Bar
from benchmarks.checkpoint.stall import RunPlan, measure_stall
from benchmarks.checkpoint.transfers import TransferPlan, measure_transfers
from benchmarks.runner import Benchmark

PACKAGES = ("torch", "boto3", "s3transfer", "awscrt", "safetensors", "finetune-operator")


@dataclass(frozen=True)
class Scale:
    """How long the run is, and how much is moved."""

    run: RunPlan
    transfers: TransferPlan


FULL = Scale(
    # 88 million parameters with two moments each: 1 GiB.
    RunPlan(layers=12, steps=80, every_steps=25),
    TransferPlan(total_mib=2048, counts=(1, 16, 500), rounds=3),
)
QUICK = Scale(RunPlan(layers=1, steps=16, every_steps=5), TransferPlan(total_mib=64, counts=(1, 4), rounds=1))


def measure_saving(scale: Scale, folder: Path) -> Sequence[Bar]:
    """B-1: beside training."""
    return measure_stall(scale.run, folder)


def measure_moving(scale: Scale, folder: Path) -> Sequence[Bar]:
    """B-2, B-3, B-4: files alone."""
    return measure_transfers(scale.transfers, folder)


BENCHMARK = Benchmark(
    "checkpoint", __doc__, PACKAGES, {"B-1": measure_saving, "B-2": measure_moving}, full=FULL, quick=QUICK
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.run(sys.argv[1:]))

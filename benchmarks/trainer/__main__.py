"""`make bench-trainer`: ours against the rivals, a line for each bar, all of it in benchmarks/results/trainer.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bars import Bar
from benchmarks.runner import Benchmark
from benchmarks.trainer.correctness import measure_convergence, measure_equality
from benchmarks.trainer.memory import METHODS, measure_memory
from benchmarks.trainer.startup import measure_startup
from benchmarks.trainer.throughput import WANTED, Wanted, measure_equal_rows, measure_throughput
from benchmarks.trainer.workload import (
    LARGE_VOCABULARY,
    SMALL_VOCABULARY,
    Method,
    Precision,
    Workload,
    write_base_model,
)

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "finetune-operator")


@dataclass(frozen=True)
class Scale:
    """Numbers of rounds, rows and steps, and which variants are measured."""

    rounds: int
    steps: int
    skipped_steps: int
    global_batch_size: int
    converging_steps: int
    memory_rows: int
    memory_vocabulary: int
    precisions: tuple[Precision, ...]
    wanted_speeds: tuple[Wanted, ...]
    memory_methods: tuple[Method, ...]
    with_llama_factory: bool


FULL = Scale(
    rounds=3,
    steps=12,
    skipped_steps=3,
    global_batch_size=32,
    converging_steps=200,
    memory_rows=32,
    memory_vocabulary=LARGE_VOCABULARY,
    precisions=("fp32", "bf16"),
    wanted_speeds=WANTED,
    memory_methods=METHODS,
    with_llama_factory=True,
)
QUICK = Scale(
    rounds=1,
    steps=2,
    skipped_steps=1,
    global_batch_size=8,
    converging_steps=4,
    memory_rows=4,
    memory_vocabulary=SMALL_VOCABULARY,
    precisions=("fp32",),
    wanted_speeds=WANTED[:1],
    memory_methods=("LoRA",),
    # Some gigabytes to install.
    with_llama_factory=False,
)


def build_workload(scale: Scale, folder: Path) -> Workload:
    """The settings that the measurements begin with; each writes rows of its own."""
    return Workload(
        model=write_base_model(folder / "model"),
        rows=folder / "rows.arrow",
        global_batch_size=scale.global_batch_size,
        steps=scale.steps,
        skipped_steps=scale.skipped_steps,
    )


def _throughput(scale: Scale, folder: Path) -> Sequence[Bar]:
    workload = build_workload(scale, folder)
    return measure_throughput(
        workload,
        folder,
        scale.rounds,
        precisions=scale.precisions,
        wanted_speeds=scale.wanted_speeds,
        with_llama_factory=scale.with_llama_factory,
    )


def _equal_rows(scale: Scale, folder: Path) -> Sequence[Bar]:
    workload = build_workload(scale, folder)
    return [measure_equal_rows(workload, folder, scale.rounds, precisions=scale.precisions)]


def _equality(scale: Scale, folder: Path) -> Sequence[Bar]:
    return [measure_equality(build_workload(scale, folder), folder)]


def _startup(scale: Scale, folder: Path) -> Sequence[Bar]:
    return [measure_startup(folder, scale.rounds)]


def _memory(scale: Scale, folder: Path) -> Sequence[Bar]:
    return [
        measure_memory(
            folder,
            scale.rounds,
            methods=scale.memory_methods,
            vocabulary=scale.memory_vocabulary,
            rows=scale.memory_rows,
        )
    ]


def _convergence(scale: Scale, folder: Path) -> Sequence[Bar]:
    return [measure_convergence(build_workload(scale, folder), folder, scale.converging_steps)]


BENCHMARK = Benchmark(
    "trainer",
    __doc__,
    PACKAGES,
    {
        "A-1": _throughput,  # and A-4, in the same runs
        "A-2": _equal_rows,
        "A-5": _equality,
        "A-6": _startup,
        "A-7": _memory,
        "A-11": _convergence,
    },
    full=FULL,
    quick=QUICK,
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.run(sys.argv[1:]))

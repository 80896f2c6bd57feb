"""Runs one measurement in a process of its own: nothing that one of them warms up helps the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.trainer.workload import Workload

ROOT = Path(__file__).parents[2]
OURS, RIVAL = "benchmarks.trainer.ours", "benchmarks.trainer.rival"
_LLAMA_FACTORY = "benchmarks.trainer.llama_factory"
# What a run may take at most, on a machine where others compute too.
_TIMEOUT_SECONDS = 1800
# Every larger block is given back as soon as it is freed, so that what a process holds is what it uses.
# Source: mallopt(3); without it glibc raises the threshold up to 32 MiB.
TIGHT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def run_module(
    module: str,
    *arguments: str,
    threads: int = 2,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> dict[str, Any]:
    """Run `python -m module` and return the JSON object that it prints last. Raises RuntimeError with what it said."""
    ended = subprocess.run(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **child_environment(threads), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
    )
    if ended.returncode:
        raise RuntimeError(
            f"{module} {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr[-3000:]}"
        )
    printed: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return printed


def train(kind: str, workload: Workload, file: Path, *more: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Train a workload by ours or by a rival."""
    arguments = ("--workload", str(workload.save(file)), *more)
    if kind == "ours":
        return run_module(OURS, "train", *arguments, threads=workload.threads, **options)
    return run_module(RIVAL, "--kind", kind, *arguments, threads=workload.threads, **options)


def train_by_llama_factory(workload: Workload, file: Path, python: Path) -> dict[str, Any]:
    """Train a workload by LLaMA-Factory, in its own environment."""
    arguments = (_LLAMA_FACTORY, str(workload.save(file)))
    return run_module(*arguments, threads=workload.threads, python=str(python))


def child_environment(threads: int) -> dict[str, str]:
    """Number of threads, and neither hub nor kernels from elsewhere."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "ACCELERATE_USE_CPU": "true",
    }

"""Decides how many optimizer steps a run has: pure arithmetic over rows and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.spec import Training

DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class StepPlan:
    """The length of a run in optimizer steps, and why it is that."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    explanation: str


def decide_steps(rows: int, training: Training) -> StepPlan:
    """Decide the number of steps; each epoch takes every row once, its last batch holding what is left over.

    A fraction of an epoch is rounded up to whole steps.
    """
    steps_per_epoch = math.ceil(rows / training.global_batch_size)
    one_epoch = (
        f"{rows} rows / globalBatchSize {training.global_batch_size} = {steps_per_epoch} steps an epoch"
    )
    if training.max_steps is not None:
        total = training.max_steps
        why = f"maxSteps {total}, that is {total / steps_per_epoch:.2f} epochs ({one_epoch})"
    else:
        epochs = training.epochs if training.epochs is not None else DEFAULT_EPOCHS
        total = _ceil(epochs * steps_per_epoch)
        why = f"{one_epoch}, x {epochs:g} epochs"
    return StepPlan(total, steps_per_epoch, _warmup_steps(total, training), why)


def _warmup_steps(total: int, training: Training) -> int:
    if training.warmup_steps is not None:
        return min(training.warmup_steps, total)
    return min(_ceil((training.warmup_fraction or 0.0) * total), total)


def _ceil(value: float) -> int:
    # 0.1 x 30 is 3.0000000000000004: what is a whole number but for rounding must not become one more.
    return math.ceil(round(value, 9))

"""Decides how many optimizer steps a run has, and which of them do what: pure arithmetic over rows and settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.spec import AdaLoRA, Scheduler, Training
from finetune_trainer.errors import UserError

DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class StepPlan:
    """The length of a run in optimizer steps, and why it is that."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    explanation: str
    decay_steps: int
    """The last steps, in which WarmupStableDecay brings the learning rate down to 0; 0 for other schedulers."""
    evaluation_steps: int
    """Steps between two evaluations on the validation rows, where there are any."""


@dataclass(frozen=True)
class RankSteps:
    """When AdaLoRA's ranks begin to shrink, and how many steps are left when they are settled."""

    initial: int
    final: int


def decide_steps(rows: int, training: Training) -> StepPlan:
    """Decide the number of steps; each epoch takes every row once, its last batch holding what is left over.

    A fraction of an epoch is rounded up to whole steps. Raises UserError where warm-up and decay overlap.
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
    warmup, decay = _warmup_steps(total, training), _decay_steps(total, training)
    _refuse_overlap(total, warmup, decay, training)
    evaluation = min(training.evaluation_steps or steps_per_epoch, total)
    return StepPlan(total, steps_per_epoch, warmup, why, decay, evaluation)


def decide_rank_steps(total: int, ada_lora: AdaLoRA) -> RankSteps:
    """Decide when AdaLoRA's ranks shrink. Raises UserError where no change of the ranks falls between.

    They change at each step between the two that is a multiple of the interval, and for the last time where the final
    steps begin. Source: peft, tuners/adalora/layer.py, RankAllocator.
    """
    steps = RankSteps(_ceil(ada_lora.initial_fraction * total), _ceil(ada_lora.final_fraction * total))
    interval, last = ada_lora.interval_steps, total - steps.final
    if (last - 1) // interval <= steps.initial // interval:
        raise UserError(
            f"The run has {total} steps: ranks begin to shrink after {steps.initial} (method.adaLora.initialFraction "
            f"{ada_lora.initial_fraction:g}), are settled for the last {steps.final} (finalFraction "
            f"{ada_lora.final_fraction:g}), and between them is no step at which they change (intervalSteps "
            f"{interval}). Lower one of the three, or raise training.epochs or training.maxSteps."
        )
    return steps


def _refuse_overlap(total: int, warmup: int, decay: int, training: Training) -> None:
    if warmup + decay > total:
        field = "warmupSteps" if training.warmup_steps is not None else "warmupFraction"
        raise UserError(
            f"training.{field} warms up for {warmup} steps and training.decayFraction {training.decay_fraction:g} "
            f"decays for {decay}, but the run has {total} steps. Lower one of them, or raise training.epochs or "
            "training.maxSteps."
        )


def _warmup_steps(total: int, training: Training) -> int:
    if training.warmup_steps is not None:
        return min(training.warmup_steps, total)
    return min(_ceil((training.warmup_fraction or 0.0) * total), total)


def _decay_steps(total: int, training: Training) -> int:
    if training.scheduler is not Scheduler.WARMUP_STABLE_DECAY:
        return 0
    return min(_ceil(training.decay_fraction * total), total)


def _ceil(value: float) -> int:
    # 0.1 x 30 is 3.0000000000000004: what is a whole number but for rounding must not become one more.
    return math.ceil(round(value, 9))

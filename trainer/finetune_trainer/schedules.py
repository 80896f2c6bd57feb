"""The learning rate as a function of the step: which of transformers' schedules, with what settings. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune_api.spec import Scheduler

_NAMES = {
    Scheduler.COSINE: "cosine",
    Scheduler.LINEAR: "linear",
    Scheduler.CONSTANT: "constant_with_warmup",
    Scheduler.WARMUP_STABLE_DECAY: "warmup_stable_decay",
}


@dataclass(frozen=True)
class SchedulePlan:
    """A schedule as transformers' TrainingArguments name it."""

    name: str
    warmup_steps: int
    settings: dict[str, object] = field(default_factory=dict)


def plan_schedule(scheduler: Scheduler, *, warmup_steps: int, decay_steps: int) -> SchedulePlan:
    """Name the schedule: it rises in `warmup_steps`; WarmupStableDecay falls to 0 in the last `decay_steps`, linearly.

    Source of the last: Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4.
    """
    settings: dict[str, object] = {}
    if scheduler is Scheduler.WARMUP_STABLE_DECAY:
        settings = {"num_decay_steps": decay_steps, "decay_type": "linear", "min_lr_ratio": 0.0}
    return SchedulePlan(_NAMES[scheduler], warmup_steps, settings)

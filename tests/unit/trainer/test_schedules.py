"""The learning rate of each step of real training, against the schedules' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.spec import Scheduler
from finetune_trainer.schedules import SchedulePlan, plan_schedule
from tests.unit.trainer.small_trainer import SmallTrainer, stopping_after

PEAK, TOTAL, WARMUP, DECAY = 1e-2, 10, 3, 4
Curve = Callable[[int], float]


def after_warmup(curve: Curve) -> Curve:
    """Step 0 has the rate 0; from then on it rises by the same amount each step."""
    return lambda step: step / WARMUP if step < WARMUP else curve(step)


CURVES: dict[str, Curve] = {
    "Cosine": after_warmup(lambda step: (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP))) / 2),
    "Linear": after_warmup(lambda step: (TOTAL - step) / (TOTAL - WARMUP)),
    "Constant": after_warmup(lambda _: 1.0),
    # It would be 0 in the step after the last, as Cosine and Linear are.
    "WarmupStableDecay": after_warmup(lambda step: min(1.0, (TOTAL - step) / DECAY)),
}


def train(folder: Path, scheduler: str, *, stop_after: int = TOTAL, resumes: bool = False) -> list[float]:
    cell = SmallTrainer(
        folder,
        steps=TOTAL,
        warmup_steps=WARMUP,
        decay_steps=DECAY,
        micro_batch_tokens=512,
        scheduler=scheduler,
        learningRate=PEAK,
        signals=stopping_after(stop_after),
        checkpoint=folder / "checkpoint" if resumes else None,
    )
    rates = [figures.learning_rate for figures in cell.train()]
    cell.save(folder / "checkpoint")
    return rates


@pytest.mark.parametrize("scheduler", CURVES)
def test_rates_are_those_of_the_definition_also_after_a_restart(scheduler: str, tmp_path: Path) -> None:
    wanted = [PEAK * CURVES[scheduler](step) for step in range(TOTAL)]
    whole = train(tmp_path, scheduler)
    assert whole == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    begun = train(tmp_path, scheduler, stop_after=5)
    assert begun + train(tmp_path, scheduler, resumes=True) == whole


def test_every_schedule_has_a_curve() -> None:
    assert {each.value for each in Scheduler} == set(CURVES)


@pytest.mark.parametrize("scheduler", [Scheduler.COSINE, Scheduler.LINEAR, Scheduler.CONSTANT])
def test_only_the_schedule_that_decays_at_the_end_hears_of_it(scheduler: Scheduler) -> None:
    plan = plan_schedule(scheduler, warmup_steps=2, decay_steps=5)
    assert (plan.warmup_steps, plan.settings) == (2, {})


def test_stable_schedule_is_told_how_long_its_decay_is() -> None:
    assert plan_schedule(Scheduler.WARMUP_STABLE_DECAY, warmup_steps=2, decay_steps=5) == SchedulePlan(
        "warmup_stable_decay", 2, {"num_decay_steps": 5, "decay_type": "linear", "min_lr_ratio": 0.0}
    )

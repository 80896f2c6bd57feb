"""How many steps a run has."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import AdaLoRA, Training
from finetune_trainer.errors import UserError
from finetune_trainer.steps import RankSteps, decide_rank_steps, decide_steps

CASES: dict[str, tuple[int, dict[str, Any], tuple[int, int, int]]] = {
    "three epochs unless told otherwise": (160, {}, (30, 10, 0)),
    "the last batch of an epoch holds what is left over": (161, {}, (33, 11, 0)),
    "fewer rows than a batch": (3, {"epochs": 2}, (2, 1, 0)),
    "half an epoch": (160, {"epochs": 0.5}, (5, 10, 0)),
    "a fraction is rounded up to whole steps": (160, {"epochs": 0.25}, (3, 10, 0)),
    "a fraction is never rounded up for rounding's sake": (480, {"epochs": 0.1}, (3, 30, 0)),
    "a sliver of an epoch is one step": (160, {"epochs": 0.0001}, (1, 10, 0)),
    "maxSteps instead of epochs": (160, {"maxSteps": 7}, (7, 10, 0)),
    "warm-up in steps": (160, {"warmupSteps": 4}, (30, 10, 4)),
    "warm-up as a fraction of all steps": (160, {"warmupFraction": 0.1}, (30, 10, 3)),
    "a warm-up longer than the run ends with it": (160, {"epochs": 1, "warmupSteps": 99}, (10, 10, 10)),
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    rows, settings, expected = CASES[case]
    plan = decide_steps(rows, Training.model_validate(settings))
    assert (plan.total_steps, plan.steps_per_epoch, plan.warmup_steps) == expected


def test_the_plan_is_explained() -> None:
    assert decide_steps(161, Training()).explanation == (
        "161 rows / globalBatchSize 16 = 11 steps an epoch, x 3 epochs"
    )


DECAYS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "other schedulers have no decay of their own": ({"scheduler": "Cosine"}, (0, 0)),
    "a tenth of the run unless told otherwise": ({"scheduler": "WarmupStableDecay"}, (0, 3)),
    "a fraction is rounded up": ({"scheduler": "WarmupStableDecay", "decayFraction": 0.21}, (0, 7)),
    "decay may begin where warm-up ends": (
        {"scheduler": "WarmupStableDecay", "warmupSteps": 24, "decayFraction": 0.2},
        (24, 6),
    ),
}


@pytest.mark.parametrize("case", DECAYS)
def test_decay(case: str) -> None:
    settings, expected = DECAYS[case]
    plan = decide_steps(160, Training.model_validate(settings))
    assert (plan.warmup_steps, plan.decay_steps) == expected


def test_warm_up_and_decay_that_overlap_are_refused() -> None:
    settings = {"scheduler": "WarmupStableDecay", "warmupSteps": 25, "decayFraction": 0.2}
    with pytest.raises(UserError) as refusal:
        decide_steps(160, Training.model_validate(settings))
    assert refusal.value.message == (
        "training.warmupSteps warms up for 25 steps and training.decayFraction 0.2 decays for 6, but the run has 30 "
        "steps. Lower one of them, or raise training.epochs or training.maxSteps."
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, 10, id="once an epoch"),
        pytest.param({"evaluationSteps": 4}, 4, id="as the job says"),
        pytest.param({"maxSteps": 7}, 7, id="at the end of a run shorter than an epoch"),
        pytest.param({"maxSteps": 7, "evaluationSteps": 9}, 7, id="at the end of a run shorter than that"),
    ],
)
def test_evaluations(settings: dict[str, Any], expected: int) -> None:
    assert decide_steps(160, Training.model_validate(settings)).evaluation_steps == expected


def test_ranks_shrink_between_the_first_and_the_last_steps() -> None:
    assert decide_rank_steps(100, AdaLoRA()) == RankSteps(initial=10, final=30)


RANKS_TOO_SHORT: dict[str, tuple[int, dict[str, Any]]] = {
    "a run shorter than an interval": (10, {}),
    "nothing between first and last steps": (2, {"intervalSteps": 1}),
    "the only change falls on the first steps": (30, {"initialFraction": 0.4, "finalFraction": 0.4}),
    "the only change falls where ranks are settled": (20, {"initialFraction": 0.1, "finalFraction": 0.5}),
}


@pytest.mark.parametrize("case", RANKS_TOO_SHORT)
def test_run_too_short_for_ranks_to_change_is_refused(case: str) -> None:
    total, settings = RANKS_TOO_SHORT[case]
    with pytest.raises(UserError, match=r"between them is no step at which they change \(intervalSteps"):
        decide_rank_steps(total, AdaLoRA.model_validate(settings))


def test_refusal_names_the_settings_and_the_steps() -> None:
    with pytest.raises(UserError) as refusal:
        decide_rank_steps(12, AdaLoRA())
    assert refusal.value.message == (
        "The run has 12 steps: ranks begin to shrink after 2 (method.adaLora.initialFraction 0.1), are settled for the "
        "last 4 (finalFraction 0.3), and between them is no step at which they change (intervalSteps 10). Lower one "
        "of the three, or raise training.epochs or training.maxSteps."
    )


@pytest.mark.parametrize(("total", "interval"), [(20, 10), (5, 1), (100, 10), (37, 7)])
def test_schedule_that_is_let_through_is_one_that_peft_follows(total: int, interval: int) -> None:
    """peft's allocator reaches a step at which ranks change before they are settled."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora.layer import RankAllocator

    steps = decide_rank_steps(total, AdaLoRA(interval_steps=interval))
    config = AdaLoraConfig(total_step=total, tinit=steps.initial, tfinal=steps.final, deltaT=interval)
    allocator = RankAllocator.__new__(RankAllocator)
    allocator.peft_config, allocator.init_bgt, allocator.target_bgt = config, 12, 8
    assert any(allocator.budget_schedule(step)[1] for step in range(1, total - steps.final))

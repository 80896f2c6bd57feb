"""How many steps a run has."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.spec import Training
from finetune_trainer.steps import decide_steps

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

"""How long the pods of an attempt may save when they are told to go."""

from __future__ import annotations

import pytest

from finetune_api.names import Stage
from finetune_api.spec import Checkpoints
from finetune_operator.policies.grace import decide_grace_seconds

AUTO = "Auto"
CASES: dict[str, tuple[Stage, str | int, float | None, int]] = {
    "Auto before anything was measured": (Stage.TRAIN, AUTO, None, 120),
    "Auto is twice what was measured, and 15 s": (Stage.TRAIN, AUTO, 100.0, 215),
    "a fraction of a second is rounded up": (Stage.TRAIN, AUTO, 100.1, 216),
    "a quick stop gets no less than an unmeasured one": (Stage.TRAIN, AUTO, 2.0, 120),
    "a stop of no time was measured too": (Stage.TRAIN, AUTO, 0.0, 120),
    "just above the least": (Stage.TRAIN, AUTO, 52.6, 121),
    "just below the most": (Stage.TRAIN, AUTO, 1792.0, 3599),
    "nobody waits for more than an hour": (Stage.TRAIN, AUTO, 1e9, 3600),
    "what the user says is taken as it is": (Stage.TRAIN, 600, None, 600),
    "also where less was measured": (Stage.TRAIN, 600, 2.0, 600),
    "also where more was measured": (Stage.TRAIN, 30, 500.0, 30),
    "also where it is more than Auto ever gives": (Stage.TRAIN, 86_400, None, 86_400),
    "prepare has nothing to save": (Stage.PREPARE, AUTO, 500.0, 30),
    "export has nothing to save": (Stage.EXPORT, 600, 500.0, 30),
    "cleanup has nothing to save": (Stage.CLEANUP, 600, None, 30),
}


@pytest.mark.parametrize(("stage", "asked", "measured", "seconds"), CASES.values(), ids=CASES.keys())
def test_the_grace_period(stage: Stage, asked: str | int, measured: float | None, seconds: int) -> None:
    checkpoints = Checkpoints.model_validate({"gracePeriodSeconds": asked})

    assert decide_grace_seconds(stage, checkpoints, measured) == seconds

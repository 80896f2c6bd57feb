"""After which steps a checkpoint is taken."""

from __future__ import annotations

import pytest

from finetune_api.spec import Checkpoints
from finetune_trainer.checkpoint_schedule import CheckpointSchedule
from finetune_trainer.training_run import preempted

EVERY_FOUR = Checkpoints(every_steps=4)
EVERY_TEN_MINUTES = Checkpoints(every_minutes=10)
NOT_WHEN_TOLD = Checkpoints(every_steps=4, on_preemption=False)


@pytest.mark.parametrize(
    ("settings", "step", "waited_long", "told_to_go", "expected"),
    [
        pytest.param(EVERY_FOUR, 8, False, False, True, id="a fourth step"),
        pytest.param(EVERY_FOUR, 9, False, False, False, id="a step between"),
        pytest.param(EVERY_FOUR, 9, False, True, True, id="told to go"),
        pytest.param(NOT_WHEN_TOLD, 9, False, True, False, id="told to go, and nothing is to be saved then"),
        pytest.param(NOT_WHEN_TOLD, 8, False, True, True, id="told to go after a fourth step"),
        pytest.param(EVERY_TEN_MINUTES, 100, False, False, False, id="minutes are counted, not steps"),
        pytest.param(EVERY_TEN_MINUTES, 7, True, False, True, id="the minutes have passed"),
    ],
)
def test_a_checkpoint_is_due(
    settings: Checkpoints, step: int, waited_long: bool, told_to_go: bool, expected: bool
) -> None:
    schedule = CheckpointSchedule(settings)
    assert schedule.is_due(step, waited_long=waited_long, told_to_go=told_to_go) is expected


def test_minutes_count_from_the_last_checkpoint() -> None:
    now = 0.0
    schedule = CheckpointSchedule(EVERY_TEN_MINUTES, clock=lambda: now)
    now = 599.0
    assert not schedule.has_waited_long()
    now = 600.0
    assert schedule.has_waited_long()
    schedule.note_saved()
    now = 1199.0
    assert not schedule.has_waited_long()


def test_without_minutes_nothing_is_waited_for() -> None:
    assert not CheckpointSchedule(EVERY_FOUR, clock=lambda: 1e9).has_waited_long()


def test_who_is_told_to_go_says_what_is_saved() -> None:
    assert "after step 9 of 30, which is saved" in preempted(9, 30, EVERY_FOUR).message
    assert "because checkpoints.onPreemption is false" in preempted(9, 30, NOT_WHEN_TOLD).message

"""After which steps a checkpoint is taken."""

from __future__ import annotations

import pytest

from finetune_api.spec import Checkpoints
from finetune_trainer.checkpoint_schedule import CheckpointSchedule, StepEnd
from finetune_trainer.training_run import preempted

EVERY_FOUR = Checkpoints(every_steps=4)
EVERY_TEN_MINUTES = Checkpoints(every_minutes=10)
NOT_WHEN_TOLD = Checkpoints(every_steps=4, on_preemption=False)


@pytest.mark.parametrize(
    ("settings", "end", "expected"),
    [
        pytest.param(EVERY_FOUR, StepEnd(8), True, id="a fourth step"),
        pytest.param(EVERY_FOUR, StepEnd(9), False, id="a step between"),
        pytest.param(EVERY_FOUR, StepEnd(9, is_last=True), True, id="the last step"),
        pytest.param(EVERY_FOUR, StepEnd(9, told_to_go=True), True, id="told to go"),
        pytest.param(
            NOT_WHEN_TOLD,
            StepEnd(9, told_to_go=True),
            False,
            id="told to go, and nothing is to be saved then",
        ),
        pytest.param(NOT_WHEN_TOLD, StepEnd(8, told_to_go=True), True, id="told to go after a fourth step"),
        pytest.param(
            NOT_WHEN_TOLD, StepEnd(9, is_last=True, told_to_go=True), True, id="told to go at the very end"
        ),
        pytest.param(EVERY_TEN_MINUTES, StepEnd(100), False, id="minutes are counted, not steps"),
        pytest.param(EVERY_TEN_MINUTES, StepEnd(7, waited_long=True), True, id="the minutes have passed"),
        pytest.param(EVERY_FOUR, StepEnd(9, waited_long=True), False, id="minutes that nobody asked for"),
        pytest.param(EVERY_FOUR, StepEnd(8, may_save=False), False, id="while one is on its way"),
        pytest.param(
            EVERY_TEN_MINUTES,
            StepEnd(7, waited_long=True, may_save=False),
            False,
            id="the minutes have passed while one is on its way",
        ),
        pytest.param(
            EVERY_FOUR,
            StepEnd(9, told_to_go=True, may_save=False),
            True,
            id="told to go while one is on its way",
        ),
        pytest.param(
            EVERY_FOUR,
            StepEnd(9, is_last=True, may_save=False),
            True,
            id="the last step while one is on its way",
        ),
    ],
)
def test_a_checkpoint_is_taken(settings: Checkpoints, end: StepEnd, expected: bool) -> None:
    assert CheckpointSchedule(settings).decide(end) is expected


@pytest.mark.parametrize("settings", [EVERY_FOUR, EVERY_TEN_MINUTES], ids=["steps", "minutes"])
def test_a_save_that_had_to_wait_is_made_up_for_once_as_soon_as_it_can_be(settings: Checkpoints) -> None:
    schedule = CheckpointSchedule(settings)
    assert not schedule.decide(StepEnd(8, waited_long=True, may_save=False))
    assert schedule.postponed_since == 8
    assert not schedule.decide(StepEnd(9, may_save=False))
    assert schedule.decide(StepEnd(10))
    schedule.note_saved()
    assert not schedule.decide(StepEnd(11))


def test_a_save_that_was_made_up_for_is_postponed_no_more() -> None:
    schedule = CheckpointSchedule(EVERY_FOUR)
    schedule.decide(StepEnd(8, may_save=False))
    schedule.note_saved()
    assert schedule.postponed_since is None


def test_how_long_a_save_has_waited_counts_from_the_first_step_it_was_due() -> None:
    schedule = CheckpointSchedule(EVERY_FOUR)
    for step in range(8, 20):
        assert not schedule.decide(StepEnd(step, may_save=False))
    assert schedule.postponed_since == 8


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

"""What a stop would take, and what reports say of saving: from steps, commits and the uploader's word."""

from __future__ import annotations

import pytest

from finetune_api.progress import CheckpointReport
from finetune_api.spec import Checkpoints
from finetune_trainer.checkpoint_schedule import CheckpointSchedule, StepEnd
from finetune_trainer.saving_outlook import SavingOutlook
from finetune_trainer.spool import UploadReport, UploadState

EVERY_FOUR = Checkpoints(every_steps=4)
STARTED = 1000.0


class Saving:
    """An outlook, and what it looks at."""

    def __init__(
        self,
        *,
        resumed_step: int | None = None,
        passed_over: tuple[str, ...] = (),
        grace: float | None = None,
    ) -> None:
        self.now = STARTED
        self.report = UploadReport()
        self.schedule = CheckpointSchedule(EVERY_FOUR, clock=lambda: self.now)
        self.outlook = SavingOutlook(
            EVERY_FOUR,
            self.schedule,
            lambda: self.report,
            resumed_from=None if resumed_step is None else committed(resumed_step, None),
            passed_over=passed_over,
            grace_seconds=grace,
            clock=lambda: self.now,
        )

    @property
    def reasons(self) -> list[str]:
        return [notice.reason for notice in self.outlook.notices()]


def committed(step: int, save_seconds: float | None) -> CheckpointReport:
    return CheckpointReport(
        step=step, uri=f"s3://bucket/step-{step}", time="2026-01-01T00:00:00Z", save_seconds=save_seconds
    )


@pytest.mark.parametrize(
    ("steps", "saves", "expected"),
    [
        pytest.param([], [], None, id="nothing has happened"),
        pytest.param([2.0], [], None, id="no save was seen"),
        pytest.param([2.0], [None], None, id="a commit whose duration nobody knows"),
        pytest.param([], [3.0], 3.0, id="no step was seen"),
        pytest.param([2.0, 9.0, 1.0], [3.0, 30.0, 4.0], 39.0, id="the longest of each"),
        pytest.param([50.0, *[1.0] * 20], [3.0], 4.0, id="a long step of long ago is forgotten"),
        pytest.param([1.0], [50.0, *[3.0] * 20], 4.0, id="a long save of long ago is forgotten"),
        pytest.param([50.0, *[1.0] * 19], [3.0], 53.0, id="one of lately is not"),
    ],
)
def test_what_a_stop_takes(steps: list[float], saves: list[float | None], expected: float | None) -> None:
    saving = Saving()
    for seconds in steps:
        saving.outlook.note_step(seconds)
    for number, taken in enumerate(saves):
        saving.outlook.note_checkpoint(committed(number, taken))
    assert saving.outlook.stop_seconds == expected


def test_an_outage_is_told_when_it_has_lasted_and_no_more_when_it_is_over() -> None:
    saving = Saving(resumed_step=40)
    saving.report = UploadReport(
        order=1, state=UploadState.WAITING, message="It is away.", waiting_since=STARTED
    )
    assert saving.reasons == []
    saving.now += 100
    (notice,) = saving.outlook.notices()
    assert "no checkpoint for 100 s" in notice.message
    assert "the newest saved step is 40" in notice.message
    assert "It is away." in notice.message
    saving.report = UploadReport(order=1, state=UploadState.IDLE)
    assert saving.reasons == []


def test_the_newest_commit_is_named() -> None:
    saving = Saving(resumed_step=40)
    saving.outlook.note_checkpoint(committed(44, 1.0))
    saving.report = UploadReport(order=2, state=UploadState.WAITING, waiting_since=STARTED - 60)
    (notice,) = saving.outlook.notices()
    assert "the newest saved step is 44" in notice.message


def test_a_save_that_waits_for_another_is_told_until_it_is_made_up_for() -> None:
    saving = Saving()
    assert not saving.schedule.decide(StepEnd(4, may_save=False))
    assert saving.reasons == ["SavesAreRarer"]
    assert saving.schedule.decide(StepEnd(5))
    saving.schedule.note_saved()
    assert saving.reasons == []


def test_a_grace_that_turns_out_too_short_is_told() -> None:
    saving = Saving(grace=30.0)
    saving.outlook.note_step(1.0)
    saving.outlook.note_checkpoint(committed(4, 10.0))
    assert saving.reasons == []
    saving.outlook.note_checkpoint(committed(8, 25.0))
    assert saving.reasons == ["GracePeriodTooShort"]


def test_what_was_passed_over_at_the_start_is_told() -> None:
    assert Saving(passed_over=("step 12 has no manifest",)).reasons == ["CheckpointPassedOver"]

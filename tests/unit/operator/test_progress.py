"""Reports folded into status, also those of trainers that are not ours."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.progress import ProgressReport
from finetune_api.status import FineTuneJobStatus, Progress
from finetune_operator.observation import ReceivedReport
from finetune_operator.progress import fold_report
from tests.unit.operator.builders import NOW, make_child, make_report

CHILD = make_child(Stage.TRAIN)


def plain_report(**trainer_status: Any) -> ReceivedReport:
    report = ProgressReport.model_validate({"trainerStatus": trainer_status})
    return ReceivedReport(CHILD.uid, report, NOW)


def test_a_plain_trainers_metrics_are_shown() -> None:
    known = FineTuneJobStatus(progress=Progress(step=3, total_steps=90))
    metrics = [{"name": "loss", "value": "1.25"}, {"name": "learning_rate", "value": "2e-4"}]

    progress = fold_report(
        known, plain_report(progressPercentage=40, estimatedRemainingSeconds=9, metrics=metrics)
    ).progress

    assert progress is not None
    assert (progress.percent, progress.loss, progress.learning_rate, progress.eta_seconds) == (
        40,
        1.25,
        2e-4,
        9,
    )
    assert (progress.step, progress.total_steps) == (3, 90)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "much", ""])
def test_what_is_no_finite_number_never_reaches_status(value: str) -> None:
    progress = fold_report(
        FineTuneJobStatus(), plain_report(metrics=[{"name": "loss", "value": value}])
    ).progress

    assert progress is not None
    assert progress.loss is None


def test_a_malformed_time_of_a_checkpoint_does_not_spoil_the_status() -> None:
    checkpoint = {"step": 10, "uri": "s3://c", "time": "yesterday"}

    status = fold_report(FineTuneJobStatus(), make_report(CHILD, 12, checkpoint=checkpoint))

    assert status.checkpoint is not None
    assert status.checkpoint.time == "2026-01-01T12:00:00Z"


def test_no_steps_in_all_means_no_percentage() -> None:
    progress = fold_report(FineTuneJobStatus(), make_report(CHILD, 0, totalSteps=0)).progress

    assert progress is not None
    assert progress.percent is None

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


def kubeflow_metrics(**figures: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in figures.items()]


def test_the_figures_of_transformers_kubeflow_callback_are_shown() -> None:
    figures = {
        "current_step": "40",
        "total_steps": "90",
        "current_epoch": "1.5",
        "loss": "0.5",
        "eval_loss": "0.75",
    }

    progress = fold_report(FineTuneJobStatus(), plain_report(metrics=kubeflow_metrics(**figures))).progress

    assert progress is not None
    assert (progress.step, progress.total_steps, progress.epoch) == (40, 90, 1.5)
    assert (progress.loss, progress.eval_loss) == (0.5, 0.75)


def test_what_a_report_leaves_out_stays_as_it_was() -> None:
    known = FineTuneJobStatus(progress=Progress(step=40, total_steps=90, loss=0.5))

    progress = fold_report(known, plain_report(metrics=kubeflow_metrics(train_loss="0.6"))).progress

    assert progress is not None
    assert (progress.step, progress.total_steps, progress.loss) == (40, 90, 0.5)


@pytest.mark.parametrize("value", ["1e300", "-1", "2.5", "nan", "9007199254740992"])
def test_a_step_that_status_could_not_hold_is_left_out(value: str) -> None:
    known = FineTuneJobStatus(progress=Progress(step=40, total_steps=90))

    progress = fold_report(known, plain_report(metrics=kubeflow_metrics(current_step=value))).progress

    assert progress is not None
    assert progress.step == 40

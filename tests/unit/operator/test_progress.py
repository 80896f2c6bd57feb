"""Reports folded into status, also those of trainers that are not ours."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.progress import ProgressReport
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus, Progress
from finetune_operator.observation import ReceivedReport
from finetune_operator.progress import fold_report
from tests.unit.operator.builders import (
    NOW,
    TRAINED_MESSAGE,
    job_in_training,
    make_child,
    make_ended_pod,
    make_report,
    status_after,
)

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


CHECKPOINT = {"step": 10, "uri": "s3://c/10", "time": "2026-01-01T11:59:00Z"}
MEASURED = {**CHECKPOINT, "sizeBytes": 2**30, "saveSeconds": 7.5}


def checkpoint_after(*reports: dict[str, Any]) -> dict[str, Any]:
    """What status says of the newest checkpoint after these reports."""
    status = FineTuneJobStatus()
    for training in reports:
        status = fold_report(status, make_report(CHILD, 12, **training))
    return status.checkpoint.model_dump(exclude_none=True) if status.checkpoint else {}


CHECKPOINTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "what was measured is shown": (
        [{"checkpoint": MEASURED, "stopSeconds": 30.5}],
        {**MEASURED, "stopSeconds": 30.5},
    ),
    "an image that measures nothing": ([{"checkpoint": CHECKPOINT}], CHECKPOINT),
    "a report without a checkpoint changes nothing": ([{"checkpoint": MEASURED}, {}], MEASURED),
    "an attempt that goes on from it knows no measurements, which stay": (
        [{"checkpoint": MEASURED, "stopSeconds": 30.5}, {"checkpoint": CHECKPOINT}],
        {**MEASURED, "stopSeconds": 30.5},
    ),
    "those of another checkpoint go": (
        [{"checkpoint": MEASURED}, {"checkpoint": {**CHECKPOINT, "uri": "s3://c/20", "step": 20}}],
        {**CHECKPOINT, "uri": "s3://c/20", "step": 20},
    ),
    "what a stop needs stays until it is measured anew": (
        [{"checkpoint": MEASURED, "stopSeconds": 30.5}, {"checkpoint": {**CHECKPOINT, "uri": "s3://c/20"}}],
        {**CHECKPOINT, "uri": "s3://c/20", "stopSeconds": 30.5},
    ),
    "a newer measurement counts, also a lower one": (
        [{"checkpoint": CHECKPOINT, "stopSeconds": 30.5}, {"stopSeconds": 0}],
        {**CHECKPOINT, "stopSeconds": 0},
    ),
    "without a checkpoint there is nothing to say it of": ([{"stopSeconds": 30.5}], {}),
}


@pytest.mark.parametrize(("reports", "shown"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_what_is_told_of_the_newest_checkpoint(reports: list[dict[str, Any]], shown: dict[str, Any]) -> None:
    assert checkpoint_after(*reports) == shown


def test_a_checkpoint_that_only_the_termination_message_tells_of_keeps_what_a_stop_needs() -> None:
    job, train = job_in_training()
    told = make_report(train, 12, checkpoint=MEASURED, stopSeconds=300)

    status = status_after(job, train, make_ended_pod(train, message=TRAINED_MESSAGE), told)

    assert status.checkpoint is not None
    assert (status.checkpoint.step, status.checkpoint.stop_seconds) == (90, 300)
    assert status.checkpoint.size_bytes is None


def test_the_loss_on_the_validation_rows_is_shown() -> None:
    progress = fold_report(FineTuneJobStatus(), make_report(CHILD, 12, evalLoss=0.75)).progress

    assert progress is not None
    assert progress.eval_loss == 0.75


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


def test_the_step_of_an_attempt_is_what_its_own_reports_say() -> None:
    running = Attempt(number=2, stage=Stage.TRAIN, job_uid=CHILD.uid, outcome=AttemptOutcome.RUNNING)
    status = FineTuneJobStatus(progress=Progress(step=40, total_steps=90), attempts=[running])

    begun = fold_report(status, plain_report(progressPercentage=40))
    further = fold_report(begun, plain_report(metrics=kubeflow_metrics(current_step="7")))
    silent = fold_report(further, plain_report(metrics=kubeflow_metrics(loss="0.6")))

    assert [each.attempts[-1].step for each in (begun, further, silent)] == [None, 7, 7]

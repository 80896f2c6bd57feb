"""How many finished steps an attempt lost: those that no committed checkpoint held when it ended."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.status import AttemptOutcome, FineTuneJobStatus
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import ReceivedReport
from tests.unit.operator.builders import (
    EXPORTED_MESSAGE,
    NOW,
    PREPARED_MESSAGE,
    TRAINED_MESSAGE,
    job_in_training,
    make_child,
    make_ended_pod,
    make_job,
    make_report,
    make_running_pod,
    status_after,
)


def checkpoint(step: int) -> dict[str, Any]:
    return {"step": step, "uri": f"s3://c/{step}", "time": "2026-01-01T11:59:30Z"}


def ended(reason: str, step: int | None = None, *, saved: int | None = None) -> dict[str, Any]:
    """A termination message."""
    trained = {} if saved is None else {"trained": {"step": saved, "checkpointUri": f"s3://c/{saved}"}}
    return {"reason": reason, "message": "It ended.", "step": step, **trained}


def report(step: int, *, saved: int | None = None) -> dict[str, Any]:
    """What the last report said."""
    return {"step": step, **({} if saved is None else {"checkpoint": checkpoint(saved)})}


Words = dict[str, Any] | None
SAVES: dict[str, Any] = {}
SAVES_NOT = {"checkpoints__onPreemption": False}
CASES: dict[str, tuple[dict[str, Any], Words, int, Words, int]] = {
    "killed after the last report": (SAVES, report(47, saved=40), 137, None, 7),
    "killed, and its message knows the step better": (SAVES, report(45, saved=40), 20, ended("S", 47), 7),
    "killed before the first checkpoint": (SAVES, report(30), 137, None, 30),
    "killed right after a checkpoint": (SAVES, report(40, saved=40), 137, None, 0),
    "killed before it had reported anything": (SAVES, None, 137, None, 0),
    "a message alone": (SAVES, None, 14, ended("NonFiniteLoss", 12), 12),
    "a message that is behind the checkpoint": (SAVES, report(50, saved=50), 20, ended("S", 49), 0),
    "told to go and saved, as its message says": (
        SAVES,
        report(47, saved=40),
        22,
        ended("P", 48, saved=48),
        0,
    ),
    "told to go and saved, and no word of the checkpoint": (
        SAVES,
        report(47, saved=40),
        22,
        ended("P", 48),
        0,
    ),
    "told to go and ended before it could save": (SAVES, report(47, saved=40), 22, ended("P"), 7),
    "told to go and gives the node back at once": (SAVES_NOT, report(47, saved=40), 22, ended("P", 48), 8),
}


@pytest.mark.parametrize(
    ("changes", "reported", "exit_code", "message", "lost"), CASES.values(), ids=CASES.keys()
)
def test_what_an_attempt_lost(
    changes: dict[str, Any], reported: Words, exit_code: int, message: Words, lost: int
) -> None:
    job, train = job_in_training(**changes)
    facts: list[ReceivedReport] = [make_report(train, **reported)] if reported else []

    status = status_after(job, train, make_ended_pod(train, exit_code, message=message), *facts)

    assert status.attempts[-1].outcome is AttemptOutcome.FAILED
    assert (status.attempts[-1].steps_lost, status.steps_lost) == (lost, lost)


def test_an_attempt_that_the_operator_stopped_counts_too() -> None:
    job, train = job_in_training()
    pod = make_running_pod(train)
    job = job.with_status(status_after(job, train, pod, make_report(train, 47, checkpoint=checkpoint(40))))
    job = make_job(suspend=True, generation=2).with_status(job.status)
    job = job.with_status(status_after(job, train, pod))

    status = status_after(job, make_ended_pod(train, 137), absent_jobs=frozenset({train.name}))

    assert status.attempts[-1].outcome is AttemptOutcome.STOPPED
    assert (status.attempts[-1].steps_lost, status.steps_lost) == (7, 7)


def test_a_job_that_is_gone_with_its_pods_lost_what_its_last_report_tells() -> None:
    job, train = job_in_training()
    told = make_report(train, 47, checkpoint=checkpoint(40))

    status = status_after(job, told, absent_jobs=frozenset({train.name}))

    assert (status.attempts[-1].reason, status.steps_lost) == ("Deleted", 7)


def test_while_it_runs_it_has_lost_nothing() -> None:
    job, train = job_in_training()

    status = status_after(job, train, make_running_pod(train), make_report(train, 47))

    assert (status.attempts[-1].steps_lost, status.steps_lost) == (None, 0)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        pytest.param(Stage.PREPARE, PREPARED_MESSAGE, id="prepare"),
        pytest.param(Stage.TRAIN, TRAINED_MESSAGE, id="training"),
        pytest.param(Stage.EXPORT, EXPORTED_MESSAGE, id="export"),
    ],
)
def test_what_succeeded_lost_nothing_and_says_nothing_of_it(stage: Stage, message: dict[str, Any]) -> None:
    child = make_child(stage)
    job = make_job(status=status_after(make_job(), child))

    status = status_after(job, child, make_ended_pod(child, message=message))

    assert (status.attempts[-1].steps_lost, status.steps_lost) == (None, 0)


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EXPORT])
def test_other_stages_have_no_steps_to_lose(stage: Stage) -> None:
    child = make_child(stage)
    job = make_job(status=status_after(make_job(), child))

    status = status_after(job, child, make_ended_pod(child, 137))

    assert (status.attempts[-1].steps_lost, status.steps_lost) == (None, 0)


def test_an_image_of_somebody_elses_loses_what_it_did_itself_and_not_an_earlier_attempts_steps() -> None:
    job, train = job_in_training()
    told = make_report(train, 30)
    job = job.with_status(status_after(job, train, make_ended_pod(train, 137), told))
    second = make_child(Stage.TRAIN, 2, age_seconds=0)
    begun = make_report(second, 0).report.model_copy(update={"finetune": None})

    status = status_after(job, second, make_ended_pod(second, 137), ReceivedReport(second.uid, begun, NOW))

    assert [attempt.steps_lost for attempt in status.attempts] == [None, 30, 0]


# --- the sum ------------------------------------------------------------------------------------------------------


def run_attempts(count: int) -> FineTuneJob:
    """Each attempt gets 10 steps beyond a checkpoint that lies 7 after its beginning, and is killed."""
    job, _ = job_in_training(failurePolicy__maxRestarts=1000)
    for number in range(1, count + 1):
        child, following = make_child(Stage.TRAIN, number), make_child(Stage.TRAIN, number + 1, age_seconds=0)
        told = make_report(child, 7 * number + 10, checkpoint=checkpoint(7 * number))
        job = job.with_status(status_after(job, child, make_ended_pod(child, 137), told, following))
    return job


def test_the_sum_outlives_the_capped_history() -> None:
    status = run_attempts(30).status

    assert sum(attempt.steps_lost or 0 for attempt in status.attempts) == 90
    assert status.steps_lost == 300


def test_an_attempt_counts_once_however_often_its_end_is_looked_at() -> None:
    job, train = job_in_training()
    facts = (train, make_ended_pod(train, 137), make_report(train, 47, checkpoint=checkpoint(40)))
    second = make_child(Stage.TRAIN, 2, age_seconds=0)

    killed_before_it_wrote = status_after(job, *facts)
    job = job.with_status(read_back(status_after(job, *facts)))
    killed_after_it_wrote = status_after(job, *facts)
    job = job.with_status(read_back(status_after(job, *facts, second)))
    later = status_after(job, *facts, second, make_running_pod(second))

    assert (killed_before_it_wrote.steps_lost, killed_after_it_wrote.steps_lost, later.steps_lost) == (
        7,
        7,
        7,
    )


def read_back(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """As an operator that was restarted finds it."""
    return FineTuneJobStatus.model_validate(status.model_dump(mode="json", exclude_none=True))


def test_two_attempts_that_ended_while_nobody_looked_count_both() -> None:
    job, train = job_in_training()
    second, third = make_child(Stage.TRAIN, 2), make_child(Stage.TRAIN, 3, age_seconds=0)
    first_end = make_ended_pod(train, 20, message=ended("StorageUnavailable", 12))
    second_end = make_ended_pod(second, 20, message=ended("StorageUnavailable", 30))

    status = status_after(job, train, first_end, second, second_end, third)

    assert [attempt.steps_lost for attempt in status.attempts] == [None, 12, 30, None]
    assert status.steps_lost == 42


def test_a_retry_keeps_the_sum() -> None:
    job, train = job_in_training(failurePolicy__maxRestarts=0)
    failed = status_after(job, train, make_ended_pod(train, 137), make_report(train, 47))

    retried = status_after(make_job(retry=1, generation=2).with_status(failed), make_child(Stage.TRAIN, 2))

    assert retried.steps_lost == 47

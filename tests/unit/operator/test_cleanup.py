"""Which children may go once their facts stand in status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.names import Stage
from finetune_api.status import Attempt, AttemptOutcome
from finetune_operator.observation import JobFacts, JobState
from finetune_operator.policies.cleanup import decide_deletions
from tests.unit.operator.builders import make_child, make_ended_pod, make_running_pod, observe

RUNNING, SUCCEEDED, FAILED = AttemptOutcome.RUNNING, AttemptOutcome.SUCCEEDED, AttemptOutcome.FAILED


def make_attempt(stage: Stage, number: int, outcome: AttemptOutcome) -> Attempt:
    return Attempt(stage=stage, number=number, outcome=outcome, job_uid=make_child(stage, number).uid)


@pytest.mark.parametrize(
    ("attempts", "deleted"),
    [
        pytest.param([], [], id="nothing is there"),
        pytest.param([(Stage.PREPARE, 1, RUNNING)], [], id="the only one runs"),
        pytest.param(
            [(Stage.PREPARE, 1, SUCCEEDED), (Stage.TRAIN, 1, RUNNING)],
            [],
            id="people read the stage before while the job goes on",
        ),
        pytest.param(
            [(Stage.TRAIN, 1, FAILED), (Stage.TRAIN, 2, RUNNING)], [], id="people read the last failed one"
        ),
        pytest.param(
            [(Stage.TRAIN, 1, FAILED), (Stage.TRAIN, 2, FAILED), (Stage.TRAIN, 3, RUNNING)],
            ["bot-train-1"],
            id="the failed one before is no longer read",
        ),
        pytest.param([(Stage.EXPORT, 1, SUCCEEDED)], [], id="the newest stays at the end"),
    ],
)
def test_children_go_when_nobody_needs_them(
    attempts: list[tuple[Stage, int, AttemptOutcome]], deleted: list[str]
) -> None:
    children = [replace(make_child(stage, number), state=JobState.FAILED) for stage, number, _ in attempts]

    chosen = decide_deletions([make_attempt(*each) for each in attempts], observe(*children))

    assert [child.name for child in chosen] == deleted


def test_at_the_end_only_the_newest_and_the_newest_failed_one_stay() -> None:
    attempts = [
        (Stage.PREPARE, 1, SUCCEEDED),
        (Stage.TRAIN, 1, FAILED),
        (Stage.TRAIN, 2, SUCCEEDED),
        (Stage.EXPORT, 1, SUCCEEDED),
    ]
    children = [replace(make_child(stage, number), state=JobState.FAILED) for stage, number, _ in attempts]

    chosen = decide_deletions(
        [make_attempt(*each) for each in attempts], observe(*children), is_finished=True
    )

    assert [child.name for child in chosen] == ["bot-prepare-1", "bot-train-2"]


def test_a_queued_job_of_a_stopped_attempt_must_not_be_admitted_later() -> None:
    child: JobFacts = make_child(Stage.TRAIN, suspended=True)
    stopped = [make_attempt(Stage.TRAIN, 1, AttemptOutcome.STOPPED)]

    assert decide_deletions(stopped, observe(child)) == (child,)


def test_a_child_that_status_does_not_know_yet_stays() -> None:
    unknown = make_child(Stage.TRAIN, 2)

    assert decide_deletions([make_attempt(Stage.TRAIN, 1, FAILED)], observe(unknown)) == ()


def test_one_that_is_being_deleted_is_not_deleted_again() -> None:
    going = make_child(Stage.PREPARE, deleting=True)

    assert decide_deletions([make_attempt(Stage.TRAIN, 1, RUNNING)], observe(going)) == ()


def test_an_attempt_given_up_with_its_node_must_not_train_on() -> None:
    child: JobFacts = make_child(Stage.TRAIN)
    given_up = [make_attempt(Stage.TRAIN, 1, FAILED)]

    assert decide_deletions(given_up, observe(child, make_running_pod(child))) == (child,)
    assert decide_deletions(given_up, observe(child, make_ended_pod(child, 1))) == ()

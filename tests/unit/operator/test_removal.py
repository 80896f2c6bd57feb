"""What happens to the store when a FineTuneJob is deleted, and that nothing ever holds the deletion for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.names import FINALIZER, Stage
from finetune_api.reasons import Reason
from finetune_operator.attempts import LookUpKind
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import JobFacts, Refusal
from finetune_operator.plan import Plan
from finetune_operator.standing import Starting
from tests.unit.operator.builders import (
    job_in_training,
    make_child,
    make_ended_pod,
    make_job,
    make_running_pod,
    observe,
    plan_for,
)


def deleted(policy: str = "Delete") -> tuple[FineTuneJob, JobFacts]:
    """A job that trained when it was deleted, its finalizer on it."""
    training, train = job_in_training(deletionPolicy="Retain")
    job = make_job(deleting=True, deletionPolicy=policy).with_status(training.status)
    return replace(job, finalizers=(FINALIZER,)), train


def plan(job: FineTuneJob, *facts: Any, **more: Any) -> Plan:
    return plan_for(job, observe(*facts, **{"namespace_terminating": False, **more}))


@pytest.mark.parametrize(
    ("policy", "has_it", "decided"),
    [
        pytest.param("Delete", False, True, id="Delete sets it before anything is created"),
        pytest.param("Retain", True, False, id="Retain takes it away"),
    ],
)
def test_the_finalizer_follows_the_policy(policy: str, has_it: bool, decided: bool) -> None:
    job = replace(make_job(deletionPolicy=policy), finalizers=(FINALIZER,) if has_it else ())

    found = plan_for(job, observe())

    assert found.finalizer is decided
    assert found.create is None


def test_without_our_finalizer_nothing_is_to_be_done() -> None:
    job, train = deleted()
    job = replace(job, finalizers=("somebody.else/theirs",))

    assert plan(job, train, make_running_pod(train)) == Plan(job.status)


def test_first_the_namespace_is_asked_whether_it_takes_a_job() -> None:
    job, train = deleted()

    assert [each.kind for each in plan(job, train, namespace_terminating=None).look_ups] == [
        LookUpKind.NAMESPACE
    ]


def test_in_a_terminating_namespace_it_goes_at_once_and_says_what_was_kept() -> None:
    job, train = deleted()

    found = plan(job, train, make_running_pod(train), namespace_terminating=True)

    assert found.finalizer is False
    assert [event.reason for event in found.events] == [Reason.STORE_KEPT]
    assert "s3://models/support-bot/runs/bot-01234567" in found.events[0].message


def test_pods_are_ended_before_the_folder_is_emptied() -> None:
    job, train = deleted()

    running = plan(job, train, make_running_pod(train))
    ending = plan(job, make_running_pod(train, deletion_deadline=train.created))
    ended = plan(job, make_ended_pod(train, 22))

    assert running.stop == (train,)
    assert running.status.reason == Reason.CLEANING_UP
    assert (ending.stop, ending.create) == ((), None) or ending.create is not None
    assert ended.create == Starting(Stage.CLEANUP, 1)


def test_a_policy_that_became_retain_lets_it_go() -> None:
    job, train = deleted(policy="Retain")

    assert plan(job, train, make_running_pod(train)).finalizer is False


def test_a_job_that_never_ran_has_nothing_in_the_store() -> None:
    job = replace(make_job(deleting=True, deletionPolicy="Delete"), finalizers=(FINALIZER,))

    assert plan(job).finalizer is False


@pytest.mark.parametrize(
    ("number", "exit_code", "reason"),
    [
        pytest.param(1, 0, Reason.CLEANED_UP, id="the folder is removed"),
        pytest.param(1, 13, Reason.STORE_KEPT, id="the store refuses"),
        pytest.param(5, 20, Reason.STORE_KEPT, id="the store stays away"),
    ],
)
def test_it_goes_when_the_cleanup_is_over(number: int, exit_code: int, reason: Reason) -> None:
    job, _ = deleted()
    cleanup = make_child(Stage.CLEANUP, number)

    found = plan(job, cleanup, make_ended_pod(cleanup, exit_code))

    assert found.finalizer is False
    assert [event.reason for event in found.events] == [reason]


def test_a_store_that_is_away_is_tried_again() -> None:
    job, _ = deleted()
    cleanup = make_child(Stage.CLEANUP, 1)

    found = plan(job, cleanup, make_ended_pod(cleanup, 20))

    assert found.finalizer is None
    assert found.requeue_seconds is not None
    assert found.status.reason == "StorageUnavailable"


def test_a_refused_cleanup_job_is_explained() -> None:
    job, _ = deleted()

    found = plan(job, refusal=Refusal(Reason.QUOTA_EXCEEDED, "exceeded quota."))

    assert found.status.reason == Reason.QUOTA_EXCEEDED
    assert found.requeue_seconds is not None

"""What follows a failure: whether it counts, whether and when another attempt is made, and how that is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass
from finetune_api.spec import FailurePolicy, OnOutOfMemory
from finetune_operator.policies.advice import advise
from finetune_operator.policies.classification import Failure
from finetune_operator.policies.retry import Verdict, is_counted, judge, next_start
from tests.unit.operator.builders import NOW


@pytest.mark.parametrize(
    ("disrupted", "saved", "counted"),
    [
        pytest.param(True, True, False, id="a disruption after which the run got further is free"),
        pytest.param(True, False, True, id="a disruption without progress counts"),
        pytest.param(False, True, True, id="a failure counts although the run got further"),
    ],
)
def test_only_disruptions_with_progress_are_free(disrupted: bool, saved: bool, counted: bool) -> None:
    failure = Failure(FailureClass.EVICTED, "", disrupted=disrupted)

    assert is_counted(failure, saved_new_checkpoint=saved) is counted


POLICY = FailurePolicy(max_restarts=3)


def verdict(failure_class: FailureClass, stage: Stage = Stage.TRAIN, **changes: Any) -> Verdict:
    restarts, saved = changes.pop("restarts", 0), changes.pop("saved", False)
    failure = Failure(failure_class, "", disrupted=changes.pop("disrupted", False))
    policy = POLICY.model_copy(update=changes)
    return judge(failure, stage, policy, restarts=restarts, saved_new_checkpoint=saved)


@pytest.mark.parametrize("failure_class", list(FailureClass))
@pytest.mark.parametrize("stage", list(Stage))
def test_a_class_that_ends_the_job_does_so_at_once_but_training_backs_off(
    failure_class: FailureClass, stage: Stage
) -> None:
    backs_off = failure_class is FailureClass.OUT_OF_MEMORY and stage is Stage.TRAIN

    judged = verdict(failure_class, stage)

    assert judged.restarts is (backs_off or not failure_class.ends_job)
    assert judged.halves_micro_batch is backs_off


def test_out_of_memory_ends_the_job_where_the_user_wants_that() -> None:
    judged = verdict(FailureClass.OUT_OF_MEMORY, on_out_of_memory=OnOutOfMemory.FAIL)

    assert not judged.restarts
    assert judged.explanation == "Not restarted: spec.failurePolicy.onOutOfMemory is Fail."


def test_backing_off_has_an_end() -> None:
    assert not verdict(FailureClass.OUT_OF_MEMORY, restarts=3).restarts


def test_uncounted_failures_restart_also_when_restarts_are_used_up() -> None:
    free = verdict(FailureClass.PREEMPTED, restarts=3, disrupted=True, saved=True)
    counted = verdict(FailureClass.PREEMPTED, restarts=3, disrupted=True)

    assert (free.restarts, free.counted) == (True, False)
    assert (counted.restarts, counted.counted) == (False, True)


@pytest.mark.parametrize(
    ("judged", "told"),
    [
        pytest.param(
            verdict(FailureClass.UNKNOWN, restarts=1),
            "Restarted: restart 2 of 3 (spec.failurePolicy.maxRestarts).",
            id="a restart is counted",
        ),
        pytest.param(
            verdict(FailureClass.EVICTED, disrupted=True, saved=True),
            "Restarted, uncounted: the run was disrupted after it had saved a new checkpoint.",
            id="a free one says why",
        ),
        pytest.param(
            verdict(FailureClass.UNKNOWN, restarts=3),
            "Not restarted: spec.failurePolicy.maxRestarts (3) is used up.",
            id="the limit is named",
        ),
        pytest.param(
            verdict(FailureClass.DATA_ERROR),
            "Not restarted: DataError would happen again.",
            id="a final class says so",
        ),
        pytest.param(
            verdict(FailureClass.OUT_OF_MEMORY),
            "Restarted with micro-batches of half the size: restart 1 of 3 (spec.failurePolicy.maxRestarts).",
            id="backing off is told",
        ),
    ],
)
def test_the_verdict_says_whether_another_attempt_follows_and_why(judged: Verdict, told: str) -> None:
    assert judged.explanation == told


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("failure_class", list(FailureClass))
def test_every_failure_has_advice(failure_class: FailureClass, stage: Stage) -> None:
    assert advise(failure_class, stage, pod="bot-train-1-x", namespace="ml").endswith(".")


def test_the_next_start_is_the_same_at_every_asking_and_differs_between_jobs() -> None:
    def start(identity: str, restarts: int = 1) -> timedelta:
        delay = timedelta(seconds=5)
        return next_start(NOW, restarts=restarts, counted=True, first_delay=delay, identity=identity) - NOW

    assert start("a") == start("a") != start("b")
    assert timedelta(seconds=5) <= start("a") <= timedelta(seconds=6)
    assert timedelta(minutes=5) <= start("a", restarts=900) <= timedelta(minutes=6)

"""Failure classes: what an ended pod means, by exit code, message, pod conditions and what is missing."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass
from finetune_operator.observation import JobFacts, PodFacts
from finetune_operator.policies.retry import Failure, classify_failure, is_counted, may_restart, next_start
from tests.unit.operator.builders import NOW, make_child, make_ended_pod, make_pod, make_running_pod

CHILD = make_child(Stage.TRAIN)

CASES: list[tuple[str, JobFacts | None, PodFacts | None, FailureClass]] = [
    ("exit 10 is the user's", CHILD, make_ended_pod(CHILD, 10), FailureClass.USER_ERROR),
    ("exit 11 is the data's", CHILD, make_ended_pod(CHILD, 11), FailureClass.DATA_ERROR),
    ("exit 12 is memory", CHILD, make_ended_pod(CHILD, 12), FailureClass.OUT_OF_MEMORY),
    ("exit 13 is denied storage", CHILD, make_ended_pod(CHILD, 13), FailureClass.STORAGE_DENIED),
    ("exit 14 is a loss that is no number", CHILD, make_ended_pod(CHILD, 14), FailureClass.NON_FINITE_LOSS),
    ("exit 20 is storage that is away", CHILD, make_ended_pod(CHILD, 20), FailureClass.STORAGE_UNAVAILABLE),
    ("exit 21 is a stall", CHILD, make_ended_pod(CHILD, 21), FailureClass.STALLED),
    ("exit 22 is a preemption", CHILD, make_ended_pod(CHILD, 22), FailureClass.PREEMPTED),
    (
        "another exit code with a known reason is what the reason says",
        CHILD,
        make_ended_pod(CHILD, 1, message={"reason": "DataError", "message": "Row 7 is empty."}),
        FailureClass.DATA_ERROR,
    ),
    (
        "a kill for memory",
        CHILD,
        make_ended_pod(CHILD, 137, end_reason="OOMKilled"),
        FailureClass.OUT_OF_MEMORY,
    ),
    ("a kill for no known cause", CHILD, make_ended_pod(CHILD, 137), FailureClass.UNKNOWN),
    ("a crash", CHILD, make_ended_pod(CHILD, 1), FailureClass.UNKNOWN),
    (
        "an eviction",
        CHILD,
        make_ended_pod(CHILD, 137, disruption_reason="EvictionByEvictionAPI"),
        FailureClass.EVICTED,
    ),
    (
        "an eviction before the container started",
        CHILD,
        make_pod(CHILD, phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        FailureClass.EVICTED,
    ),
    (
        "a taint that evicts",
        CHILD,
        make_ended_pod(CHILD, 137, disruption_reason="DeletionByTaintManager"),
        FailureClass.NODE_LOST,
    ),
    (
        "a preemption that could save, on an evicted pod",
        CHILD,
        make_ended_pod(CHILD, 22, disruption_reason="PreemptionByScheduler"),
        FailureClass.PREEMPTED,
    ),
    ("no Job any more", None, None, FailureClass.DELETED),
    ("no pod any more", CHILD, None, FailureClass.DELETED),
]


@pytest.mark.parametrize(("job", "pod", "expected"), [pytest.param(j, p, e, id=i) for i, j, p, e in CASES])
def test_a_failure_has_the_class_of_its_cause(
    job: JobFacts | None, pod: PodFacts | None, expected: FailureClass
) -> None:
    failure = classify_failure(job, pod)

    assert failure.failure_class is expected
    assert failure.message.endswith(".")


def test_a_lost_node_is_named() -> None:
    failure = classify_failure(CHILD, make_running_pod(CHILD), lost=True)

    assert failure.failure_class is FailureClass.NODE_LOST
    assert "node-1" in failure.message


def test_the_trainers_own_sentence_is_kept() -> None:
    told = {"reason": "StorageDenied", "message": "Bucket 'models' refuses writes. Check the Secret."}

    assert classify_failure(CHILD, make_ended_pod(CHILD, 13, message=told)).message == told["message"]


def test_a_message_that_is_no_report_is_quoted() -> None:
    failure = classify_failure(CHILD, make_ended_pod(CHILD, 1, message="Segmentation fault"))

    assert failure.failure_class is FailureClass.UNKNOWN
    assert "Segmentation fault" in failure.message
    assert "kubectl -n ml logs" in failure.message


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


@pytest.mark.parametrize("failure_class", [each for each in FailureClass if each.ends_job])
def test_some_classes_end_the_job_at_once(failure_class: FailureClass) -> None:
    assert not may_restart(Failure(failure_class, ""), counted=True, restarts=0, max_restarts=9)


def test_uncounted_failures_restart_also_when_restarts_are_used_up() -> None:
    failure = Failure(FailureClass.PREEMPTED, "", disrupted=True)

    assert may_restart(failure, counted=False, restarts=3, max_restarts=3)
    assert not may_restart(failure, counted=True, restarts=3, max_restarts=3)


def test_the_next_start_is_the_same_at_every_asking_and_differs_between_jobs() -> None:
    def start(identity: str, restarts: int = 1) -> timedelta:
        delay = timedelta(seconds=5)
        return next_start(NOW, restarts=restarts, counted=True, first_delay=delay, identity=identity) - NOW

    assert start("a") == start("a") != start("b")
    assert timedelta(seconds=5) <= start("a") <= timedelta(seconds=6)
    assert timedelta(minutes=5) <= start("a", restarts=900) <= timedelta(minutes=6)

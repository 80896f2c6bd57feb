"""Failure classes: what an ended pod means, by exit code, message, pod conditions and what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass
from finetune_operator.gang import Gang
from finetune_operator.observation import JobFacts, PodFacts
from finetune_operator.policies.classification import Failure, classify_failure
from tests.unit.operator.builders import (
    NOW,
    make_child,
    make_ended_pod,
    make_pod,
    make_running_pod,
    seconds_ago,
)

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
    (
        "a pod that ran for as long as the job may",
        CHILD,
        make_ended_pod(CHILD, 22, reason="DeadlineExceeded"),
        FailureClass.DEADLINE_EXCEEDED,
    ),
    (
        "a pod that went with its Job",
        None,
        make_ended_pod(CHILD, 137, deletion_deadline=seconds_ago(1)),
        FailureClass.DELETED,
    ),
    ("no Job any more", None, None, FailureClass.DELETED),
    ("no pod any more", CHILD, None, FailureClass.DELETED),
]


def classify(job: JobFacts | None, *pods: PodFacts) -> Failure:
    return classify_failure(Gang(job, pods), NOW)


@pytest.mark.parametrize(("job", "pod", "expected"), [pytest.param(j, p, e, id=i) for i, j, p, e in CASES])
def test_a_failure_has_the_class_of_its_cause(
    job: JobFacts | None, pod: PodFacts | None, expected: FailureClass
) -> None:
    failure = classify(job, *([pod] if pod else []))

    assert failure.failure_class is expected
    assert failure.message.endswith(".")


def test_a_lost_node_is_named() -> None:
    failure = classify(CHILD, make_running_pod(CHILD, deletion_deadline=seconds_ago(61)))

    assert failure.failure_class is FailureClass.NODE_LOST
    assert "node-1" in failure.message


def test_the_trainers_own_sentence_is_kept() -> None:
    told = {"reason": "StorageDenied", "message": "Bucket 'models' refuses writes. Check the Secret."}

    assert classify(CHILD, make_ended_pod(CHILD, 13, message=told)).message == told["message"]


def test_a_message_that_is_no_report_is_quoted() -> None:
    failure = classify(CHILD, make_ended_pod(CHILD, 1, message="Segmentation fault"))

    assert failure.failure_class is FailureClass.UNKNOWN
    assert "Segmentation fault" in failure.message


def rank(number: int, exit_code: int, ended_seconds_ago: float = 1, **changes: Any) -> PodFacts:
    return make_ended_pod(
        CHILD,
        exit_code,
        rank=number,
        uid=f"rank-{number}",
        node=f"node-{number}",
        ended_seconds_ago=ended_seconds_ago,
        **changes,
    )


TOLD_TO_GO = {"deletion_deadline": seconds_ago(0)}
BLAME: list[tuple[str, list[PodFacts], int]] = [
    ("of two crashes the first", [rank(0, 1, 1), rank(1, 1, 9)], 1),
    ("a known cause before an unknown one that came first", [rank(0, 1, 9), rank(1, 11, 1)], 1),
    (
        "the rank that crashed before one that saved when told to go",
        [rank(0, 22, 1, **TOLD_TO_GO), rank(1, 1, 9)],
        1,
    ),
    (
        "a known cause although it was told to go by then",
        [rank(0, 1, 9), rank(1, 20, 1, **TOLD_TO_GO)],
        1,
    ),
    ("memory before a broken connection", [rank(0, 1, 9), rank(1, 137, 1, end_reason="OOMKilled")], 1),
    (
        "the lost node before the stall that it caused",
        [rank(0, 21, 9), rank(1, 137, 1, disruption_reason="DeletionByTaintManager")],
        1,
    ),
    ("a rank that failed before one that had succeeded", [rank(0, 0, 9), rank(1, 1, 1)], 1),
]


@pytest.mark.parametrize(("pods", "to_blame"), [pytest.param(p, b, id=i) for i, p, b in BLAME])
def test_of_several_ranks_one_is_to_blame(pods: list[PodFacts], to_blame: int) -> None:
    failure = classify(replace(CHILD, size=2), *pods)

    assert failure.pod is not None
    assert failure.pod.rank == to_blame

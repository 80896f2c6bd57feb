"""Objects of the API, as they are delivered, reduced to facts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_operator.observation import Complaint, JobState, observe_complaint, observe_job, observe_pod

OWNER = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "name": "bot",
    "uid": "u",
    "controller": True,
}
JOB_OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "bot-train-1", "uid": "j", "controller": True}


def job_body(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "bot-train-1",
            "namespace": "ml",
            "uid": "j",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"finetune.dev/stage": "train", "finetune.dev/attempt": "1"},
            "ownerReferences": [OWNER],
        },
        "spec": {"suspend": None},
        "status": status,
    }


def pod_body(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "ml", "uid": "p", "ownerReferences": [JOB_OWNER], **metadata},
        "spec": {"nodeName": "node-1", "containers": [{"name": "trainer", "image": "t:1"}]},
        "status": status,
    }


@pytest.mark.parametrize(
    ("condition", "state"),
    [
        (None, JobState.ACTIVE),
        ("Suspended", JobState.ACTIVE),
        ("FailureTarget", JobState.FAILED),
        ("Failed", JobState.FAILED),
        ("SuccessCriteriaMet", JobState.SUCCEEDED),
        ("Complete", JobState.SUCCEEDED),
    ],
)
def test_a_job_has_ended_as_soon_as_its_end_is_certain(condition: str | None, state: JobState) -> None:
    conditions = [{"type": condition, "status": "True"}] if condition else []

    facts = observe_job(job_body(conditions=conditions))

    assert facts is not None
    assert (facts.state, facts.stage, facts.attempt, facts.owner_uid) == (state, Stage.TRAIN, 1, "u")


def test_a_job_of_somebody_else_is_no_child() -> None:
    stranger = job_body()
    stranger["metadata"]["ownerReferences"] = []
    mislabelled = job_body()
    mislabelled["metadata"]["labels"]["finetune.dev/attempt"] = "x"

    assert observe_job(stranger) is None
    assert observe_job(mislabelled) is None


def test_a_pod_that_ended_says_how() -> None:
    terminated = {"exitCode": 22, "reason": "Error", "message": "{}", "finishedAt": "2026-01-01T00:00:09Z"}
    statuses = [
        {"name": "sidecar", "state": {"running": {}}},
        {"name": "trainer", "state": {"terminated": terminated}},
    ]
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}

    facts = observe_pod(
        pod_body({"phase": "Failed", "containerStatuses": statuses, "conditions": [disrupted]})
    )

    assert facts is not None
    assert facts.end is not None
    assert (facts.end.exit_code, facts.end.message) == (22, "{}")
    assert facts.end.finished == datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC)
    assert (facts.has_ended, facts.disruption_reason, facts.image) == (True, "PreemptionByScheduler", "t:1")


def test_a_pod_that_waits_says_why() -> None:
    waiting = {"name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}

    facts = observe_pod(pod_body({"containerStatuses": [waiting]}, deletionTimestamp="2026-01-01T00:02:00Z"))

    assert facts is not None
    assert (facts.started, facts.waiting_reason, facts.waiting_message) == (None, "ErrImagePull", "no")
    assert facts.deletion_deadline == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)


def test_a_pod_without_a_job_is_not_ours() -> None:
    assert observe_pod(pod_body({}, ownerReferences=[])) is None


def event(second: int, reason: str, kind: str = "Warning") -> dict[str, Any]:
    time = f"2026-01-01T00:00:{second:02d}Z"
    return {
        "metadata": {"name": "e"},
        "type": kind,
        "reason": reason,
        "message": reason,
        "lastTimestamp": time,
    }


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        pytest.param([], None, id="nothing was said"),
        pytest.param(
            [event(1, "FailedMount"), event(9, "BackOff"), event(5, "Failed")], "BackOff", id="the newest"
        ),
        pytest.param(
            [event(1, "FailedMount"), event(2, "Scheduled", "Normal")], "FailedMount", id="no Warning, no say"
        ),
        pytest.param(
            [event(1, "FailedMount"), event(2, "Pulling", "Normal")], None, id="the kubelet got further"
        ),
        pytest.param(
            [event(5, "FailedScheduling"), event(5, "FailedMount")], "FailedMount", id="scheduling came first"
        ),
        pytest.param(
            [{"metadata": {}, "type": 7}, event(1, "FailedMount")], "FailedMount", id="a strange event"
        ),
    ],
)
def test_the_newest_warning_that_still_holds_is_the_complaint(
    events: list[dict[str, Any]], reason: str | None
) -> None:
    assert observe_complaint(events) == (Complaint(reason, reason) if reason else None)

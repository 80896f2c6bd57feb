"""Why an attempt waits: one precise sentence, with the next action."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_operator.gang import Gang
from finetune_operator.observation import Complaint, EventsSeen, JobFacts, PodFacts
from finetune_operator.references import list_references
from finetune_operator.waiting import Explanation, explain_waiting
from tests.unit.operator.builders import NOW, make_child, make_job, make_pod, make_running_pod, observe

CHILD = make_child(Stage.TRAIN)


def explain(
    pod: PodFacts | None, complaint: Complaint | None = None, child: JobFacts = CHILD, **job: Any
) -> Explanation | None:
    spec = make_job(**job).spec
    assert spec is not None
    uid = pod.uid if pod else child.uid
    observed = observe(child, events={uid: EventsSeen(complaint, NOW)})
    gang = Gang(child, (pod,) if pod else ())
    return explain_waiting(gang, observed, list_references(spec, Stage.TRAIN), NOW)


CASES: list[tuple[str, PodFacts | None, Complaint | None, Reason, str]] = [
    (
        "a Secret that is missing",
        make_pod(CHILD),
        Complaint(
            "FailedMount",
            'MountVolume.SetUp failed for volume "credentials-0" : secret "s3-credentials" not found',
        ),
        Reason.MISSING_REFERENCE,
        "Secret 's3-credentials' not found in namespace 'ml'. Create it or correct "
        "spec.output.store.credentialsSecretRef.",
    ),
    (
        "a ConfigMap that no field names",
        make_pod(CHILD),
        Complaint(
            "FailedMount", 'MountVolume.SetUp failed for volume "job" : configmap "bot-train-1" not found'
        ),
        Reason.MISSING_REFERENCE,
        "ConfigMap 'bot-train-1' not found in namespace 'ml'. Create it.",
    ),
    (
        "an image that cannot be pulled",
        make_pod(CHILD, waiting_reason="ErrImagePull", waiting_message="not found"),
        None,
        Reason.IMAGE_PULL,
        "cannot pull its image trainer:1 (ErrImagePull): not found. Check spec.image",
    ),
    (
        "no node with such a GPU",
        make_pod(
            CHILD, node=None, unschedulable_message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        ),
        Complaint("FailedScheduling", "0/1 nodes"),
        Reason.UNSCHEDULABLE,
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. Lower spec.resources",
    ),
    (
        "a container that cannot be configured",
        make_pod(CHILD, waiting_reason="CreateContainerConfigError", waiting_message="bad user"),
        None,
        Reason.WAITING_FOR_POD,
        "cannot start (CreateContainerConfigError): bad user",
    ),
    (
        "a sandbox that fails",
        make_pod(CHILD, waiting_reason="ContainerCreating"),
        Complaint("FailedCreatePodSandBox", "no network"),
        Reason.WAITING_FOR_POD,
        "FailedCreatePodSandBox: no network",
    ),
    (
        "a large image",
        make_pod(CHILD, waiting_reason="ContainerCreating"),
        None,
        Reason.WAITING_FOR_POD,
        "on node node-1 while its image is pulled",
    ),
    (
        "a quota that refuses the pod",
        None,
        Complaint("FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: compute'),
        Reason.QUOTA_EXCEEDED,
        "exceeded quota: compute. Free or raise the namespace's ResourceQuota",
    ),
    (
        "pod security that refuses the pod",
        None,
        Complaint(
            "FailedCreate", 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest"'
        ),
        Reason.FORBIDDEN,
        'violates PodSecurity "restricted:latest"',
    ),
    (
        "a PriorityClass that is missing",
        None,
        Complaint("FailedCreate", 'pods "x" is forbidden: no PriorityClass with name high was found'),
        Reason.MISSING_REFERENCE,
        "PriorityClass 'high' not found. Create it or correct spec.resources.priorityClassName.",
    ),
    (
        "a ServiceAccount that is missing",
        None,
        Complaint(
            "FailedCreate",
            'pods "x" is forbidden: error looking up service account ml/t: serviceaccount "t" not found',
        ),
        Reason.MISSING_REFERENCE,
        "ServiceAccount 't' not found.",
    ),
]


@pytest.mark.parametrize(
    ("pod", "complaint", "reason", "sentence"), [pytest.param(p, c, r, s, id=i) for i, p, c, r, s in CASES]
)
def test_each_cause_has_its_reason_and_sentence(
    pod: PodFacts | None, complaint: Complaint | None, reason: Reason, sentence: str
) -> None:
    explanation = explain(pod, complaint)

    assert explanation is not None
    assert explanation.reason is reason
    assert sentence in explanation.message


def test_that_there_is_no_pod_yet_is_told_after_a_minute_where_nobody_complains() -> None:
    assert explain(None, child=make_child(Stage.TRAIN, age_seconds=59)) is None

    explanation = explain(None, child=make_child(Stage.TRAIN, age_seconds=61))

    assert explanation == Explanation(Reason.WAITING_FOR_POD, "Job bot-train-1 has no pod yet.")


def test_a_suspended_job_is_queued_and_left_alone() -> None:
    explanation = explain(None, child=make_child(Stage.TRAIN, suspended=True))

    assert explanation is not None
    assert explanation.reason is Reason.QUEUED


def test_nothing_is_explained_while_it_is_too_early_to_ask() -> None:
    assert explain(make_pod(CHILD, age_seconds=4)) is None
    assert explain(None, child=make_child(Stage.TRAIN, age_seconds=2)) is None


def test_a_pod_that_runs_does_not_wait() -> None:
    assert explain(make_running_pod(CHILD)) is None

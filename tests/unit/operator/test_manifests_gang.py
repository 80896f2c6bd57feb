"""Several train pods: they start as one, find each other by name, and wait in Kueue's queue as one."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import STAGES, Stage
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests import DesiredObjects, desired_objects
from tests.unit.operator.builders import UID, make_job, make_pod_settings

POD_LABELS = {"finetune.dev/job-uid": UID, "finetune.dev/stage": "train", "finetune.dev/attempt": "2"}


def objects(stage: Stage = Stage.TRAIN, **changes: Any) -> DesiredObjects:
    return desired_objects(make_job(**changes), stage, 2, make_pod_settings())


def pod_template(stage: Stage = Stage.TRAIN, **changes: Any) -> JsonObject:
    template: JsonObject = objects(stage, **changes).job["spec"]["template"]
    return template


def environment(template: JsonObject) -> dict[str, str]:
    return {each["name"]: each["value"] for each in template["spec"]["containers"][0]["env"]}


def test_a_gang_is_an_indexed_job_of_one_try() -> None:
    spec = objects(parallelism__nodes=4).job["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")


def test_the_pods_of_a_gang_find_each_other_before_they_are_ready() -> None:
    gang = objects(parallelism__nodes=4)
    service, template = gang.service, gang.job["spec"]["template"]
    assert service is not None

    assert service["metadata"]["name"] == gang.job["metadata"]["name"] == "bot-train-2"
    assert service["metadata"]["ownerReferences"] == gang.job["metadata"]["ownerReferences"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    # The Job controller labels its pods so, and names pod i's host <job>-<i>, below the subdomain.
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": "bot-train-2"}
    assert template["spec"]["subdomain"] == "bot-train-2"
    assert "hostname" not in template["spec"]
    (port,) = service["spec"]["ports"]
    address = environment(template)["FINETUNE_COORDINATOR_ADDRESS"]
    assert address == f"bot-train-2-0.bot-train-2:{port['port']}"
    assert port["name"] == "rendezvous"


@pytest.mark.parametrize("stage", STAGES)
def test_one_pod_needs_neither_service_nor_index(stage: Stage) -> None:
    nodes = 1 if stage is Stage.TRAIN else 4
    alone = objects(stage, parallelism__nodes=nodes)

    assert alone.service is None
    assert "completionMode" not in alone.job["spec"]
    assert (alone.job["spec"]["completions"], alone.job["spec"]["parallelism"]) == (1, 1)
    assert "subdomain" not in alone.job["spec"]["template"]["spec"]
    assert "FINETUNE_COORDINATOR_ADDRESS" not in environment(alone.job["spec"]["template"])


def test_a_gang_stays_within_one_topology_domain() -> None:
    rack = "example.com/rack"

    affinity = pod_template(parallelism__nodes=4, resources__topologyKey=rack)["spec"]["affinity"]

    (term,) = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term == {"topologyKey": rack, "labelSelector": {"matchLabels": POD_LABELS}}


def test_the_term_is_the_attempts_own() -> None:
    """The scheduler lets the first pod of a gang through only because it matches its own term."""
    template = pod_template(parallelism__nodes=4, resources__topologyKey="example.com/rack")

    assert POD_LABELS.items() <= template["metadata"]["labels"].items()


def test_one_pod_has_no_need_of_a_topology() -> None:
    assert "affinity" not in pod_template(resources__topologyKey="example.com/rack")["spec"]


def test_a_queued_train_job_waits_for_kueue() -> None:
    job = objects(queueName="team", workloadPriorityClassName="high").job

    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert not [label for label in job["spec"]["template"]["metadata"]["labels"] if "kueue" in label]


def test_without_a_class_the_queue_decides_the_priority() -> None:
    assert "kueue.x-k8s.io/priority-class" not in objects(queueName="team").job["metadata"]["labels"]


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.TRAIN])
def test_only_the_train_job_is_queued(stage: Stage) -> None:
    job = objects(stage, queueName="team", workloadPriorityClassName="high").job

    assert "suspend" not in job["spec"]
    assert not [label for label in job["metadata"]["labels"] if "kueue" in label]


def test_a_job_without_a_queue_starts_at_once() -> None:
    job = objects().job

    assert "suspend" not in job["spec"]
    assert not [label for label in job["metadata"]["labels"] if "kueue" in label]

"""A FineTuneJob that is edited: refused with a sentence by the API server, or applied whole from the next attempt on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.operator.api_client import CORE, Api, JsonObject, RequestRefused
from tests.integration.operator.kubelet import End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.steps import apply_job, attempts, child_jobs, reach_training

STORE = {"store": {"endpoint": "https://elsewhere.example"}}
WAITS_FOR_STANDSTILL: list[tuple[str, JsonObject]] = [
    ("resources", {"resources": {"memory": "32Gi"}}),
    ("parallelism", {"parallelism": {"gpusPerNode": 2}}),
    ("image", {"image": "registry.example/trainer:2"}),
    ("imagePullSecrets", {"imagePullSecrets": [{"name": "registry"}]}),
    ("env", {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}),
    ("checkpoints", {"checkpoints": {"everySteps": 7}}),
    ("failurePolicy", {"failurePolicy": {"maxRestarts": 9}}),
    ("queueName", {"queueName": "team-a"}),
    ("store", {"output": STORE}),
]
NEVER: list[tuple[str, JsonObject]] = [
    ("model", {"model": {"source": "s3://models/other"}}),
    ("dataset", {"dataset": {"train": [{"source": "s3://data/other.jsonl"}]}}),
    ("method", {"method": {"lora": {"rank": 8}}}),
    ("training", {"training": {"seed": 7}}),
    ("uri", {"output": {"uri": "s3://models/other"}}),
    ("resumeFrom", {"resumeFrom": {"run": "earlier-0a1b2c3d"}}),
    ("stopAfter", {"stopAfter": "Prepare"}),
]
ALWAYS: list[JsonObject] = [
    {"failurePolicy": {"activeDeadlineSeconds": 86400}},
    {"failurePolicy": {"pendingDeadlineSeconds": 3600}},
    {"ttlSecondsAfterFinished": 86400},
    {"suspend": True},
    {"suspend": False},
    {"retry": 1},
]


def refusal(api: Api, changes: JsonObject) -> str:
    """What the API server says to an edit of the running job."""
    with pytest.raises(RequestRefused) as refused:
        api.patch_spec("bot", **changes)
    assert refused.value.code == 422
    return refused.value.message


def test_a_running_job_cannot_be_changed_but_for_what_stops_it(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)

    for field, changes in WAITS_FOR_STANDSTILL:
        said = refusal(api, changes)
        assert field in said, said
        assert "suspend" in said, f"no way out is named: {said}"
    for field, changes in NEVER:
        assert field in refusal(api, changes)
    for changes in ALWAYS[:3]:
        api.patch_spec("bot", **changes)
    assert child_jobs(api, "train") == ["bot-train-1"]
    assert attempts(api)[-1] == ("train", 1, "Running", None)


def test_changes_to_a_suspended_job_hold_from_the_next_attempt_on(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    api.patch_spec("bot", suspend=True)
    kubelet.obey_deletion("bot-train-1", End(22))
    api.wait_for_status("bot", phase="Suspended")

    for _, changes in WAITS_FOR_STANDSTILL:
        if "queueName" not in changes:
            api.patch_spec("bot", **changes)
    for field, changes in NEVER:
        assert field in refusal(api, changes)
    api.patch_spec("bot", suspend=False)

    pod = job_is_there(api, "bot-train-2")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == "registry.example/trainer:2"
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "2"}
    assert {"name": "registry"} in pod["imagePullSecrets"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    spec = job_file(api, "bot-train-2")["spec"]
    assert spec["checkpoints"]["everySteps"] == 7
    assert spec["output"]["store"]["endpoint"] == "https://elsewhere.example"


def test_an_attempt_that_waits_to_start_is_replaced_by_one_of_the_new_spec(
    api: Api, kubelet: Kubelet
) -> None:
    apply_job(api, resources__prepare={"memory": "900Ti"})
    kubelet.pod_of("bot-prepare-1")

    api.patch_spec("bot", resources={"prepare": {"memory": "8Gi"}})

    second = job_is_there(api, "bot-prepare-2")
    assert second["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    assert job_file(api, "bot-prepare-2")["spec"]["resources"]["prepare"]["memory"] == "8Gi"
    kubelet.start("bot-prepare-2")
    api.wait_for_status("bot", phase="Preparing", restarts=0)
    assert attempts(api) == [("prepare", 1, "Stopped", "SpecChanged"), ("prepare", 2, "Running", None)]


def test_an_edit_that_concerns_no_pod_replaces_nothing(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.pod_of("bot-prepare-1")

    api.patch_spec("bot", failurePolicy={"pendingDeadlineSeconds": 3600}, ttlSecondsAfterFinished=5)
    api.wait_for_status("bot", observedGeneration=2)

    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")
    assert attempts(api) == [("prepare", 1, "Running", None)]


def test_a_failed_job_can_be_corrected_and_retried(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=0)
    reach_training(api, kubelet)
    kubelet.fail("bot-train-1", 137, reason="OOMKilled")
    api.wait_for_status("bot", phase="Failed")

    api.patch_spec("bot", resources={"memory": "64Gi"}, failurePolicy={"maxRestarts": 2}, retry=1)

    job = job_is_there(api, "bot-train-2")
    assert job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Gi"


def test_attempts_keep_the_image_of_the_first_unless_it_is_changed(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet)
    first = job_is_there(api, "bot-train-1")["spec"]["template"]["spec"]["containers"][0]["image"]
    api.wait_for_status("bot", phase="Training")

    kubelet.fail("bot-train-1", 20)

    second = job_is_there(api, "bot-train-2")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert second == first
    assert api.status("bot")["provenance"]["trainerImage"] == first


def job_file(api: Api, name: str) -> dict[str, Any]:
    """The job file of an attempt."""
    config_map = api.read(CORE, "configmaps", name)
    assert config_map is not None
    content: dict[str, Any] = json.loads(config_map["data"]["job.json"])
    return content

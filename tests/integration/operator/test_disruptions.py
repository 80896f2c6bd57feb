"""Evictions, preemptions and kills: the next attempt resumes, and it is told whether that counts, and why."""

from __future__ import annotations

import json

import pytest

from tests.integration.operator.api_client import CORE, Api, RequestRefused, wait_until
from tests.integration.operator.kubelet import End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING, StandInNodes, tolerations
from tests.integration.operator.steps import apply_job, attempts, reach_train_job, reach_training, saved


def evict(api: Api, pod_name: str) -> None:
    """Ask for an eviction, as `kubectl drain` does."""
    api.send("POST", f"{api.path(CORE, 'pods', pod_name)}/eviction", {"metadata": {"name": pod_name}})


def test_a_drained_pod_that_saved_is_not_counted(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=0)
    reach_training(api, kubelet, node=PARKING)

    evict(api, kubelet.pod_of("bot-train-1")["metadata"]["name"])
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))

    kubelet.start("bot-train-2")
    status = api.wait_for_status("bot", phase="Training", preemptions=1)
    assert status["restarts"] == 0
    ended = status["attempts"][1]
    assert (ended["outcome"], ended["reason"], ended["counted"]) == ("Failed", "Preempted", False)
    assert (ended["node"], ended["step"]) == (PARKING, 40)
    assert "uncounted" in ended["decision"]


def test_a_drained_pod_that_saved_nothing_new_is_counted(api: Api, kubelet: Kubelet) -> None:
    """So that a job whose every attempt is disrupted before its first checkpoint does not loop for ever."""
    apply_job(api, failurePolicy__maxRestarts=1)
    reach_training(api, kubelet, node=PARKING)
    for attempt in (1, 2):
        kubelet.start(f"bot-train-{attempt}", node=PARKING)
        evict(api, kubelet.pod_of(f"bot-train-{attempt}")["metadata"]["name"])
        kubelet.obey_deletion(
            f"bot-train-{attempt}", End(22, message={"reason": "Preempted", "message": "No step yet."})
        )

    status = api.wait_for_status("bot", phase="Failed", reason="RestartsExhausted")

    assert status["restarts"] == 1
    assert [each["counted"] for each in status["attempts"][1:]] == [True, True]


def test_a_checkpoint_of_the_attempt_before_is_no_new_one(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    evict(api, kubelet.pod_of("bot-train-1")["metadata"]["name"])
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    kubelet.start("bot-train-2", node=PARKING)
    evict(api, kubelet.pod_of("bot-train-2")["metadata"]["name"])
    kubelet.obey_deletion("bot-train-2", End(22, message=saved(40)))

    job_is_there(api, "bot-train-3")

    status = wait_until(lambda: s if (s := api.status("bot"))["restarts"] == 1 else None)
    assert status["preemptions"] == 1


def test_a_pod_evicted_for_its_nodes_memory_is_named_with_the_node(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)

    kubelet.evict_for_pressure("bot-train-1")

    job_is_there(api, "bot-train-2")
    status = api.wait_for_status("bot", restarts=1)
    ended = status["attempts"][1]
    assert (ended["reason"], ended["node"], ended["counted"]) == ("Evicted", PARKING, True)
    assert "The node was low on resource: memory." in ended["message"]


def test_a_pod_preempted_by_the_scheduler_makes_room_and_comes_back(
    api: Api, kubelet: Kubelet, nodes: StandInNodes
) -> None:
    """The real scheduler preempts it for a pod of higher priority."""
    node = f"gpu-{api.namespace}"
    nodes.add(node, api.namespace, gpus=1)
    api.send("POST", "apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": node}, "value": 1000})
    apply_job(
        api,
        resources__tolerations=tolerations(api.namespace),
        resources__nodeSelector={"kubernetes.io/hostname": node},
        resources__cpu="1",
    )
    reach_train_job(api, kubelet)
    wait_until(lambda: kubelet.pod_of("bot-train-1")["spec"].get("nodeName") == node)
    kubelet.start("bot-train-1")
    api.wait_for_status("bot", phase="Training")

    limits = {"limits": {"nvidia.com/gpu": "1"}}
    urgent = {
        "priorityClassName": node,
        "tolerations": tolerations(api.namespace),
        "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [{"name": "x", "image": "x", "resources": limits}],
    }
    api.create(CORE, "pods", {"metadata": {"name": "urgent"}, "spec": urgent})
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))

    job_is_there(api, "bot-train-2")
    status = wait_until(lambda: s if (s := api.status("bot"))["preemptions"] == 1 else None)
    assert status["attempts"][1]["reason"] == "Preempted"
    api.delete(CORE, "pods", "urgent", gracePeriodSeconds=0)
    wait_until(lambda: kubelet.pod_of("bot-train-2")["spec"].get("nodeName") == node, 30)
    nodes.remove(node)


@pytest.mark.parametrize(
    ("stage", "field"),
    [("prepare", "spec.resources.prepare.memory"), ("export", "spec.resources.export.memory")],
)
def test_a_cpu_stage_killed_for_memory_ends_the_job_with_the_field_to_raise(
    api: Api, kubelet: Kubelet, stage: str, field: str
) -> None:
    apply_job(api)
    if stage == "export":
        reach_training(api, kubelet)
        kubelet.succeed("bot-train-1", {"reason": "Trained", "message": "done"})

    kubelet.fail(f"bot-{stage}-1", 137, reason="OOMKilled")
    status = api.wait_for_status("bot", phase="Failed")

    assert status["reason"] == "OutOfMemory"
    assert field in status["attempts"][-1]["advice"]
    assert attempts(api)[-1] == (stage, 1, "Failed", "OutOfMemory")


def test_training_killed_for_memory_halves_its_micro_batch_and_not_for_ever(
    api: Api, kubelet: Kubelet
) -> None:
    apply_job(api, failurePolicy__maxRestarts=2)
    reach_training(api, kubelet)
    for attempt in (1, 2, 3):
        kubelet.fail(f"bot-train-{attempt}", 137, reason="OOMKilled")

    status = api.wait_for_status("bot", phase="Failed", reason="OutOfMemory")

    assert (status["memoryBackoff"], status["restarts"]) == (2, 2)
    assert "half" in status["attempts"][1]["decision"]
    assert "maxRestarts (2) is used up" in status["attempts"][-1]["decision"]
    assert "spec.resources.memory" in status["attempts"][-1]["advice"]
    for attempt, halved in ((1, 0), (2, 1), (3, 2)):
        config_map = api.read(CORE, "configmaps", f"bot-train-{attempt}")
        if config_map is not None:
            assert json.loads(config_map["data"]["job.json"]).get("memoryBackoff", 0) == halved


def test_without_backoff_it_ends_the_job(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__onOutOfMemory="Fail")
    reach_training(api, kubelet)

    kubelet.fail(
        "bot-train-1", 12, message={"reason": "OutOfMemory", "message": "The GPU's 80 GiB are used up."}
    )

    status = api.wait_for_status("bot", phase="Failed", reason="OutOfMemory")
    assert "onOutOfMemory" in status["attempts"][-1]["decision"]


def test_a_pod_disruption_budget_of_the_users_is_respected_by_evictions(api: Api, kubelet: Kubelet) -> None:
    """Nothing of ours weakens it: the eviction is refused, and the job trains on."""
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"finetune.dev/job": "bot"}}}
    api.create("apis/policy/v1", "poddisruptionbudgets", {"metadata": {"name": "bot"}, "spec": budget})
    name = kubelet.pod_of("bot-train-1")["metadata"]["name"]

    def is_refused() -> bool:
        try:
            evict(api, name)
        except RequestRefused as error:
            return error.code == 429
        return False

    assert is_refused()
    assert api.status("bot")["phase"] == "Training"

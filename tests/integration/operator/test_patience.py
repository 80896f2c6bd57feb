"""What takes a minute because Kubernetes or a contract does: all of it is begun at once, then each is judged.

A dead node that never confirms, a Node that is deleted, a queue that nobody serves, two gangs that each hold half of
what they need, a namespace that is deleted with all its jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import CORE, Api, wait_until
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.descriptions import check_description
from tests.integration.operator.kubelet import PREPARED, End, Kubelet, bind, job_is_there
from tests.integration.operator.nodes import GPU, PARKING, StandInNodes, tolerations
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.scripted_kubelet import GOOD_ENDS, Part, Script, ScriptedKubelet
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    condition,
    finish_from_training,
    reach_training,
    saved,
)

PATIENCE_SECONDS = 150
GAVE_UP = ("train", 1, "Stopped", "GangIncomplete")


@dataclass(frozen=True)
class Scene:
    """Everything that was begun."""

    api: Api
    gangs: Api
    doomed: Api
    kubelet: Kubelet


@pytest.fixture(scope="module")
def scene(control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes) -> Iterator[Scene]:
    """Begin with everything at once."""
    prefixes = ("patience", "gangs", "doomed")
    api, gangs, doomed = (make_namespace(control_plane, prefix) for prefix in prefixes)
    kubelet = Kubelet(api)
    begin_doomed(doomed)
    begin_unserved(api, kubelet)
    begin_dead_node(api, kubelet)
    begin_vanished_node(api, kubelet, nodes)
    with ScriptedKubelet(gangs, play_gangs):
        begin_gangs(gangs, nodes)
        yield Scene(api, gangs, doomed, kubelet)


def begin_doomed(api: Api) -> None:
    """A gang that trains and a job with a finalizer go with their namespace."""
    kubelet = Kubelet(api)
    apply_job(api, "gang", parallelism__nodes=2)
    apply_job(api, "cleaned", deletionPolicy="Delete")
    kubelet.succeed("gang-prepare-1", PREPARED)
    kubelet.start_all("gang-train-1", 2)
    api.wait_for_status("gang", phase="Training")
    reach_training(api, kubelet, "cleaned")
    api.send("DELETE", f"api/v1/namespaces/{api.namespace}")


def begin_unserved(api: Api, kubelet: Kubelet) -> None:
    """Its queue exists nowhere, and no Kueue runs."""
    apply_job(api, "unserved", queueName="nobody")
    kubelet.succeed("unserved-prepare-1", PREPARED)
    job_is_there(api, "unserved-train-1")


def begin_dead_node(api: Api, kubelet: Kubelet) -> None:
    """Two pods are told to go, one of them by the user's suspend, and nobody confirms that they did."""
    for name in ("silent", "suspending"):
        apply_job(api, name)
        reach_training(api, kubelet, name, PARKING)
    api.patch_spec("suspending", suspend=True)
    api.wait_for_status("suspending", reason="Suspending")
    # Its own grace period is two minutes; whoever knows that the node is dead shortens it.
    for name in ("silent", "suspending"):
        api.delete(CORE, "pods", kubelet.pod_of(f"{name}-train-1")["metadata"]["name"], gracePeriodSeconds=1)


def begin_vanished_node(api: Api, kubelet: Kubelet, nodes: StandInNodes) -> None:
    """The cloud took the machine, and the Node object with it: the pods' garbage collector ends what ran there."""
    node = f"spot-{api.namespace}"
    nodes.add(node, api.namespace, cordoned=True)
    apply_job(api, "vanished")
    reach_training(api, kubelet, "vanished", node)
    nodes.remove(node)


def begin_gangs(api: Api, nodes: StandInNodes) -> None:
    """Two gangs of two on three GPUs, of which a stranger has one. Each gang has one pod placed: neither can start.

    The nodes stay cordoned: otherwise the first gang to give its node back may give the other all that it needs.
    """
    names = [f"{api.namespace}-{index}" for index in range(3)]
    for name in names:
        nodes.add(name, api.namespace, gpus=1, labels={"gang": api.namespace}, cordoned=True)
    api.create(CORE, "pods", make_stranger(api.namespace))
    bind(api, {"metadata": {"name": "stranger"}}, names[2])
    kubelet = Kubelet(api)
    for job, name in zip(("one", "two"), names, strict=False):
        apply_job(
            api,
            job,
            parallelism__nodes=2,
            failurePolicy__gangStartTimeoutSeconds=10,
            resources__cpu="1",
            resources__nodeSelector={"gang": api.namespace},
            resources__tolerations=tolerations(api.namespace),
        )
        bind(api, kubelet.pod_of(f"{job}-train-1"), name)


def make_stranger(pool: str) -> dict[str, object]:
    """A pod of somebody else that holds a GPU."""
    limits = {"limits": {GPU: "1"}}
    spec = {
        "tolerations": tolerations(pool),
        "containers": [{"name": "x", "image": "x", "resources": limits}],
    }
    return {"metadata": {"name": "stranger"}, "spec": spec}


def play_gangs(part: Part) -> Script | None:
    """A train pod starts when it has a node, waits for its peer, and trains for a second."""
    if part.stage != "train":
        return Script(GOOD_ENDS[part.stage])
    return Script(GOOD_ENDS[part.stage], run_seconds=1.0, ranks=2, stop=End(22)) if part.node else None


def wait_for_attempt(scene: Scene, name: str) -> None:
    """Wait for a Job of the second attempt."""
    wait_until(
        lambda: name in child_jobs(scene.api),
        PATIENCE_SECONDS,
        lambda: f"{name}; status is {scene.api.status(name.partition('-')[0])}",
    )


def test_a_queue_that_nobody_serves_is_named(scene: Scene) -> None:
    status = scene.api.wait_for_status("unserved", PATIENCE_SECONDS, reason="QueueNotServed")

    assert status["phase"] == "Queued"
    assert "'nobody'" in status["message"]
    assert "waitingSince" not in status
    scene.api.wait_for_event("unserved", "Warning", "QueueNotServed")


def test_a_terminating_namespace_is_never_held_up(scene: Scene) -> None:
    path = f"api/v1/namespaces/{scene.doomed.namespace}"
    wait_until(
        lambda: scene.doomed.send("GET", path) is None,
        PATIENCE_SECONDS,
        lambda: f"end of the namespace: {scene.doomed.send('GET', path)}",
    )


def test_a_pod_that_nobody_confirms_dead_is_lost_with_its_node(scene: Scene) -> None:
    wait_for_attempt(scene, "silent-train-2")

    scene.kubelet.start("silent-train-2")
    status = scene.api.wait_for_status("silent", phase="Training", restarts=1)
    lost = status["attempts"][1]
    assert (lost["outcome"], lost["reason"], lost["node"]) == ("Failed", "NodeLost", PARKING)
    assert PARKING in lost["message"]
    check_description(scene.api, "silent", "node_lost_then_recovered")
    finish_from_training(scene.api, scene.kubelet, "silent", 2)


def test_a_suspension_ends_although_a_dead_node_never_confirms(scene: Scene) -> None:
    status = scene.api.wait_for_status("suspending", PATIENCE_SECONDS, phase="Suspended")

    assert condition(status, "Suspended") == ("True", "Suspended")
    assert attempts(scene.api, "suspending")[-1][:2] == ("train", 1)


def test_a_node_that_was_deleted_is_lost(scene: Scene) -> None:
    wait_for_attempt(scene, "vanished-train-2")

    lost = wait_until(
        lambda: a if (a := scene.api.status("vanished")["attempts"][1])["outcome"] == "Failed" else None
    )
    assert lost["reason"] == "NodeLost"
    assert lost["counted"] is True, "it had saved nothing"


def test_two_gangs_that_block_each_other_finish_one_after_the_other(
    scene: Scene, nodes: StandInNodes
) -> None:
    gangs = scene.gangs
    for name in ("one", "two"):
        wait_until(
            lambda name=name: GAVE_UP in attempts(gangs, name),  # type: ignore[misc]
            PATIENCE_SECONDS,
            lambda name=name: f"back-off of {name}: {gangs.status(name)}",  # type: ignore[misc]
        )
    for index in range(3):
        nodes.uncordon(f"{gangs.namespace}-{index}")

    for name in ("one", "two"):
        status = gangs.wait_for_status(name, PATIENCE_SECONDS, phase="Succeeded")
        assert (status["restarts"], status["incompleteGangs"]) == (0, 0)


@pytest.mark.long_fault
def test_a_pod_on_a_node_that_is_not_ready_is_evicted_and_lost_after_its_grace_period(
    control_plane: ControlPlane, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    """The node controller taints the node, the taint manager evicts, and the kubelet never answers."""
    api = make_namespace(control_plane, "not-ready")
    kubelet, node = Kubelet(api), f"dead-{api.namespace}"
    nodes.add(node, api.namespace, cordoned=True)
    key = {
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    apply_job(api, resources__tolerations=[key, *tolerations(api.namespace)])
    reach_training(api, kubelet, node=node)

    nodes.fail(node)

    job_is_gone_by_itself = 120 + 60 + 60
    wait_until(
        lambda: "bot-train-2" in child_jobs(api),
        job_is_gone_by_itself,
        lambda: f"next attempt: {api.status('bot')}",
    )
    lost = api.status("bot")["attempts"][1]
    assert (lost["outcome"], lost["reason"], lost["node"]) == ("Failed", "NodeLost", node)


def test_a_node_that_comes_back_in_time_confirms_the_eviction(
    api: Api, kubelet: Kubelet, operator: OperatorProcess, nodes: StandInNodes
) -> None:
    node = f"flaky-{api.namespace}"
    nodes.add(node, api.namespace, cordoned=True)
    key = {
        "key": "node.kubernetes.io/not-ready",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 0,
    }
    apply_job(api, resources__tolerations=[key, *tolerations(api.namespace)])
    reach_training(api, kubelet, node=node)

    nodes.fail(node)
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))

    job_is_there(api, "bot-train-2")
    status = wait_until(lambda: s if (s := api.status("bot"))["preemptions"] == 1 else None)
    assert status["attempts"][1]["reason"] in ("Preempted", "NodeLost")
    nodes.remove(node)

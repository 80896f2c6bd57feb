"""Several ranks, in one pod and on two nodes: they learn as one, and none outlives another."""

from __future__ import annotations

import pytest

from tests.e2e import nodes
from tests.e2e.deadlines import wait_until
from tests.e2e.jobs import LINKS, NO_MERGE, Jobs, JsonObject, attempts_of, on_two_nodes
from tests.e2e.side_by_side import side_by_side

LARGEST_WEIGHT_DIFFERENCE = 1e-4
STEPS = 200


@side_by_side
def test_ranks_of_one_pod_and_of_two_nodes_learn_what_one_process_learns(jobs: Jobs) -> None:
    jobs.apply("one")
    jobs.apply("pod", parallelism__gpusPerNode=2)
    jobs.apply("nodes", parallelism__gpusPerNode=1, **on_two_nodes(LINKS[0]))
    jobs.wait_until("nodes", "training", lambda s: s.get("progress", {}).get("step", 0) > 0)
    # Not before: with a link each, both gangs would wait for the other's until gangStartTimeoutSeconds.
    zero = {"parallelism__gpusPerNode": 1, "parallelism__strategy": "ZeRO2"}
    jobs.apply("zero", **zero, **on_two_nodes(LINKS[0]))
    assert [pod["spec"]["hostname"] for pod in jobs.pods("nodes")] == ["nodes-train-1-0", "nodes-train-1-1"]
    assert {pod["spec"]["nodeName"] for pod in jobs.pods("nodes")} == {node.name for node in nodes.NODES}

    one, pod, two = (jobs.wait_for(name, "Succeeded") for name in ("one", "pod", "nodes"))

    assert [status["effective"]["worldSize"] for status in (one, pod, two)] == [1, 2, 2]
    assert [status["display"]["gpus"] for status in (one, pod, two)] == ["cpu", "2", "2"]
    assert losses(jobs, pod) == pytest.approx(losses(jobs, one), abs=1e-4)
    assert losses(jobs, two) == losses(jobs, pod), "where the ranks stand makes no difference"
    assert two["outputs"]["manifestDigest"] == pod["outputs"]["manifestDigest"]
    assert largest_difference(jobs, one, two) <= LARGEST_WEIGHT_DIFFERENCE

    split_up = jobs.wait_for("zero", "Succeeded")
    assert (split_up["effective"]["strategy"], split_up["effective"]["worldSize"]) == ("ZeRO2", 2)
    assert losses(jobs, split_up) == pytest.approx(losses(jobs, one), abs=1e-4)
    assert largest_difference(jobs, one, split_up) <= LARGEST_WEIGHT_DIFFERENCE
    assert largest_adapter_difference(jobs, one, split_up) <= LARGEST_WEIGHT_DIFFERENCE


def losses(jobs: Jobs, status: JsonObject) -> list[float]:
    return [line["loss"] for line in jobs.metrics(status)]


def largest_difference(jobs: Jobs, *statuses: JsonObject) -> float:
    """The largest difference of one weight between two merged models."""
    return _largest_difference(jobs, *(f"{s['outputs']['mergedURI']}/model.safetensors" for s in statuses))


def largest_adapter_difference(jobs: Jobs, *statuses: JsonObject) -> float:
    """The largest difference of one weight between two adapters."""
    files = (f"{s['outputs']['adapterURI']}/adapter_model.safetensors" for s in statuses)
    return _largest_difference(jobs, *files)


def _largest_difference(jobs: Jobs, *uris: str) -> float:
    from safetensors.torch import load

    one, two = (load(jobs.bucket.read(uri)) for uri in uris)
    assert one.keys() == two.keys()
    return max(float((one[name].float() - two[name].float()).abs().max()) for name in one)


@side_by_side
def test_the_death_of_a_rank_ends_the_other_and_a_new_attempt_goes_on(jobs: Jobs) -> None:
    long = {"training__maxSteps": STEPS, "checkpoints__everySteps": 10}
    jobs.apply("gang", **long, **on_two_nodes(LINKS[1]), **NO_MERGE)

    first_saved = jobs.wait_for_checkpoint("gang", attempt=1)["checkpoint"]["step"]
    pods = jobs.pods("gang", attempt=1)
    nodes.kill_container(uid_of(pods[1]))
    wait_for_end_of_all(pods)

    status = jobs.wait_for_checkpoint("gang", first_saved + 20, attempt=2)
    saved, first = status["checkpoint"]["step"], attempts_of(status)[0]
    assert (first["rank"], first["node"], first["exitCode"]) == (1, pods[1]["spec"]["nodeName"], 137)
    assert first["decision"].startswith("Restarted")
    assert first["advice"]
    again = jobs.pods("gang", attempt=2)
    jobs.kubectl("delete", "pod", "--grace-period=0", "--force", again[1]["metadata"]["name"])
    wait_for_end_of_all(again)

    status = jobs.wait_for("gang", "Succeeded")
    assert [each["outcome"] for each in attempts_of(status)] == ["Failed", "Failed", "Succeeded"]
    lines = jobs.metrics(status)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    starts = {line["attempt"]: line["step"] for line in reversed(lines)}
    assert starts[2] > first_saved
    assert starts[3] > saved


def uid_of(pod: JsonObject) -> str:
    return str(pod["metadata"]["uid"])


def wait_for_end_of_all(pods: list[JsonObject]) -> None:
    """No process of the gang may be left 30 s after one of its ranks has died."""
    wait_until(
        lambda: [nodes.argv_of(pid) for pod in pods for pid in nodes.processes_of_pod(uid_of(pod))],
        lambda running: all(argv[:1] in ([nodes.PAUSE], []) for argv in running),
        "all ranks have ended",
        30,
    )

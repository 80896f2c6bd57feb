"""Jobs disturbed in every way that keeps their state: the model is that of a job that nobody disturbed, bit for bit."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from examples.quickstart.environment import Environment
from tests.e2e import installation
from tests.e2e.deadlines import wait_until
from tests.e2e.jobs import NO_MERGE, Jobs, JsonObject, attempts_of
from tests.e2e.nodes import STATE
from tests.e2e.side_by_side import side_by_side

# Steps large enough to be disturbed three times on the way, and for a minute's outage in the middle.
LARGE = {"training__globalBatchSize": 64, "training__maxSteps": 500, "checkpoints__everySteps": 10}
OUTAGE_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """What a run learned: step and loss of each line of its metrics, and its model."""

    losses: list[tuple[int, float]]
    manifest_digest: str


# Of a job that nobody disturbs: trained once for all tests of this module.
calm_runs: list[Run] = []


@side_by_side
def test_told_to_go_three_times_it_loses_nothing_and_the_model_is_the_same(jobs: Jobs) -> None:
    """Its pod deleted, evicted, and its Job suspended and resumed as Kueue does it."""
    jobs.apply("calm", **LARGE, **NO_MERGE)
    jobs.apply("moved", **LARGE, **NO_MERGE)

    first = jobs.wait_for_checkpoint("moved")["checkpoint"]["step"]
    jobs.kubectl("delete", "pod", "--wait=false", jobs.pods("moved")[0]["metadata"]["name"])
    second = jobs.wait_for_checkpoint("moved", first + 20, attempt=2)["checkpoint"]["step"]
    jobs.evict(jobs.pods("moved", attempt=2)[0])
    third = jobs.wait_for_checkpoint("moved", second + 20, attempt=3)["checkpoint"]["step"]
    pods = {pod["metadata"]["uid"] for pod in jobs.pods("moved", attempt=3)}
    suspend_child(jobs, "moved-train-3", is_suspended=True)
    jobs.wait_until("moved", "queued", lambda s: s["phase"] == "Queued")
    suspend_child(jobs, "moved-train-3", is_suspended=False)
    jobs.wait_for_checkpoint("moved", third + 20, attempt=3)
    assert pods.isdisjoint(pod["metadata"]["uid"] for pod in jobs.pods("moved", attempt=3)), "new pods"

    calm_runs.append(read_run(jobs, jobs.wait_for("calm", "Succeeded")))
    moved = jobs.wait_for("moved", "Succeeded")

    attempts = attempts_of(moved)
    assert [(each["outcome"], each.get("exitCode")) for each in attempts[:2]] == [("Failed", 22)] * 2
    assert [each.get("stepsLost") for each in attempts[:2]] == [0, 0]
    assert len(attempts) == 3
    assert (moved.get("stepsLost", 0), moved.get("restarts", 0)) == (0, 0)
    assert moved["preemptions"] == 3
    assert_same_run(read_run(jobs, moved), calm_runs[0])


def suspend_child(jobs: Jobs, name: str, *, is_suspended: bool) -> None:
    """What Kueue does with a Job that it takes the quota from, and gives it back to."""
    jobs.kubectl("patch", "job", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": is_suspended}}))


def test_a_store_and_an_apiserver_that_go_away_in_the_middle_change_nothing(
    jobs: Jobs, environment: Environment
) -> None:
    if not calm_runs:
        jobs.apply("calm", **LARGE, **NO_MERGE)
        calm_runs.append(read_run(jobs, jobs.wait_for("calm", "Succeeded")))
    cluster = open_cluster(STATE.root, QUIET)

    jobs.apply("weathers", **LARGE, **NO_MERGE)
    saved = jobs.wait_for_checkpoint("weathers")["checkpoint"]["step"]
    plane = cluster.control_plane
    plane.stop_apiserver()
    plane.processes.stop("etcd")
    plane.start()
    installation.kill(environment)
    cluster.object_store.stop()
    stopped_at, step = time.monotonic(), jobs.status("weathers")["progress"]["step"]
    try:
        warned = jobs.wait_until("weathers", "warning", warns_of_the_store)
        assert warned["progress"]["step"] > step, "training goes on"
        wait_until(
            lambda: time.monotonic() - stopped_at, lambda passed: passed > OUTAGE_SECONDS, "a minute", 90
        )
    finally:
        cluster.object_store.start()

    status = jobs.wait_for("weathers", "Succeeded")
    assert status["checkpoint"]["step"] > saved
    assert [each["outcome"] for each in attempts_of(status)] == ["Succeeded"]
    assert (status.get("restarts", 0), status.get("stepsLost", 0)) == (0, 0)
    assert "StoreUnavailable" in jobs.event_reasons("weathers")
    assert_same_run(read_run(jobs, status), calm_runs[0])


def warns_of_the_store(status: JsonObject) -> bool:
    return "The store has taken no checkpoint" in status.get("message", "")


def read_run(jobs: Jobs, status: JsonObject) -> Run:
    losses = [(line["step"], line["loss"]) for line in jobs.metrics(status)]
    return Run(losses, status["outputs"]["manifestDigest"])


def assert_same_run(run: Run, calm: Run) -> None:
    """Every step once, with the same losses; the same files."""
    assert [step for step, _ in run.losses] == list(range(1, len(calm.losses) + 1))
    assert run.losses == calm.losses
    assert run.manifest_digest == calm.manifest_digest

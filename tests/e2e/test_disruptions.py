"""What happens to a run from outside: its pod is told to go, cut off or out of memory, and the run learns every step once."""

from __future__ import annotations

import json

from tests.e2e.jobs import NO_MERGE, Jobs, JsonObject, attempts_of
from tests.e2e.side_by_side import side_by_side

STEPS = 90


def evict(jobs: Jobs, pod: JsonObject) -> None:
    """Ask for the pod's eviction, as `kubectl drain` does."""
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/{name}/eviction"
    jobs.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


@side_by_side
def test_a_run_that_is_evicted_and_suspended_saves_each_time_and_loses_no_step(jobs: Jobs) -> None:
    jobs.apply("polite", training__maxSteps=STEPS, checkpoints__everySteps=1000, **NO_MERGE)

    jobs.wait_until("polite", "training", lambda s: s.get("progress", {}).get("step", 0) >= 3)
    evict(jobs, jobs.pods("polite")[0])
    evicted = jobs.wait_for_checkpoint("polite", attempt=2)["checkpoint"]["step"]

    jobs.wait_until("polite", "further", lambda s: s["progress"]["step"] > evicted + 3)
    jobs.patch("polite", suspend=True)
    status = jobs.wait_until("polite", "suspended", lambda s: s["phase"] == "Suspended", 60)
    suspended = status["checkpoint"]["step"]
    assert suspended > evicted
    assert [
        pod["status"]["phase"] for pod in jobs.pods("polite") if pod["status"]["phase"] == "Running"
    ] == []
    assert attempts_of(status)[-1]["outcome"] == "Stopped"

    jobs.patch("polite", suspend=False)
    status = jobs.wait_for("polite", "Succeeded")

    attempts = attempts_of(status)
    assert [each["number"] for each in attempts] == [1, 2, 3]
    assert (attempts[0]["exitCode"], attempts[0]["counted"]) == (22, False)
    assert attempts[1]["reason"] == "Suspended"
    assert {"Suspended", "Unsuspended"} <= set(jobs.event_reasons("polite"))
    lines = jobs.metrics(status)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    starts = {line["attempt"]: line["step"] for line in reversed(lines)}
    assert starts == {1: 1, 2: evicted + 1, 3: suspended + 1}, "each goes on right after what was saved"


@side_by_side
def test_a_run_whose_pod_and_then_whose_job_are_deleted_goes_on_from_its_last_checkpoint(jobs: Jobs) -> None:
    jobs.apply("rude", training__maxSteps=STEPS, checkpoints__everySteps=4, **NO_MERGE)

    first = jobs.wait_for_checkpoint("rude", 8)["checkpoint"]["step"]
    jobs.kubectl("delete", "pod", "--grace-period=0", "--force", jobs.pods("rude")[0]["metadata"]["name"])
    second = jobs.wait_for_checkpoint("rude", first + 8, attempt=2)["checkpoint"]["step"]
    jobs.kubectl("delete", "job", "rude-train-2")

    status = jobs.wait_for("rude", "Succeeded")

    assert [(each["number"], each["outcome"]) for each in attempts_of(status)] == [
        (1, "Failed"),
        (2, "Failed"),
        (3, "Succeeded"),
    ]
    assert attempts_of(status)[1]["reason"] == "Deleted"
    assert "Restarting" in jobs.event_reasons("rude")
    lines = jobs.metrics(status)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    starts = {line["attempt"]: line["step"] for line in reversed(lines)}
    assert starts[2] > first
    assert starts[3] > second


@side_by_side
def test_a_container_over_its_memory_limit_is_told_apart_and_not_restarted_for_ever(jobs: Jobs) -> None:
    small = {"resources__memory": "200Mi", "resources__sharedMemory": "16Mi"}
    jobs.apply("backs-off", failurePolicy__maxRestarts=1, **small)
    jobs.apply("gives-up", failurePolicy__onOutOfMemory="Fail", **small)
    jobs.apply("prepares", resources__prepare={"cpu": "100m", "memory": "16Mi", "ephemeralStorage": "1Gi"})

    for name, stage, attempts, limit in (
        ("backs-off", "train", 2, "spec.resources.memory"),
        ("gives-up", "train", 1, "spec.resources.memory"),
        ("prepares", "prepare", 1, "spec.resources.prepare.memory"),
    ):
        status = jobs.wait_for(name, "Failed")
        ended = attempts_of(status, stage)
        assert [each["reason"] for each in ended] == ["OutOfMemory"] * attempts, name
        assert limit in ended[-1]["advice"], name
        assert ended[-1]["decision"].startswith("Not restarted"), name

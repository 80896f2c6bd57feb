"""What happens to a run from outside: its pod is told to go, cut off or out of memory, and the run learns every step once."""

from __future__ import annotations

from tests.e2e.jobs import NO_MERGE, Jobs, JsonObject, attempts_of
from tests.e2e.side_by_side import side_by_side

# Enough to be disturbed twice on the way, on a machine that has nothing else to do.
STEPS = 400
ENDLESS = 100_000


@side_by_side
def test_a_run_that_is_evicted_and_suspended_saves_each_time_and_loses_no_step(jobs: Jobs) -> None:
    jobs.apply("polite", training__maxSteps=ENDLESS, checkpoints__everySteps=ENDLESS)

    jobs.wait_until("polite", "training", lambda s: s.get("progress", {}).get("step", 0) >= 3)
    jobs.evict(jobs.pods("polite")[0])
    evicted = jobs.wait_for_checkpoint("polite", attempt=2)["checkpoint"]["step"]
    jobs.wait_until("polite", "further", lambda s: s["progress"]["step"] > evicted)
    suspended = suspend(jobs, "polite")
    jobs.patch("polite", suspend=False)
    jobs.wait_until(
        "polite", "further again", lambda s: s["progress"]["step"] > suspended["checkpoint"]["step"]
    )
    status = suspend(jobs, "polite")

    attempts = attempts_of(status)
    assert [each["number"] for each in attempts] == [1, 2, 3]
    assert [(each["exitCode"], each["counted"]) for each in attempts] == [(22, False)] * 3
    assert attempts[0]["outcome"] == "Failed"
    assert [(each["outcome"], each["reason"]) for each in attempts[1:]] == [("Stopped", "Suspended")] * 2
    assert {"Suspended", "Unsuspended"} <= set(jobs.event_reasons("polite"))
    lines = jobs.metrics(status)
    assert [line["step"] for line in lines] == list(range(1, status["checkpoint"]["step"] + 1))
    starts = {line["attempt"]: line["step"] for line in reversed(lines)}
    saved = {1: 1, 2: evicted + 1, 3: suspended["checkpoint"]["step"] + 1}
    assert starts == saved, "each goes on right after what was saved"


def suspend(jobs: Jobs, name: str) -> JsonObject:
    """Suspend a job that trains; its status once no pod of it runs any more."""
    before = jobs.status(name).get("checkpoint", {}).get("step", 0)
    jobs.patch(name, suspend=True)
    status = jobs.wait_until(name, "suspended", lambda s: s["phase"] == "Suspended")
    assert [pod for pod in jobs.pods(name) if pod["status"]["phase"] == "Running"] == []
    assert status["checkpoint"]["step"] > before
    return status


@side_by_side
def test_a_run_whose_pod_and_then_whose_job_are_deleted_goes_on_from_its_last_checkpoint(jobs: Jobs) -> None:
    jobs.apply(
        "rude", training__maxSteps=STEPS, training__globalBatchSize=64, checkpoints__everySteps=10, **NO_MERGE
    )

    first = jobs.wait_for_checkpoint("rude")["checkpoint"]["step"]
    jobs.kubectl("delete", "pod", "--grace-period=0", "--force", jobs.pods("rude")[0]["metadata"]["name"])
    second = jobs.wait_for_checkpoint("rude", first + 20, attempt=2)["checkpoint"]["step"]
    jobs.kubectl("delete", "job", "rude-train-2")

    status = jobs.wait_for("rude", "Succeeded")

    attempts = attempts_of(status)
    assert [each["outcome"] for each in attempts] == ["Failed", "Failed", "Succeeded"]
    assert attempts[1]["exitCode"] == 22, "its pod was told to go, and saved"
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

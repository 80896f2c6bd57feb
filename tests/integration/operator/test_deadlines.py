"""How long a job may wait, how long its pods may run, and how long it stays when it is finished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.operator.api_client import CORE, Api, wait_until
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, End, Kubelet, job_is_there
from tests.integration.operator.kubelet import write_status as write_pod_status
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    condition,
    reach_preparing,
    reach_train_job,
    reach_training,
    saved,
)


def test_a_job_that_no_node_takes_ends_with_the_schedulers_own_words(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__pendingDeadlineSeconds=2)

    status = api.wait_for_status("bot", 30, phase="Failed")

    assert status["reason"] == "PendingDeadlineExceeded"
    assert "spec.failurePolicy.pendingDeadlineSeconds" in status["message"]
    assert "nodes are available" in status["message"], status["message"]
    assert condition(status, "Failed") == ("True", "PendingDeadlineExceeded")
    wait_until(lambda: api.list_objects(CORE, "pods") == [], what=lambda: "end of the pod that waited")
    assert attempts(api) == [("prepare", 1, "Stopped", "PendingDeadlineExceeded")]


def test_waiting_is_counted_for_each_wait_not_in_all(api: Api, kubelet: Kubelet) -> None:
    """A pod that has started ends the wait; the next stage's wait begins anew."""
    apply_job(api, failurePolicy__pendingDeadlineSeconds=3600)
    kubelet.pod_of("bot-prepare-1")
    first = wait_until(lambda: api.status("bot").get("waitingSince"))

    reach_preparing(api, kubelet)
    assert "waitingSince" not in api.status("bot")
    reach_train_job(api, kubelet)

    second = wait_until(lambda: api.status("bot").get("waitingSince"))
    assert second >= first


def test_time_suspended_is_not_waiting(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, suspend=True, failurePolicy__pendingDeadlineSeconds=1)

    status = api.wait_for_status("bot", phase="Suspended")

    assert "waitingSince" not in status
    apply_job(api, "clock", failurePolicy__pendingDeadlineSeconds=1)
    api.wait_for_status("clock", 30, phase="Failed", reason="PendingDeadlineExceeded")
    assert api.status("bot")["phase"] == "Suspended"


def test_a_refused_creation_is_bounded_too(api: Api) -> None:
    api.create(
        CORE, "resourcequotas", {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    )
    apply_job(api, failurePolicy__pendingDeadlineSeconds=2)

    status = api.wait_for_status("bot", 30, phase="Failed", reason="PendingDeadlineExceeded")

    assert "exceeded quota: none" in status["message"]


def test_the_pods_running_time_is_bounded_and_summed_over_attempts(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__activeDeadlineSeconds=600)
    first = job_is_there(api, "bot-prepare-1")
    assert first["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 600
    assert "activeDeadlineSeconds" not in first["spec"], "it would count waiting and suspensions"
    reach_preparing(api, kubelet)
    started = api.status("bot")["attempts"][0]["runningSince"]
    wait_until(lambda: kubelet.pod_of("bot-prepare-1") and now_is_after(started, seconds=2))
    kubelet.succeed("bot-prepare-1", PREPARED)

    left = job_is_there(api, "bot-train-1")["spec"]["template"]["spec"]["activeDeadlineSeconds"]
    used = api.wait_for_status("bot", phase="Queued")["activeSeconds"]
    assert used >= 2
    assert left == 600 - used


def test_it_holds_while_the_operator_runs(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__activeDeadlineSeconds=2)
    reach_preparing(api, kubelet, node=PARKING)

    kubelet.obey_deletion("bot-prepare-1", End(22))
    status = api.wait_for_status("bot", phase="Failed")

    assert status["reason"] == "ActiveDeadlineExceeded"
    assert "spec.failurePolicy.activeDeadlineSeconds" in status["message"]
    assert attempts(api) == [("prepare", 1, "Stopped", "ActiveDeadlineExceeded")]


def test_it_holds_with_the_operator_down(api: Api, kubelet: Kubelet, operator: OperatorProcess) -> None:
    """The kubelet ends the pod by itself; the operator finds it ended."""
    apply_job(api, failurePolicy__activeDeadlineSeconds=600)
    reach_training(api, kubelet)
    with operator.down():
        why = "Pod was active on the node longer than the specified deadline"
        ended = {"phase": "Failed", "reason": "DeadlineExceeded", "message": why}
        write_pod_status(api, kubelet.pod_of("bot-train-1"), ended)

    status = api.wait_for_status("bot", phase="Failed")

    assert status["attempts"][-1]["reason"] == "DeadlineExceeded"
    assert "activeDeadlineSeconds" in status["attempts"][-1]["advice"]
    assert "bot-train-2" not in child_jobs(api)


def test_a_deadline_that_was_raised_lets_a_retry_go_on(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__activeDeadlineSeconds=3)
    reach_training(api, kubelet, node=PARKING)
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    api.wait_for_status("bot", phase="Failed", reason="ActiveDeadlineExceeded")

    api.patch_spec("bot", failurePolicy={"activeDeadlineSeconds": 900}, retry=1)

    left = job_is_there(api, "bot-train-2")["spec"]["template"]["spec"]["activeDeadlineSeconds"]
    assert 800 < left < 900


def test_a_finished_job_goes_when_its_time_is_up_and_what_runs_stays(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, ttlSecondsAfterFinished=1)
    apply_job(api, "other", ttlSecondsAfterFinished=1)
    reach_preparing(api, kubelet, "other")
    kubelet.fail("bot-prepare-1", 11)

    wait_until(
        lambda: child_jobs(api) and api.read("apis/finetune.dev/v1alpha1", "finetunejobs", "bot") is None
    )

    assert api.status("other")["phase"] == "Preparing"


@pytest.mark.parametrize("outcome", ["Succeeded", "Failed"])
def test_a_time_to_live_that_is_set_later_counts_from_the_end(
    api: Api, kubelet: Kubelet, outcome: str
) -> None:
    apply_job(api)
    if outcome == "Succeeded":
        kubelet.succeed("bot-prepare-1", PREPARED)
        kubelet.succeed("bot-train-1", TRAINED)
        kubelet.succeed("bot-export-1", EXPORTED)
    else:
        kubelet.fail("bot-prepare-1", 11)
    api.wait_for_status("bot", phase=outcome)

    api.patch_spec("bot", ttlSecondsAfterFinished=0)

    wait_until(lambda: api.read("apis/finetune.dev/v1alpha1", "finetunejobs", "bot") is None)


def test_a_dry_run_ends_after_prepare(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, stopAfter="Prepare")
    kubelet.succeed("bot-prepare-1", PREPARED)

    status = api.wait_for_status("bot", phase="Succeeded")

    assert status["reason"] == "StoppedAfterPrepare"
    assert status["message"].startswith(PREPARED["message"])
    assert "data-report.html" in status["message"]
    assert condition(status, "Succeeded") == ("True", "StoppedAfterPrepare")
    assert condition(status, "Exported")[0] == "False"
    assert child_jobs(api) == ["bot-prepare-1"]


def now_is_after(started: str, *, seconds: int) -> bool:
    """Whether so many seconds have gone by since a time of the API."""

    return datetime.now(UTC) > datetime.fromisoformat(started) + timedelta(seconds=seconds)

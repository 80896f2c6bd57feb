"""A job with a queue, on a stand-in that does to its Job what Kueue does (see kueue.py) and on a cluster without Kueue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from devcluster import ControlPlane
from tests.integration.operator import kueue as kueue_stand_in
from tests.integration.operator.api_client import BATCH, Api, wait_until
from tests.integration.operator.audit import read_writes
from tests.integration.operator.kubelet import End, Kubelet, job_is_gone, job_is_there, now_in_seconds
from tests.integration.operator.kueue import POD_SET_LABEL, PRIORITY_LABEL, QUEUE_LABEL, Kueue
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    child_jobs,
    condition,
    finish_from_training,
    reach_train_job,
    saved,
)

FLAVOR = {"cloud.example/accelerator": "h200"}
SPOT = [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.fixture(scope="module", autouse=True)
def served(control_plane: ControlPlane) -> Iterator[None]:
    """The API of Workloads."""
    api = Api(control_plane, "default")
    kueue_stand_in.install(api, *kueue_stand_in.SERVED)
    yield
    kueue_stand_in.uninstall(api)


@pytest.fixture
def kueue(api: Api) -> Kueue:
    """Kueue for the test's namespace."""
    return Kueue(api)


def reach_queue(api: Api, kubelet: Kubelet, kueue: Kueue, **changes: Any) -> None:
    """Prepared, and waiting in queue team-a."""
    apply_job(api, queueName="team-a", **changes)
    kubelet.succeed("bot-prepare-1", {"reason": "Prepared", "message": "480 rows are ready."})
    kueue.queue("bot-train-1")
    api.wait_for_status("bot", phase="Queued")


def reach_training(api: Api, kubelet: Kubelet, kueue: Kueue, **changes: Any) -> None:
    """Admitted to a flavour, and training."""
    reach_queue(api, kubelet, kueue, **changes)
    kueue.admit("bot-train-1", node_selector=FLAVOR, tolerations=SPOT)
    kubelet.start("bot-train-1", node=PARKING)
    api.wait_for_status("bot", phase="Training")


def test_the_stand_in_leaves_a_job_as_it_was_when_it_evicts_it(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    reach_queue(api, kubelet, kueue)
    before = job_is_there(api, "bot-train-1")
    kueue.admit("bot-train-1", node_selector=FLAVOR, tolerations=SPOT)
    kubelet.pod_of("bot-train-1")

    kueue.evict("bot-train-1")

    after = job_is_there(api, "bot-train-1")
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("annotations") == before["metadata"].get("annotations")


def test_only_the_train_job_is_queued(api: Api, kubelet: Kubelet, kueue: Kueue) -> None:
    apply_job(api, queueName="team-a", workloadPriorityClassName="urgent")
    prepare = job_is_there(api, "bot-prepare-1")
    assert QUEUE_LABEL not in prepare["metadata"]["labels"]
    assert not prepare["spec"].get("suspend")
    kubelet.succeed("bot-prepare-1", {"reason": "Prepared", "message": "480 rows are ready."})

    train = job_is_there(api, "bot-train-1")
    assert train["metadata"]["labels"][QUEUE_LABEL] == "team-a"
    assert train["metadata"]["labels"][PRIORITY_LABEL] == "urgent"
    assert train["spec"]["suspend"] is True
    kueue.queue("bot-train-1")
    kueue.admit("bot-train-1")
    finish_from_training(api, kubelet)
    assert QUEUE_LABEL not in job_is_there(api, "bot-export-1")["metadata"]["labels"]


def test_kueues_own_words_say_why_it_waits(api: Api, kubelet: Kubelet, kueue: Kueue) -> None:
    apply_job(api, queueName="team-a")
    reach_message = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu"
    kubelet.succeed("bot-prepare-1", {"reason": "Prepared", "message": "480 rows are ready."})
    kueue.queue("bot-train-1", reach_message)

    status = wait_until(
        lambda: s if reach_message in (s := api.status("bot")).get("message", "") else None,
        15,
        lambda: f"Kueue's message; status is {api.status('bot')}",
    )

    assert (status["phase"], status["reason"]) == ("Queued", "Queued")
    assert "team-a" in status["message"]
    assert "waitingSince" not in status, "time in a queue is not counted as waiting"


def test_what_kueue_injects_is_never_put_back(
    api: Api, kubelet: Kubelet, kueue: Kueue, operator: OperatorProcess, control_plane: ControlPlane
) -> None:
    reach_training(api, kubelet, kueue)

    with operator.down():
        pass
    apply_job(api, "later")
    job_is_there(api, "later-prepare-1")

    template = job_is_there(api, "bot-train-1")["spec"]["template"]
    assert template["spec"]["nodeSelector"] == FLAVOR
    assert SPOT[0].items() <= template["spec"]["tolerations"][-1].items()
    assert template["metadata"]["labels"][POD_SET_LABEL] == "main"
    pod = kubelet.pod_of("bot-train-1")
    assert pod["spec"]["nodeSelector"] == FLAVOR
    assert attempts(api)[-1] == ("train", 1, "Running", None)
    assert verbs_on(control_plane, api, "bot-train-1") == {"create"}


def verbs_on(control_plane: ControlPlane, api: Api, job_name: str) -> set[str]:
    """What the operator has ever done to a Job."""
    writes = read_writes(control_plane, api.namespace)
    return {each.verb for each in writes if (each.resource, each.name) == ("jobs", job_name)}


def test_an_evicted_job_is_queued_again_and_goes_on_as_the_same_attempt(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    reach_training(api, kubelet, kueue)
    uid = job_is_there(api, "bot-train-1")["metadata"]["uid"]

    kueue.evict("bot-train-1")
    status = api.wait_for_status("bot", reason="KueueEvicted")
    assert status["phase"] == "Training", "its pod still saves"
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    status = api.wait_for_status("bot", phase="Queued", reason="KueueEvicted")
    assert (status["preemptions"], status["restarts"]) == (1, 0)
    assert condition(status, "Running")[0] == "False"
    assert status["checkpoint"]["step"] == 40
    api.wait_for_event("bot", "Warning", "KueueEvicted")

    kueue.admit("bot-train-1", node_selector={"cloud.example/accelerator": "b200"})
    kubelet.start("bot-train-1", node=PARKING)
    status = api.wait_for_status("bot", phase="Training")
    assert attempts(api)[-1] == ("train", 1, "Running", None)
    assert job_is_there(api, "bot-train-1")["metadata"]["uid"] == uid
    assert job_is_there(api, "bot-train-1")["spec"]["suspend"] is False

    finish_from_training(api, kubelet)
    assert api.status("bot")["preemptions"] == 1


def test_a_second_eviction_counts_once_more(api: Api, kubelet: Kubelet, kueue: Kueue) -> None:
    reach_training(api, kubelet, kueue)
    for count in (1, 2):
        kueue.evict("bot-train-1")
        kubelet.obey_deletion("bot-train-1", End(22, message=saved(40 * count)))
        api.wait_for_status("bot", phase="Queued", preemptions=count, restarts=0)
        kueue.admit("bot-train-1")
        kubelet.start("bot-train-1", node=PARKING)
        api.wait_for_status("bot", phase="Training")
    assert [number for _, number, *_ in attempts(api)] == [1, 1]


def test_it_may_be_admitted_again_while_its_old_pod_still_saves(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    """Kueue asks for active pods only, and those of a suspended Job are not counted as such."""
    reach_training(api, kubelet, kueue)
    old = kubelet.pod_of("bot-train-1")["metadata"]["uid"]
    began = api.status("bot")["attempts"][-1]["runningSince"]

    kueue.evict("bot-train-1")
    kueue.admit("bot-train-1")
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
    wait_until(lambda: kubelet.pod_of("bot-train-1")["metadata"]["uid"] != old)
    # Times are told in seconds, and no node ends a pod and starts the next one within the same.
    wait_until(lambda: now_in_seconds() > began)
    kubelet.start("bot-train-1", node=PARKING)

    status = api.wait_for_status("bot", phase="Training", restarts=0, preemptions=1)
    assert attempts(api)[-1] == ("train", 1, "Running", None)
    assert status["attempts"][-1]["runningSince"]
    finish_from_training(api, kubelet)


def test_an_eviction_that_is_seen_late_is_still_no_failure(
    api: Api, kubelet: Kubelet, kueue: Kueue, operator: OperatorProcess
) -> None:
    reach_training(api, kubelet, kueue)
    with operator.down():
        kueue.evict("bot-train-1")
        kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))

    status = api.wait_for_status("bot", phase="Queued", reason="KueueEvicted")

    assert (status["restarts"], status["preemptions"]) == (0, 1)
    assert attempts(api)[-1] == ("train", 1, "Running", None)


def test_an_eviction_and_admission_while_the_operator_is_down_are_found(
    api: Api, kubelet: Kubelet, kueue: Kueue, operator: OperatorProcess
) -> None:
    reach_training(api, kubelet, kueue)
    with operator.down():
        kueue.evict("bot-train-1")
        kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)))
        kueue.admit("bot-train-1")
        kubelet.start("bot-train-1", node=PARKING)

    api.wait_for_status("bot", phase="Training", restarts=0)
    finish_from_training(api, kubelet)
    assert attempts(api)[1][:3] == ("train", 1, "Succeeded")


def test_a_rank_that_fails_in_the_race_of_an_eviction_was_preempted(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    """Its peer had got SIGTERM first, so its connection broke before its own SIGTERM came."""
    reach_queue(api, kubelet, kueue, parallelism__nodes=2)
    kueue.admit("bot-train-1")
    kubelet.start_all("bot-train-1", 2, PARKING)
    api.wait_for_status("bot", phase="Training")

    api.patch(BATCH, "jobs", "bot-train-1", {"spec": {"suspend": True}})
    wait_until(lambda: "deletionTimestamp" in kubelet.pod_of("bot-train-1", 1)["metadata"])
    kubelet.fail(
        "bot-train-1", 1, message={"reason": "Unknown", "message": "Connection closed by peer"}, rank=1
    )
    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)), rank=0)

    status = wait_until(lambda: s if (s := api.status("bot"))["preemptions"] == 1 else None)
    assert status["restarts"] == 0
    assert attempts(api)[1][2:] != ("Failed", "Unknown")


def test_a_rank_that_fails_before_the_eviction_ends_the_attempt_as_preempted(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    """The Job controller counts it, so the Job has failed although it was about to be suspended."""
    reach_queue(api, kubelet, kueue, parallelism__nodes=2)
    kueue.admit("bot-train-1")
    kubelet.start_all("bot-train-1", 2, PARKING)
    api.wait_for_status("bot", phase="Training")

    kubelet.fail("bot-train-1", 22, message=saved(40), rank=0)
    kubelet.obey_deletion(
        "bot-train-1", End(1, message={"reason": "Unknown", "message": "Connection closed"}), rank=1
    )

    train = wait_until(lambda: a if (a := attempts(api)[1])[2] == "Failed" else None)
    assert train == ("train", 1, "Failed", "Preempted")
    again = job_is_there(api, "bot-train-2")
    assert again["spec"]["suspend"] is True
    status = api.wait_for_status("bot", phase="Queued")
    assert (status["restarts"], status["preemptions"]) == (0, 1)


def test_the_users_own_suspend_deletes_the_queued_job_and_resumes_as_the_next(
    api: Api, kubelet: Kubelet, kueue: Kueue
) -> None:
    reach_queue(api, kubelet, kueue)

    api.patch_spec("bot", suspend=True)
    api.wait_for_status("bot", phase="Suspended")
    job_is_gone(api, "bot-train-1")
    wait_until(lambda: kueue.workload("bot-train-1") is None, 60, lambda: "end of the Workload")
    api.patch_spec("bot", suspend=False)

    kueue.queue("bot-train-2")
    api.wait_for_status("bot", phase="Queued", preemptions=0)


def test_a_queued_job_may_be_given_another_queue(api: Api, kubelet: Kubelet, kueue: Kueue) -> None:
    reach_queue(api, kubelet, kueue)

    api.patch_spec("bot", queueName="team-b")

    assert job_is_there(api, "bot-train-2")["metadata"]["labels"][QUEUE_LABEL] == "team-b"
    wait_until(lambda: attempts(api)[1] == ("train", 1, "Stopped", "SpecChanged"))


def test_any_child_that_somebody_suspends_is_shown_as_queued_and_left_alone(
    api: Api, kubelet: Kubelet, kueue: Kueue, operator: OperatorProcess, control_plane: ControlPlane
) -> None:
    """A cluster-wide Kueue queues every Job, also those that ask for no queue."""
    apply_job(api)
    job_is_there(api, "bot-prepare-1")
    kueue.suspend("bot-prepare-1")
    kueue.queue("bot-prepare-1")

    api.wait_for_status("bot", reason="Queued")
    with operator.down():
        pass
    assert "bot-prepare-1" in api.wait_for_status("bot", reason="Queued")["message"]
    assert job_is_there(api, "bot-prepare-1")["spec"]["suspend"] is True
    assert verbs_on(control_plane, api, "bot-prepare-1") == {"create"}

    kueue.admit("bot-prepare-1")
    reach_train_job(api, kubelet)
    assert child_jobs(api, "train") == ["bot-train-1"]

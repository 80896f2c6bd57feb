"""Multi-node attempts: one Indexed Job with a headless Service, started, ended and restarted as one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.operator.api_client import CORE, Api, wait_until
from tests.integration.operator.kubelet import EXPORTED, TRAINED, End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.steps import apply_job, attempts, reach_train_job, saved

CONNECTION_LOST = {
    "reason": "Unknown",
    "message": "RuntimeError: Connection closed by peer [10.0.0.7]:29500",
    "rank": 0,
}
STORE_IS_DOWN = {"reason": "StorageUnavailable", "message": "The store is down.", "step": 12, "rank": 1}


def reach_gang(api: Api, kubelet: Kubelet, ranks: int = 2, **changes: Any) -> None:
    """All pods of a multi-node attempt run, each where a pod that is deleted has its grace period."""
    apply_job(api, parallelism__nodes=ranks, **changes)
    reach_train_job(api, kubelet)
    kubelet.start_all("bot-train-1", ranks, PARKING)
    api.wait_for_status("bot", phase="Training")


def test_it_is_an_indexed_job_behind_a_headless_service_of_its_name(api: Api, kubelet: Kubelet) -> None:
    reach_gang(api, kubelet, 3)

    job, service = job_is_there(api, "bot-train-1"), api.read(CORE, "services", "bot-train-1")

    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["subdomain"] == "bot-train-1"
    assert service is not None
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    for rank, pod in enumerate(kubelet.pods_of("bot-train-1", 3)):
        assert pod["spec"]["hostname"] == f"bot-train-1-{rank}"
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert api.status("bot")["display"]["gpus"] == "3"


def test_it_trains_only_when_every_rank_runs(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, parallelism__nodes=2)
    reach_train_job(api, kubelet)

    kubelet.start("bot-train-1", 0)
    # A change that the operator has seen, so that what it says about the first pod can be relied on.
    api.patch_spec("bot", ttlSecondsAfterFinished=86400)
    status = api.wait_for_status("bot", observedGeneration=2)
    assert status["phase"] == "Queued"

    kubelet.start("bot-train-1", 1)
    api.wait_for_status("bot", phase="Training")


def test_when_one_rank_dies_the_whole_gang_ends_and_starts_anew(api: Api, kubelet: Kubelet) -> None:
    reach_gang(api, kubelet)

    kubelet.fail("bot-train-1", 20, message=STORE_IS_DOWN, rank=1)
    kubelet.obey_deletion("bot-train-1", End(1, message=CONNECTION_LOST), rank=0)

    kubelet.start_all("bot-train-2", 2)
    status = api.wait_for_status("bot", phase="Training", restarts=1)
    failed = status["attempts"][-2]
    assert (failed["reason"], failed["rank"], failed["step"], failed["exitCode"]) == (
        "StorageUnavailable",
        1,
        12,
        20,
    )
    assert failed["message"] == "The store is down."
    assert api.read(CORE, "services", "bot-train-2") is not None


def test_the_next_gang_waits_until_no_pod_of_the_last_one_runs(api: Api, kubelet: Kubelet) -> None:
    reach_gang(api, kubelet)

    kubelet.fail("bot-train-1", 20, message=STORE_IS_DOWN, rank=1)
    wait_until(lambda: "deletionTimestamp" in kubelet.pod_of("bot-train-1", 0)["metadata"])
    api.patch_spec("bot", ttlSecondsAfterFinished=86400)
    api.wait_for_status("bot", observedGeneration=2)
    assert attempts(api)[-1][:3] == ("train", 1, "Running")

    kubelet.obey_deletion("bot-train-1", End(1, message=CONNECTION_LOST), rank=0)
    job_is_there(api, "bot-train-2")


@pytest.mark.parametrize(
    ("first", "later", "root_cause"),
    [
        pytest.param(
            End(1, message=CONNECTION_LOST),
            End(20, message=STORE_IS_DOWN),
            "StorageUnavailable",
            id="a specific class that came later wins over a lost connection",
        ),
        pytest.param(
            End(10, message={"reason": "UserError", "message": "adapter does not fit"}),
            End(22),
            "UserError",
            id="a rank that was told to go hides nothing",
        ),
        pytest.param(
            End(137, reason="OOMKilled"),
            End(1, message=CONNECTION_LOST),
            "OutOfMemory",
            id="a rank killed for memory wins over a lost connection",
        ),
    ],
)
def test_the_root_cause_is_the_most_specific_rank(
    api: Api, kubelet: Kubelet, first: End, later: End, root_cause: str
) -> None:
    reach_gang(api, kubelet)

    kubelet.fail(
        "bot-train-1", first.exit_code, reason=first.reason or "Error", message=first.message, rank=0
    )
    kubelet.obey_deletion("bot-train-1", later, rank=1)

    wait_until(
        lambda: attempts(api)[1] == ("train", 1, "Failed", root_cause),
        what=lambda: f"{root_cause}: {attempts(api)}",
    )


def test_it_succeeds_when_all_ranks_have(api: Api, kubelet: Kubelet) -> None:
    reach_gang(api, kubelet)

    kubelet.succeed("bot-train-1", {"reason": "Trained", "message": "Rank 1 is done."}, rank=1)
    kubelet.succeed("bot-train-1", TRAINED, rank=0)

    kubelet.succeed("bot-export-1", EXPORTED)
    status = api.wait_for_status("bot", phase="Succeeded")
    assert status["progress"]["step"] == 90
    wait_until(lambda: api.list_objects(CORE, "services") == [], what=lambda: "end of the Service")


def test_a_gang_that_gets_half_its_nodes_gives_them_back(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, parallelism__nodes=2, failurePolicy__gangStartTimeoutSeconds=10)
    reach_train_job(api, kubelet)
    kubelet.start("bot-train-1", 0, PARKING)

    kubelet.obey_deletion("bot-train-1", End(22), rank=0)

    status = api.wait_for_status("bot", phase="Restarting", reason="GangIncomplete")
    assert (status["restarts"], status["incompleteGangs"]) == (0, 1)
    assert attempts(api)[-1] == ("train", 1, "Stopped", "GangIncomplete")
    assert "spec.failurePolicy.gangStartTimeoutSeconds" in status["attempts"][-1]["message"]
    assert api.list_objects(CORE, "pods", "finetune.dev/stage=train") == []


def test_all_ranks_that_save_count_as_one_preemption(api: Api, kubelet: Kubelet) -> None:
    reach_gang(api, kubelet)
    for rank in (0, 1):
        path = api.path(CORE, "pods", kubelet.pod_of("bot-train-1", rank)["metadata"]["name"])
        api.send("POST", f"{path}/eviction", {"metadata": {"name": path.rsplit("/", 1)[-1]}})

    kubelet.obey_deletion("bot-train-1", End(22, message=saved(40)), rank=0)
    kubelet.obey_deletion("bot-train-1", End(22), rank=1)

    kubelet.start_all("bot-train-2", 2)
    status = api.wait_for_status("bot", phase="Training", preemptions=1)
    assert status["restarts"] == 0

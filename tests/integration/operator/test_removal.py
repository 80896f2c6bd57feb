"""Deleting a FineTuneJob takes its children along; applying it again is a new run.

The garbage collector learns of a new kind within half a minute, so these come after the tests of the stages.
"""

from __future__ import annotations

from finetune_api import PLURAL
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    child_jobs,
    delete_job,
    reach_preparing,
    reach_train_job,
    reach_training,
)


def leftovers(api: Api) -> list[str]:
    """Names of all children that are still there."""
    kinds = ((BATCH, "jobs"), (CORE, "configmaps"), (CORE, "services"), (CORE, "pods"))
    names = [each["metadata"]["name"] for kind in kinds for each in api.list_objects(*kind)]
    return [name for name in names if name.startswith("bot")]


def test_deleting_the_job_removes_its_children(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")

    api.delete(FINETUNE, PLURAL, "bot")

    wait_until(lambda: leftovers(api) == [], 90, lambda: f"empty namespace; there are {leftovers(api)}")


def test_deleting_and_applying_the_same_job_again_runs_it_anew(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.start("bot-prepare-1")
    first = job_is_there(api, "bot-prepare-1")

    api.delete(FINETUNE, PLURAL, "bot")
    second = apply_job(api)

    def made_anew() -> bool:
        job = api.read(BATCH, "jobs", "bot-prepare-1")
        return job is not None and job["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]

    wait_until(made_anew, 90)
    assert second["metadata"]["uid"] != first["metadata"]["ownerReferences"][0]["uid"]
    kubelet.start("bot-prepare-1")
    api.wait_for_status("bot", phase="Preparing")


def test_a_running_pod_gets_sigterm_and_its_grace_period(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet, node=PARKING)

    delete_job(api)

    kubelet.obey_deletion("bot-train-1", End(22))
    wait_until(lambda: leftovers(api) == [], 90, lambda: f"end; there are {leftovers(api)}")
    assert api.list_objects(CORE, "pods") == []


def test_a_gangs_service_goes_too(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, parallelism__nodes=2)
    reach_train_job(api, kubelet)
    kubelet.start_all("bot-train-1", 2)

    delete_job(api)

    wait_until(lambda: leftovers(api) == [], 90, lambda: f"end; there are {leftovers(api)}")


def test_the_store_is_kept_unless_the_policy_says_otherwise(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_preparing(api, kubelet)

    delete_job(api)

    wait_until(lambda: leftovers(api) == [], 90)
    assert not [name for name in child_jobs(api) if "cleanup" in name]


def test_without_a_finalizer_nothing_waits_for_the_operator(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api)
    reach_preparing(api, kubelet)
    with operator.down():
        delete_job(api)
        wait_until(lambda: leftovers(api) == [], 90, lambda: f"end; there are {leftovers(api)}")

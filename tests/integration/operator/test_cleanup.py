"""deletionPolicy: Delete: this run's folder is removed before the FineTuneJob goes, and nothing is held up for ever."""

from __future__ import annotations

import json

import pytest

from finetune_api import PLURAL
from finetune_api.names import FINALIZER, LABEL_JOB
from finetune_operator.manifests.volumes import ANNOTATION_JOB_FILE
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import End, Kubelet, job_is_there
from tests.integration.operator.nodes import PARKING
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    child_jobs,
    delete_job,
    finish_from_training,
    reach_preparing,
    reach_training,
)

CLEANED_UP = {"reason": "CleanedUp", "message": "7 objects were removed."}


def finalizers(api: Api, name: str = "bot") -> list[str]:
    """Finalizers of a FineTuneJob."""
    found: list[str] = api.job(name)["metadata"].get("finalizers", [])
    return found


def wait_until_gone(api: Api, name: str = "bot", seconds: float = 30) -> None:
    """The FineTuneJob is no more."""

    def left() -> str:
        job = api.read(FINETUNE, PLURAL, name)
        return f"end of {name}; it is {job and (job['metadata'].get('finalizers'), job.get('status'))}"

    wait_until(lambda: api.read(FINETUNE, PLURAL, name) is None, seconds, left)


def test_the_finalizer_is_there_only_while_the_policy_is_delete(api: Api) -> None:
    apply_job(api)
    job_is_there(api, "bot-prepare-1")
    assert finalizers(api) == []

    api.patch_spec("bot", deletionPolicy="Delete")
    wait_until(lambda: finalizers(api) == [FINALIZER])

    api.patch_spec("bot", deletionPolicy="Retain")
    wait_until(lambda: finalizers(api) == [])


def test_a_finished_jobs_folder_is_removed_by_a_cleanup_job(api: Api, kubelet: Kubelet) -> None:
    created = apply_job(api, deletionPolicy="Delete")
    reach_training(api, kubelet)
    finish_from_training(api, kubelet)

    delete_job(api)
    cleanup = job_is_there(api, "bot-cleanup-1")
    assert "ownerReferences" not in cleanup["metadata"], "a foreground deletion would take it along"
    assert cleanup["spec"]["ttlSecondsAfterFinished"] == 600
    assert cleanup["metadata"]["labels"][LABEL_JOB] == "bot"
    container = cleanup["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "cleanup"
    # The job file stands in the Job itself: a ConfigMap that belongs to nobody would be left over.
    job_file = json.loads(cleanup["spec"]["template"]["metadata"]["annotations"][ANNOTATION_JOB_FILE])
    assert (job_file["uid"], job_file["stage"]) == (created["metadata"]["uid"], "cleanup")
    assert finalizers(api) == [FINALIZER]

    kubelet.succeed("bot-cleanup-1", CLEANED_UP)
    wait_until_gone(api)
    api.wait_for_event("bot", "Normal", "CleanedUp")


def test_its_pods_end_before_the_folder_is_touched(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_training(api, kubelet, node=PARKING)

    delete_job(api)
    wait_until(lambda: "deletionTimestamp" in kubelet.pod_of("bot-train-1")["metadata"])
    api.wait_for_status("bot", reason="CleaningUp")
    assert "bot-cleanup-1" not in child_jobs(api)

    kubelet.obey_deletion("bot-train-1", End(22))
    kubelet.succeed("bot-cleanup-1", CLEANED_UP)
    wait_until_gone(api)


def test_it_works_for_a_foreground_deletion_too(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet, node=PARKING)

    api.delete(FINETUNE, PLURAL, "bot", propagationPolicy="Foreground")

    kubelet.obey_deletion("bot-prepare-1", End(22))
    kubelet.succeed("bot-cleanup-1", CLEANED_UP)
    wait_until_gone(api, seconds=60)


@pytest.mark.parametrize(("exit_code", "reason"), [(13, "StorageDenied"), (10, "UserError")])
def test_a_refusal_lets_it_go_at_once_and_says_what_was_kept(
    api: Api, kubelet: Kubelet, exit_code: int, reason: str
) -> None:
    created = apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    delete_job(api)

    kubelet.fail(
        "bot-cleanup-1", exit_code, message={"reason": reason, "message": "Access to the bucket was denied."}
    )

    wait_until_gone(api)
    api.wait_for_event("bot", "Warning", "StoreKept")
    (kept,) = [each for each in api.list_objects(CORE, "events") if each["reason"] == "StoreKept"]
    assert f"s3://models/support-bot/runs/bot-{created['metadata']['uid'][:8]}" in kept["message"]
    assert "Access to the bucket was denied." in kept["message"]


def test_a_store_that_stays_away_is_given_up_after_five_attempts(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    delete_job(api)

    for attempt in range(1, 6):
        kubelet.fail(
            f"bot-cleanup-{attempt}", 20, message={"reason": "StorageUnavailable", "message": "down"}
        )

    wait_until_gone(api)
    api.wait_for_event("bot", "Warning", "StoreKept")


def test_a_store_that_comes_back_is_cleaned(api: Api, kubelet: Kubelet, operator: OperatorProcess) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    delete_job(api)
    kubelet.fail("bot-cleanup-1", 20, message={"reason": "StorageUnavailable", "message": "down"})

    with operator.down():
        pass
    kubelet.succeed("bot-cleanup-2", CLEANED_UP)

    wait_until_gone(api)
    api.wait_for_event("bot", "Normal", "CleanedUp")


def test_a_job_that_never_ran_goes_at_once(api: Api, operator: OperatorProcess) -> None:
    apply_job(api, deletionPolicy="Delete", suspend=True)
    wait_until(lambda: finalizers(api) == [FINALIZER])

    delete_job(api)

    wait_until_gone(api)
    assert child_jobs(api) == []


def test_a_policy_that_is_taken_back_while_it_is_being_deleted_lets_it_go(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    delete_job(api)
    job_is_there(api, "bot-cleanup-1")

    api.patch_spec("bot", deletionPolicy="Retain")

    wait_until_gone(api)


def test_with_the_operator_down_a_deletion_waits_for_it(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    apply_job(api, deletionPolicy="Delete")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    api.wait_for_status("bot", phase="Failed")
    with operator.down():
        delete_job(api)
        assert api.job("bot")["metadata"]["deletionTimestamp"]

    kubelet.succeed("bot-cleanup-1", CLEANED_UP)
    wait_until_gone(api)


def test_with_the_operator_down_the_documented_patch_lets_it_go(api: Api, operator: OperatorProcess) -> None:
    apply_job(api, deletionPolicy="Delete", suspend=True)
    wait_until(lambda: finalizers(api) == [FINALIZER])
    with operator.down():
        delete_job(api)
        api.patch(FINETUNE, PLURAL, "bot", {"metadata": {"finalizers": None}})
        wait_until_gone(api)


def test_only_this_runs_own_jobs_are_ended(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, deletionPolicy="Delete")
    apply_job(api, "other")
    reach_preparing(api, kubelet, "other")
    reach_preparing(api, kubelet)
    kubelet.fail("bot-prepare-1", 11)
    delete_job(api)

    kubelet.succeed("bot-cleanup-1", CLEANED_UP)
    wait_until_gone(api)

    assert api.status("other")["phase"] == "Preparing"
    assert api.read(BATCH, "jobs", "other-prepare-1") is not None

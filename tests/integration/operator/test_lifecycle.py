"""A FineTuneJob on a real control plane: its chain of Jobs, its status, its end. Pods are played by a stand-in."""

from __future__ import annotations

from finetune_api import PLURAL
from finetune_api.job_file import JobFile
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, Kubelet, job_is_there
from tests.integration.operator.steps import apply_job, condition


def test_a_job_goes_through_its_three_stages_to_succeeded(api: Api, kubelet: Kubelet) -> None:
    created = apply_job(api)
    kubelet.start("bot-prepare-1")
    status = api.wait_for_status("bot", phase="Preparing")
    assert condition(status, "Accepted") == ("True", "Accepted")

    kubelet.succeed("bot-prepare-1", PREPARED)
    status = api.wait_for_status("bot", phase="Queued")
    assert status["provenance"]["rowsUsed"] == 480
    assert status["display"]["step"] == "0/90"

    kubelet.start("bot-train-1")
    status = api.wait_for_status("bot", phase="Training")
    assert condition(status, "Prepared") == ("True", "Prepared")
    assert condition(status, "Running") == ("True", "Training")

    kubelet.succeed("bot-train-1", TRAINED)
    api.wait_for_status("bot", phase="Exporting")
    kubelet.start("bot-export-1")
    kubelet.succeed("bot-export-1", EXPORTED)
    status = api.wait_for_status("bot", phase="Succeeded")

    assert condition(status, "Succeeded") == ("True", "Succeeded")
    assert condition(status, "Finished") == ("True", "Succeeded")
    assert condition(status, "Failed") == ("False", "Succeeded")
    assert status["outputs"]["mergedURI"] == "s3://models/bot/runs/x/merged"
    assert status["progress"]["percent"] == 100
    assert status["observedGeneration"] == 1
    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
        ("export", 1, "Succeeded"),
    ]
    api.wait_for_event("bot", "Normal", "Succeeded")
    assert sorted(api.events_about("bot")) == sorted(
        ("Normal", reason)
        for reason in ("Preparing", "Prepared", "Training", "CheckpointSaved", "Exporting", "Succeeded")
    )
    wait_until(
        lambda: [job["metadata"]["name"] for job in api.list_objects(BATCH, "jobs")] == ["bot-export-1"]
    )
    written = api.read(FINETUNE, PLURAL, "bot")
    assert written is not None
    assert "finalizers" not in written["metadata"]
    assert "annotations" not in written["metadata"]
    assert written["metadata"]["uid"] == created["metadata"]["uid"]


def test_the_attempt_has_an_immutable_job_file_that_parses(api: Api) -> None:
    created = apply_job(api, training__maxSteps=7)
    job_is_there(api, "bot-prepare-1")

    config_map = api.read(CORE, "configmaps", "bot-prepare-1")

    assert config_map is not None
    assert config_map["immutable"] is True
    job_file = JobFile.model_validate_json(config_map["data"]["job.json"])
    assert job_file.uid == created["metadata"]["uid"]
    assert job_file.spec.training.max_steps == 7


def test_the_ca_certificate_comes_into_the_namespace(api: Api) -> None:
    apply_job(api)

    bundle = wait_until(lambda: api.read(CORE, "configmaps", "finetune-operator-ca"))

    assert bundle["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")


def test_a_restartable_failure_is_followed_by_the_next_attempt(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.succeed("bot-prepare-1", PREPARED)
    kubelet.start("bot-train-1")
    api.wait_for_status("bot", phase="Training")

    kubelet.fail("bot-train-1", 20, message={"reason": "StorageUnavailable", "message": "The store is down."})
    job_is_there(api, "bot-train-2")
    kubelet.start("bot-train-2")
    status = api.wait_for_status("bot", phase="Training", restarts=1)

    failed = status["attempts"][1]
    assert (failed["outcome"], failed["reason"], failed["exitCode"]) == ("Failed", "StorageUnavailable", 20)
    assert failed["message"] == "The store is down."
    api.wait_for_event("bot", "Warning", "StorageUnavailable")
    api.wait_for_event("bot", "Normal", "Restarting")


def test_a_data_error_ends_the_job_with_its_sentence(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)

    kubelet.fail("bot-prepare-1", 11, message={"reason": "DataError", "message": "Row 7 has no messages."})
    status = api.wait_for_status("bot", phase="Failed")

    assert (status["reason"], status["message"]) == ("DataError", "Row 7 has no messages.")
    assert condition(status, "Failed") == ("True", "DataError")
    assert condition(status, "Finished") == ("True", "DataError")
    assert len(api.list_objects(BATCH, "jobs")) == 1


def test_restarts_end_when_they_are_used_up(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=1)

    kubelet.fail("bot-prepare-1", 20)
    job_is_there(api, "bot-prepare-2")
    kubelet.fail("bot-prepare-2", 20)
    status = api.wait_for_status("bot", phase="Failed")

    assert status["reason"] == "RestartsExhausted"
    assert "spec.failurePolicy.maxRestarts is 1" in status["message"]
    assert status["restarts"] == 1


def test_a_child_job_deleted_by_hand_is_followed_by_the_next_attempt(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    kubelet.succeed("bot-prepare-1", PREPARED)
    job_is_there(api, "bot-train-1")

    api.delete(BATCH, "jobs", "bot-train-1")
    job_is_there(api, "bot-train-2")

    status = api.wait_for_status("bot", restarts=1)
    assert status["attempts"][1]["reason"] == "Deleted"


def test_a_foreign_job_under_the_name_is_left_alone_and_named(api: Api) -> None:
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    foreign = {"metadata": {"name": "bot-prepare-1"}, "spec": {"suspend": True, "template": template}}
    api.create(BATCH, "jobs", foreign)

    apply_job(api)
    status = api.wait_for_status("bot", reason="NameConflict")

    assert "Job 'bot-prepare-1' exists" in status["message"]
    assert status["phase"] == "Pending"

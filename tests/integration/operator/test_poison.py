"""Objects as nobody should write them: only they fail, and jobs beside them go on."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api import PLURAL
from finetune_api.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_JOB_UID, LABEL_STAGE
from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, MERGE, Api, JsonObject, wait_until
from tests.integration.operator.kubelet import (
    EXPORTED,
    PREPARED,
    TRAINED,
    Kubelet,
    job_is_there,
    write_status,
)
from tests.integration.operator.kueue import CRDS
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import apply_job, attempts, child_jobs, reach_preparing, reach_training

CRD = f"{CRDS}/finetunejobs.finetune.dev"
NASTY = "‮ txet \u0000 �  é 模型 \U0001f525 \x1b[31m \\ \" ' {{ }} $(x) \r\n\t"
CONTAINER = {"name": "x", "image": "x"}


@pytest.fixture(autouse=True)
def healthy(api: Api, kubelet: Kubelet, operator: OperatorProcess) -> Any:
    """A job beside the poisoned one, which has to go through its stages after all that was done."""
    apply_job(api, "healthy")
    job_is_there(api, "healthy-prepare-1")
    yield
    kubelet.succeed("healthy-prepare-1", PREPARED)
    kubelet.succeed("healthy-train-1", TRAINED)
    kubelet.succeed("healthy-export-1", EXPORTED)
    api.wait_for_status("healthy", phase="Succeeded")
    assert operator.is_ready()


def test_the_largest_spec_that_the_schema_lets_through_runs(api: Api, kubelet: Kubelet) -> None:
    env = [{"name": f"NCCL_X{index}", "value": "ü" * 4096} for index in range(64)]
    sources = [{"source": f"s3://data/{'x' * 800}/{index}.jsonl"} for index in range(16)]
    apply_job(api, env=env, dataset__train=sources)

    reach_preparing(api, kubelet)


def test_an_object_with_as_many_annotations_as_fit_runs(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    note = {"metadata": {"annotations": {f"note.example/{index}": "x" * 25_000 for index in range(10)}}}
    api.patch(FINETUNE, PLURAL, "bot", note)

    reach_preparing(api, kubelet)


def test_nulls_are_absent_fields(api: Api, kubelet: Kubelet) -> None:
    apply_job(
        api,
        failurePolicy=None,
        resources={"memory": None, "nodeSelector": None},
        env=None,
        queueName=None,
        suspend=None,
    )

    reach_preparing(api, kubelet)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(NASTY, id="control characters and bidirectional text"),
        pytest.param('{"reason": "UserError", "message": null}', id="nulls"),
        pytest.param('{"reason": "UserError", "message": "x", "step": 1e400}', id="a number that is none"),
        pytest.param('{"reason": "' + "🔥" * 1000 + '", "message": "x"}', id="a reason that is no reason"),
        pytest.param("[" * 4000, id="deep nesting"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_termination_message_that_is_none_ends_the_attempt_all_the_same(
    api: Api, kubelet: Kubelet, text: str
) -> None:
    apply_job(api, failurePolicy__maxRestarts=0)
    pod = kubelet.start("bot-prepare-1")
    ended = {"exitCode": 1, "reason": "Error", "message": text}
    container = {
        "name": "trainer",
        "state": {"terminated": ended},
        "ready": False,
        "restartCount": 0,
        "image": "",
        "imageID": "",
    }

    write_status(api, pod, {"phase": "Failed", "containerStatuses": [container]})

    api.wait_for_status("bot", phase="Failed", reason="RestartsExhausted")


def test_a_sentence_of_the_trainer_may_hold_anything(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)

    kubelet.fail("bot-prepare-1", 11, message={"reason": "DataError", "message": NASTY})

    status = api.wait_for_status("bot", phase="Failed", reason="DataError")
    assert "模型 🔥" in status["message"]
    api.wait_for_event("bot", "Warning", "DataError")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"phase": "Running", "containerStatuses": None}, id="no container statuses"),
        pytest.param(
            {
                "phase": "Running",
                "containerStatuses": [
                    {"name": "other", "image": "", "imageID": "", "ready": True, "restartCount": 0}
                ],
            },
            id="another container",
        ),
        pytest.param({"phase": "Unknown", "reason": "NodeLost"}, id="a phase of old kubelets"),
    ],
)
def test_a_pod_whose_status_says_nothing_is_waited_for(
    api: Api, kubelet: Kubelet, status: JsonObject
) -> None:
    apply_job(api)

    write_status(api, kubelet.pod_of("bot-prepare-1"), status)

    reach_preparing(api, kubelet)


def make_owner(job: JsonObject) -> JsonObject:
    """An owner reference to a FineTuneJob."""
    identity = {key: job["metadata"][key] for key in ("name", "uid")}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "controller": True, **identity}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        pytest.param(
            "bot-train-99999999999999999999",
            {LABEL_STAGE: "train", LABEL_ATTEMPT: "9" * 20},
            id="an enormous number",
        ),
        pytest.param("bot-train-x", {LABEL_STAGE: "train", LABEL_ATTEMPT: "x"}, id="no number"),
        pytest.param("bot-dance-1", {LABEL_STAGE: "dance", LABEL_ATTEMPT: "1"}, id="an unknown stage"),
        pytest.param(
            "elsewhere", {LABEL_STAGE: "train", LABEL_ATTEMPT: "1"}, id="a name that is not the attempt's"
        ),
        pytest.param("bot-bare", {}, id="no labels at all"),
    ],
)
def test_a_forged_child_is_no_attempt(api: Api, kubelet: Kubelet, name: str, labels: dict[str, str]) -> None:
    """Somebody who may create Jobs claims our job as their owner."""
    job = apply_job(api)
    job_is_there(api, "bot-prepare-1")
    told = {
        LABEL_JOB: "bot",
        LABEL_JOB_UID: job["metadata"]["uid"],
        "app.kubernetes.io/managed-by": "finetune-operator",
    }
    forged = {
        "metadata": {
            "name": name,
            "labels": {**told, **labels} if labels else {},
            "ownerReferences": [make_owner(job)],
        },
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}},
        },
    }
    api.create(BATCH, "jobs", forged)

    reach_preparing(api, kubelet)

    assert attempts(api) == [("prepare", 1, "Running", None)]
    kubelet.succeed("bot-prepare-1", PREPARED)
    job_is_there(api, "bot-train-1")


def test_a_forged_pod_ends_no_attempt(api: Api, kubelet: Kubelet) -> None:
    """Its labels say that it belongs to the attempt; its owner does not."""
    apply_job(api)
    reach_preparing(api, kubelet)
    real = kubelet.pod_of("bot-prepare-1")
    labels = {key: value for key, value in real["metadata"]["labels"].items() if "controller-uid" not in key}
    metadata = {"name": "forged", "labels": labels}
    forged = api.create(
        CORE, "pods", {"metadata": metadata, "spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}
    )
    write_status(api, forged, {"phase": "Failed", "reason": "Evicted"})

    apply_job(api, "later")
    job_is_there(api, "later-prepare-1")

    assert attempts(api) == [("prepare", 1, "Running", None)]


def test_a_status_that_cannot_be_read_is_left_as_it_is(
    api: Api, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    """A newer version of the operator wrote it, before it was rolled back. Acting on a guess could run a job twice."""
    apply_job(api)
    reach_training(api, kubelet)
    api.wait_for_status("bot", phase="Training")
    with operator.down():
        crd = api.send("GET", CRD)
        assert crd is not None
        known = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
        outcomes = known["properties"]["attempts"]["items"]["properties"]["outcome"]["enum"]
        replace_outcomes(api, [*outcomes, "Paused"])
        try:
            wait_until(lambda: write_future_status(api))
        finally:
            replace_outcomes(api, outcomes)

    apply_job(api, "later")
    job_is_there(api, "later-prepare-1")
    kubelet.fail("bot-train-1", 20)
    apply_job(api, "last")
    job_is_there(api, "last-prepare-1")
    assert api.status("bot")["attempts"][-1]["outcome"] == "Paused"
    assert "bot-train-2" not in child_jobs(api)


def replace_outcomes(api: Api, outcomes: list[str]) -> None:
    """Let the CRD know other outcomes of attempts."""
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/attempts/items/properties/outcome/enum"
    operations = [{"op": "replace", "path": path, "value": outcomes}]
    api.send("PATCH", CRD, operations, "application/json-patch+json")


def write_future_status(api: Api) -> bool:
    """Write an outcome that this version does not know; the new schema is served a moment after it was written."""
    status = api.status("bot")
    attempts_now = [*status["attempts"][:-1], {**status["attempts"][-1], "outcome": "Paused"}]
    try:
        api.send(
            "PATCH",
            f"{api.path(FINETUNE, PLURAL, 'bot')}/status",
            {"status": {"attempts": attempts_now}},
            MERGE,
        )
    except AssertionError:
        return False
    return bool(api.status("bot")["attempts"][-1]["outcome"] == "Paused")

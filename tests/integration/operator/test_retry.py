"""spec.retry: a job that has failed goes on where it failed, with its restarts counted anew."""

from __future__ import annotations

import json

import pytest

from tests.integration.operator.api_client import CORE, Api, RequestRefused
from tests.integration.operator.kubelet import Kubelet, job_is_there
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.steps import (
    apply_job,
    attempts,
    condition,
    finish_from_training,
    reach_training,
)

STORE_IS_DOWN = {"reason": "StorageUnavailable", "message": "The store is down."}


def test_a_failed_job_goes_on_in_the_stage_that_failed(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, failurePolicy__maxRestarts=1)
    reach_training(api, kubelet)
    kubelet.fail("bot-train-1", 20, message=STORE_IS_DOWN)
    kubelet.fail("bot-train-2", 20, message=STORE_IS_DOWN)
    failed = api.wait_for_status("bot", phase="Failed", reason="RestartsExhausted")
    assert failed["completionTime"]

    api.patch_spec("bot", retry=1)

    kubelet.start("bot-train-3")
    status = api.wait_for_status("bot", phase="Training", observedRetry=1, restarts=0)
    assert "completionTime" not in status
    assert condition(status, "Failed") == ("False", "InProgress")
    assert condition(status, "Finished") == ("False", "InProgress")
    api.wait_for_event("bot", "Normal", "Retried")

    kubelet.fail("bot-train-3", 20, message=STORE_IS_DOWN)
    api.wait_for_status("bot", restarts=1)
    status = finish_from_training(api, kubelet, attempt=4)
    assert [(stage, number) for stage, number, *_ in attempts(api)] == [
        ("prepare", 1),
        *(("train", number) for number in (1, 2, 3, 4)),
        ("export", 1),
    ]
    assert condition(status, "Failed") == ("False", "Succeeded")


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [
        pytest.param(11, "DataError", id="data that were corrected where they stand"),
        pytest.param(13, "StorageDenied", id="credentials that were replaced"),
        pytest.param(10, "UserError", id="a secret that was missing"),
    ],
)
def test_what_ended_the_job_at_once_can_be_retried_too(
    api: Api, kubelet: Kubelet, exit_code: int, reason: str
) -> None:
    apply_job(api)
    kubelet.fail("bot-prepare-1", exit_code)
    api.wait_for_status("bot", phase="Failed", reason=reason)

    api.patch_spec("bot", retry=1)

    kubelet.start("bot-prepare-2")
    api.wait_for_status("bot", phase="Preparing")


def test_each_value_is_acted_on_once(api: Api, kubelet: Kubelet, operator: OperatorProcess) -> None:
    apply_job(api)
    kubelet.fail("bot-prepare-1", 11)
    api.wait_for_status("bot", phase="Failed")
    api.patch_spec("bot", retry=3)
    kubelet.fail("bot-prepare-2", 11)
    api.wait_for_status("bot", phase="Failed", observedRetry=3)

    with operator.down():
        pass
    second = apply_job(api, "later")
    job_is_there(api, "later-prepare-1")

    assert second["metadata"]["name"] == "later"
    assert attempts(api)[-1] == ("prepare", 2, "Failed", "DataError")
    assert api.status("bot")["phase"] == "Failed"


def test_it_cannot_be_lowered(api: Api, kubelet: Kubelet) -> None:
    apply_job(api, retry=2)

    with pytest.raises(RequestRefused, match="retry") as refused:
        api.patch_spec("bot", retry=1)

    assert refused.value.code == 422


def test_a_retry_takes_the_spec_as_it_is_now(api: Api, kubelet: Kubelet) -> None:
    apply_job(api)
    reach_training(api, kubelet)
    kubelet.fail("bot-train-1", 12, message={"reason": "UserError", "message": "x"})
    kubelet.fail("bot-train-2", 10, message={"reason": "UserError", "message": "x"})
    api.wait_for_status("bot", phase="Failed", memoryBackoff=1)

    api.patch_spec("bot", retry=1, resources={"memory": "32Gi"})

    job = job_is_there(api, "bot-train-3")
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["memory"] == "32Gi"
    config_map = api.read(CORE, "configmaps", "bot-train-3")
    assert config_map is not None
    assert json.loads(config_map["data"]["job.json"])["memoryBackoff"] == 1


def test_resume_from_is_handed_to_the_trainer(api: Api) -> None:
    apply_job(api, resumeFrom={"run": "earlier-0a1b2c3d"})
    job_is_there(api, "bot-prepare-1")

    config_map = api.read(CORE, "configmaps", "bot-prepare-1")

    assert config_map is not None
    assert json.loads(config_map["data"]["job.json"])["spec"]["resumeFrom"] == {"run": "earlier-0a1b2c3d"}

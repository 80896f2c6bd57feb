"""Progress, as a train pod reports it: over HTTPS, with a real token bound to the pod, into `kubectl get`."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest

from finetune_api.names import PROGRESS_TOKEN_AUDIENCE
from finetune_api.progress import PROGRESS_PATH
from tests.integration.operator.api_client import CORE, Api, JsonObject, wait_until
from tests.integration.operator.kubelet import PREPARED, Kubelet
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.test_lifecycle import apply_job


def make_report(step: int, **training: Any) -> JsonObject:
    """A report as the trainer sends it."""
    finetune = {
        "step": step,
        "totalSteps": 90,
        "epoch": 0.5,
        "loss": 1.23456,
        "learningRate": 2e-4,
        **training,
    }
    return {"trainerStatus": {"estimatedRemainingSeconds": 200}, "finetune": finetune}


def make_token(api: Api, pod: JsonObject, audience: str = PROGRESS_TOKEN_AUDIENCE) -> str:
    """The token that the kubelet would project into the pod."""
    bound = {
        "kind": "Pod",
        "apiVersion": "v1",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    answer = api.create(
        CORE,
        "serviceaccounts/default/token",
        {"spec": {"audiences": [audience], "boundObjectRef": bound, "expirationSeconds": 3600}},
    )
    token: str = answer["status"]["token"]
    return token


def post(api: Api, operator: OperatorProcess, token: str | None, body: object) -> int:
    """POST a report, trusting the CA of the namespace's ConfigMap; returns the HTTP status."""
    bundle = wait_until(lambda: api.read(CORE, "configmaps", "finetune-operator-ca"))
    tls = ssl.create_default_context(cadata=bundle["data"]["ca.crt"])
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(
        operator.progress_url + PROGRESS_PATH, json.dumps(body).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, context=tls, timeout=10) as response:
            code: int = response.status
            return code
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def train_pod(api: Api, kubelet: Kubelet) -> JsonObject:
    """A train pod that runs."""
    apply_job(api)
    kubelet.succeed("bot-prepare-1", PREPARED)
    pod = kubelet.start("bot-train-1")
    api.wait_for_status("bot", phase="Training")
    return pod


def test_a_report_is_shown_in_status(api: Api, operator: OperatorProcess, train_pod: JsonObject) -> None:
    checkpoint = {
        "step": 10,
        "uri": "s3://models/bot/runs/x/checkpoints/step-00000010",
        "time": "2026-01-01T00:00:00Z",
    }
    effective = {"microBatchTokens": 4096, "gradientAccumulation": 2, "worldSize": 1, "strategy": "DDP"}
    report = make_report(12, checkpoint=checkpoint, effective=effective)

    assert post(api, operator, make_token(api, train_pod), report) == 204

    status = wait_until(lambda: s if (s := api.status("bot"))["display"]["step"] == "12/90" else None)
    assert status["display"] == {
        "model": "base",
        "gpus": "1",
        "step": "12/90",
        "loss": "1.235",
        "eta": "3m20s",
    }
    assert status["checkpoint"]["step"] == 10
    assert status["effective"]["microBatchTokens"] == 4096
    assert status["progress"]["percent"] == 13


def test_reports_stay_after_the_operator_was_restarted(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    token = make_token(api, train_pod)
    assert post(api, operator, token, make_report(12)) == 204
    wait_until(lambda: api.status("bot")["display"]["step"] == "12/90")

    operator.kill()
    operator.start()
    assert post(api, operator, token, make_report(13)) == 204

    wait_until(lambda: api.status("bot")["display"]["step"] == "13/90")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(
            {"trainerStatus": {}, "finetune": {"step": -1, "totalSteps": 9}}, 400, id="a negative step"
        ),
        pytest.param(
            {"trainerStatus": {}, "finetune": {"step": 1, "totalSteps": 9, "loss": float("nan")}},
            400,
            id="NaN",
        ),
        pytest.param(["no", "object"], 400, id="no object"),
        pytest.param({"trainerStatus": {}, "padding": "x" * 70_000}, 413, id="too large"),
    ],
)
def test_a_malformed_report_is_refused(
    api: Api, operator: OperatorProcess, train_pod: JsonObject, body: object, code: int
) -> None:
    before = api.status("bot")

    assert post(api, operator, make_token(api, train_pod), body) == code

    assert api.status("bot") == before


def test_without_a_token_of_our_audience_nobody_is_heard(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    assert post(api, operator, None, make_report(1)) == 401
    assert post(api, operator, "not-a-token", make_report(1)) == 401
    assert (
        post(api, operator, make_token(api, train_pod, "https://kubernetes.default.svc"), make_report(1))
        == 401
    )


def test_a_pod_of_no_job_is_not_heard(api: Api, operator: OperatorProcess, train_pod: JsonObject) -> None:
    spec = {"containers": [{"name": "x", "image": "x"}]}
    stranger = api.create(CORE, "pods", {"metadata": {"name": "stranger"}, "spec": spec})

    assert post(api, operator, make_token(api, stranger), make_report(1)) == 503


def test_a_pod_that_reports_too_often_is_told_so(
    api: Api, operator: OperatorProcess, train_pod: JsonObject
) -> None:
    token = make_token(api, train_pod)

    codes = [post(api, operator, token, make_report(step)) for step in range(12)]

    assert codes[0] == 204
    assert 429 in codes

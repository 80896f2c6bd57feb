"""How a pod reports: a token bound to it, the CA of its namespace, and a POST over HTTPS."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from finetune_api.names import PROGRESS_TOKEN_AUDIENCE
from finetune_api.progress import PROGRESS_PATH
from tests.integration.operator.api_client import CORE, Api, JsonObject, wait_until
from tests.integration.operator.process import OperatorProcess

CA_CONFIG_MAP = "finetune-operator-ca"


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


def make_token(
    api: Api, pod: JsonObject | None, audience: str = PROGRESS_TOKEN_AUDIENCE, account: str = "default"
) -> str:
    """The token that the kubelet would project into the pod; without a pod, one bound to nothing."""
    spec: JsonObject = {"audiences": [audience], "expirationSeconds": 3600}
    if pod is not None:
        metadata = pod["metadata"]
        spec["boundObjectRef"] = {
            "kind": "Pod",
            "apiVersion": "v1",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
    answer = api.create(CORE, f"serviceaccounts/{account}/token", {"spec": spec})
    token: str = answer["status"]["token"]
    return token


def read_authorities(api: Api) -> str:
    """The CA file that the namespace's pods mount."""
    bundle = wait_until(lambda: api.read(CORE, "configmaps", CA_CONFIG_MAP))
    text: str = bundle["data"]["ca.crt"]
    return text


def post(api: Api, operator: OperatorProcess, token: str | None, body: object) -> int:
    """POST a report, trusting the CA of the namespace's ConfigMap; returns the HTTP status."""
    tls = ssl.create_default_context(cadata=read_authorities(api))
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

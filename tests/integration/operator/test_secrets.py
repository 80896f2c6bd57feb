"""Canary secrets: what stands in the Secrets that a job names appears nowhere but in those Secrets.

Also the operator's own: its token, its certificate's keys, and the pods' tokens; and nobody is called whose address
a spec names.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.operator.api_client import BATCH, CORE, FINETUNE, Api, wait_until
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.metrics_steps import Scrape
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_report, make_token, post
from tests.integration.operator.steps import apply_job, finish_from_training, reach_training

KEYS = {
    "s3-credentials": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "hub": ("token",),
    "trackers": ("SWANLAB_API_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"),
}


@dataclass(frozen=True)
class Canaries:
    """Values that must not be found, in any of the forms in which they could travel."""

    values: frozenset[str]

    def found_in(self, seen: Mapping[str, str]) -> dict[str, set[str]]:
        """Which values stand where."""
        found = {
            place: {value for value in self.values if any(form in text for form in _forms(value))}
            for place, text in seen.items()
        }
        return {place: values for place, values in found.items() if values}


def _forms(value: str) -> tuple[str, ...]:
    """Within a longer base64 text it may begin at any of three places, and its ends depend on what stands beside."""
    content = value.encode()
    shifted = (base64.b64encode(b"x" * shift + content).decode()[4 if shift else 0 :] for shift in range(3))
    return (value, quote(value, safe=""), content.hex(), *(each.rstrip("=")[:-1] for each in shifted))


class Listener:
    """An address that specs name; counts who comes."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def talkative(operator: OperatorProcess) -> Iterator[OperatorProcess]:
    """The operator at its most talkative."""
    with operator.restarted_with(FINETUNE_LOG_LEVEL="DEBUG", PYTHONASYNCIODEBUG="1"):
        yield operator


@pytest.fixture
def canaries(api: Api) -> Canaries:
    """Secrets whose values are found nowhere else in the world."""
    values = set()
    for name, keys in KEYS.items():
        content = {key: f"canary+/{secrets.token_urlsafe(24)}" for key in keys}
        api.create(CORE, "secrets", {"metadata": {"name": name}, "stringData": content})
        values |= set(content.values())
    pull = json.dumps({"auths": {"registry.example": {"auth": (auth := secrets.token_urlsafe(24))}}})
    api.create(
        CORE,
        "secrets",
        {
            "metadata": {"name": "pull"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": pull},
        },
    )
    return Canaries(frozenset(values | {auth}))


def references(listener: Listener) -> dict[str, Any]:
    """A spec that names every kind of Secret, and the listener wherever an address may stand."""
    store = {"endpoint": f"http://{listener.address}", "credentialsSecretRef": {"name": "s3-credentials"}}
    return {
        "output__store": store,
        "model": {"source": "hf://org/name", "tokenSecretRef": {"name": "hub"}},
        "dataset__train": [
            {"source": "s3://data/a.jsonl", "store": store},
            {"source": "hf://org/rows", "tokenSecretRef": {"name": "hub"}},
        ],
        "tracking": {
            "mlflow": {"uri": f"http://{listener.address}/mlflow", "secretRef": {"name": "trackers"}},
            "swanLab": {"uri": f"http://{listener.address}/swan", "secretRef": {"name": "trackers"}},
        },
        "imagePullSecrets": [{"name": "pull"}],
    }


def everything_written(api: Api) -> str:
    """All objects of the namespace that a reader without access to Secrets sees."""
    kinds = [
        (FINETUNE, "finetunejobs"),
        (BATCH, "jobs"),
        *((CORE, plural) for plural in ("pods", "configmaps", "services", "events")),
    ]
    return json.dumps([api.list_objects(group, plural) for group, plural in kinds])


def log_since(operator: OperatorProcess, begin: int) -> str:
    return operator.log.read_bytes()[begin:].decode()


def test_no_secret_is_found_outside_its_secret_and_nobody_is_called(
    api: Api,
    kubelet: Kubelet,
    talkative: OperatorProcess,
    canaries: Canaries,
    listener: Listener,
    short_tmp: Path,
) -> None:
    begin = talkative.log.stat().st_size
    apply_job(api, "good", **references(listener))
    apply_job(api, "bad", **references(listener))

    reach_training(api, kubelet, "good")
    token = make_token(api, kubelet.pod_of("good-train-1"))
    assert post(api, talkative, token, make_report(12)) == 200
    assert post(api, talkative, token, {"trainerStatus": "wrong"}) == 400
    assert post(api, talkative, f"{token}x", make_report(12)) == 401
    wait_until(lambda: api.status("good")["display"]["step"] == "12/90")
    written = everything_written(api)
    finish_from_training(api, kubelet, "good")
    kubelet.fail("bad-prepare-1", 13)
    api.wait_for_status("bad", phase="Failed")
    api.wait_for_event("bad", "Warning", "StorageDenied")

    seen = {
        "objects": written + everything_written(api),
        "log": log_since(talkative, begin),
        "metrics": Scrape(talkative).text,
    }
    # What is looked through does tell of the job: an empty log would hide nothing.
    assert all("good" in text for text in seen.values())
    held = canaries.values | own_secrets(talkative, token, short_tmp / "operator.kubeconfig")
    assert Canaries(held).found_in(seen) == {}
    assert listener.visits == 0


def own_secrets(operator: OperatorProcess, pod_token: str, kubeconfig: Path) -> frozenset[str]:
    """What the operator holds itself: the keys of its certificate, its token, and the token that a pod showed it."""
    secret = operator.home.read(CORE, "secrets", "finetune-operator-certificate")
    assert secret is not None
    keys = [base64.b64decode(secret["data"][name]).decode() for name in ("ca.key", "tls.key")]
    tokens = [pod_token, json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]]
    # Of a key the first line of its body, of a token its signature: the rest is the same in all of them.
    return frozenset(
        [*(key.splitlines()[1] for key in keys), *(token.rpartition(".")[2] for token in tokens)]
    )


def test_the_search_finds_what_it_looks_for() -> None:
    """In the forms in which a value could travel: as it is, encoded, or within something encoded."""
    value = "canary+/secret-value"
    carriers = [
        value,
        base64.b64encode(value.encode()).decode(),
        base64.b64encode(f"user:{value}\n".encode()).decode(),
        base64.b64encode(f"key=x{value}".encode()).decode(),
        f"http://{quote(value, safe='')}@host",
        value.encode().hex(),
    ]

    for carrier in carriers:
        assert Canaries(frozenset({value})).found_in({"log": f"… {carrier} …"}), carrier

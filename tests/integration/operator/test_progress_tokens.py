"""Tokens of a real API server, verified by its published keys: what an operator with nothing but Roles can do."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from devcluster import ControlPlane
from finetune_operator.cluster import Cluster, TokenVerdict, Unavailable
from finetune_operator.jwt_verifier import JwtVerifier, KeyFile
from tests.integration.operator.api_client import CORE, Api, JsonObject
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.metrics_steps import Scrape
from tests.integration.operator.process import OperatorProcess
from tests.integration.operator.progress_steps import make_report, make_token, post
from tests.integration.operator.steps import apply_job, reach_training

AUDIENCE = "finetune-operator"
REFUSED = TokenVerdict(False)


@pytest.fixture
def quiet(control_plane: ControlPlane) -> Api:
    """A namespace that needs no operator."""
    return make_namespace(control_plane, "tokens")


@pytest.fixture
def pod(quiet: Api) -> JsonObject:
    """A pod to which tokens can be bound."""
    spec = {"containers": [{"name": "x", "image": "x"}]}
    return quiet.create(CORE, "pods", {"metadata": {"name": "some-pod"}, "spec": spec})


def write_kubeconfig(control_plane: ControlPlane, path: Path, user: JsonObject) -> Path:
    """A kubeconfig that logs in as somebody."""
    cluster = {
        "server": control_plane.endpoints.apiserver,
        "certificate-authority": str(control_plane.credentials.authority.certificate),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
async def powerless(control_plane: ControlPlane, quiet: Api, tmp_path: Path) -> AsyncIterator[Cluster]:
    """The API server as a service account sees it that was granted nothing at all."""
    quiet.create(CORE, "serviceaccounts", {"metadata": {"name": "powerless"}})
    answer = quiet.create(CORE, "serviceaccounts/powerless/token", {"spec": {"expirationSeconds": 3600}})
    user = {"token": answer["status"]["token"]}
    path = write_kubeconfig(control_plane, tmp_path / "powerless.kubeconfig", user)
    cluster = await Cluster.connect({"KUBECONFIG": str(path)})
    yield cluster
    await cluster.aclose()


async def test_a_pods_token_is_recognised_without_any_rights(
    powerless: Cluster, quiet: Api, pod: JsonObject
) -> None:
    verdict = await JwtVerifier(powerless).review_token(make_token(quiet, pod), AUDIENCE)

    assert verdict == TokenVerdict(
        True, f"system:serviceaccount:{quiet.namespace}:default", "some-pod", pod["metadata"]["uid"]
    )


async def test_both_ways_say_the_same(
    control_plane: ControlPlane, powerless: Cluster, quiet: Api, pod: JsonObject
) -> None:
    token = make_token(quiet, pod)
    administrator = await Cluster.connect({"KUBECONFIG": str(control_plane.kubeconfig)})
    try:
        asked = await administrator.review_token(token, AUDIENCE)
    finally:
        await administrator.aclose()

    assert asked == await JwtVerifier(powerless).review_token(token, AUDIENCE)


def decode(part: str) -> JsonObject:
    claims: JsonObject = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def encode(value: JsonObject) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def change_claims(**changes: str) -> Callable[[str], str]:
    def change(token: str) -> str:
        header, claims, signature = token.split(".")
        return f"{header}.{encode({**decode(claims), **changes})}.{signature}"

    return change


def drop_signature(token: str) -> str:
    header, claims, _ = token.split(".")
    return f"{encode({**decode(header), 'alg': 'none'})}.{claims}."


def flip_signature(token: str) -> str:
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change_claims(iss="https://another.cluster"), id="another issuer"),
        pytest.param(change_claims(sub="system:serviceaccount:kube-system:default"), id="another account"),
        pytest.param(flip_signature, id="another signature"),
        pytest.param(drop_signature, id="algorithm none"),
    ],
)
async def test_a_changed_token_is_refused(
    powerless: Cluster, quiet: Api, pod: JsonObject, change: Callable[[str], str]
) -> None:
    token = change(make_token(quiet, pod))

    assert await JwtVerifier(powerless).review_token(token, AUDIENCE) == REFUSED


async def test_a_genuine_token_that_is_not_for_us_or_of_no_pod_is_refused(
    powerless: Cluster, quiet: Api, pod: JsonObject
) -> None:
    verifier = JwtVerifier(powerless)

    for_others = make_token(quiet, pod, "https://kubernetes.default.svc")
    assert await verifier.review_token(for_others, AUDIENCE) == REFUSED
    assert await verifier.review_token(make_token(quiet, None), AUDIENCE) == REFUSED


async def test_an_expired_token_is_refused(powerless: Cluster, quiet: Api, pod: JsonObject) -> None:
    token = make_token(quiet, pod)
    later = JwtVerifier(powerless, wall_clock=lambda: time.time() + 3601)

    assert await later.review_token(token, AUDIENCE) == REFUSED


async def test_a_deleted_pods_token_stays_genuine_so_the_cache_of_pods_must_say_that_it_is_gone(
    powerless: Cluster, quiet: Api, pod: JsonObject
) -> None:
    token = make_token(quiet, pod)
    quiet.send("DELETE", quiet.path(CORE, "pods", "some-pod"), {"gracePeriodSeconds": 0})

    assert (await JwtVerifier(powerless).review_token(token, AUDIENCE)).authenticated


async def test_where_service_accounts_may_not_read_the_keys_a_file_helps(
    control_plane: ControlPlane, powerless: Cluster, quiet: Api, pod: JsonObject, tmp_path: Path
) -> None:
    token = make_token(quiet, pod)
    stranger_path = write_kubeconfig(control_plane, tmp_path / "stranger.kubeconfig", {})
    stranger = await Cluster.connect({"KUBECONFIG": str(stranger_path)})
    try:
        with pytest.raises(Unavailable):
            await JwtVerifier(stranger).review_token(token, AUDIENCE)
    finally:
        await stranger.aclose()

    path = tmp_path / "keys.json"
    path.write_text(json.dumps(await powerless.read_signing_keys()))
    issuer = (await powerless.read_issuer())["issuer"]
    assert (await JwtVerifier(KeyFile(str(path), issuer)).review_token(token, AUDIENCE)).authenticated


def test_an_operator_that_verifies_signatures_never_asks_for_a_review(
    api: Api, operator: OperatorProcess, kubelet: Kubelet
) -> None:
    apply_job(api)
    reach_training(api, kubelet)
    token = make_token(api, kubelet.pod_of("bot-train-1"))

    with operator.restarted_with(FINETUNE_PROGRESS_AUTH="Jwt"):
        assert post(api, operator, token, make_report(12)) == 200
        assert post(api, operator, flip_signature(token), make_report(12)) == 401
        assert "tokenreviews" not in Scrape(operator).text

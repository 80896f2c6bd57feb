"""The chart's life on a real API server: install, upgrade, uninstall; and what its roles allow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import ControlPlane
from tests.builders.jobs import make_manifest
from tests.integration.chart.conftest import CHART, NAMESPACE, RELEASE, Helm

CERTIFICATE = f"secrets/{RELEASE}-certificate"
IN_NAMESPACE = ("--namespace", NAMESPACE)


@pytest.fixture(scope="module")
def cluster(short_tmp: Path) -> Iterator[ControlPlane]:
    """A control plane of our own: the release must not meet a CRD that another test installed."""
    with ControlPlane(short_tmp / "chart") as own:
        yield own


@pytest.fixture
def release(helm: Helm, cluster: ControlPlane) -> Iterator[ControlPlane]:
    """The chart, installed; uninstalled afterwards whatever the test did."""
    _ensure_installed(helm, cluster)
    yield cluster
    helm.run("uninstall", RELEASE, *IN_NAMESPACE, "--ignore-not-found", kubeconfig=cluster.kubeconfig)


def kubectl(cluster: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    result = subprocess.run(
        [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0 or result.stdout.strip() == "no", result.stderr
    return str(result.stdout)


def read(cluster: ControlPlane, *arguments: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kubectl(cluster, "get", *arguments, "-o", "json"))
    return content


def _ensure_installed(helm: Helm, cluster: ControlPlane) -> None:
    arguments = (*IN_NAMESPACE, "--create-namespace")
    result = helm.run("install", RELEASE, str(CHART), *arguments, kubeconfig=cluster.kubeconfig)
    assert result.returncode == 0, result.stderr


def test_an_upgrade_keeps_the_certificate_that_the_operator_wrote(helm: Helm, release: ControlPlane) -> None:
    written = {"data": {"tls.crt": "Y2VydGlmaWNhdGU="}}
    kubectl(release, *IN_NAMESPACE, "patch", CERTIFICATE, "--type=merge", "-p", json.dumps(written))
    for level in ("DEBUG", "WARNING"):
        values = ("--set", f"log.level={level}", "--set", f"commonLabels.level={level}")
        result = helm.run(
            "upgrade", RELEASE, str(CHART), *IN_NAMESPACE, *values, kubeconfig=release.kubeconfig
        )
        assert result.returncode == 0, result.stderr
    secret = read(release, *IN_NAMESPACE, CERTIFICATE)
    assert secret["data"] == written["data"]
    assert secret["metadata"]["labels"]["level"] == "WARNING"


def test_uninstalling_keeps_the_jobs_and_installing_again_adopts_the_crd(
    helm: Helm, release: ControlPlane
) -> None:
    # Not --for=condition: that fails at once where the status has no conditions yet.
    names = ("--for=jsonpath={.status.acceptedNames.kind}=FineTuneJob", "--timeout=30s")
    kubectl(release, "wait", *names, "crd/finetunejobs.finetune.dev")
    kubectl(release, "apply", "-f", "-", stdin=json.dumps(make_manifest("survivor")))
    result = helm.run("uninstall", RELEASE, *IN_NAMESPACE, kubeconfig=release.kubeconfig)
    assert result.returncode == 0, result.stderr
    assert read(release, "finetunejobs/survivor")["metadata"]["name"] == "survivor"
    _ensure_installed(helm, release)


MAY = {
    "list FineTuneJobs": ("list finetunejobs.finetune.dev", "yes"),
    "write their status": ("update finetunejobs.finetune.dev --subresource=status", "yes"),
    "create Jobs": ("create jobs.batch", "yes"),
    "ask whose token it is": ("create tokenreviews.authentication.k8s.io", "yes"),
    "read its certificate": (f"get {CERTIFICATE}", "yes"),
    "read another Secret": ("get secrets/another", "no"),
    "list Secrets": ("list secrets", "no"),
    "create Secrets": ("create secrets", "no"),
    "create pods": ("create pods", "no"),
    "enter pods": ("create pods --subresource=exec", "no"),
    "change FineTuneJobs": ("patch finetunejobs.finetune.dev", "no"),
    "make roles": ("create clusterroles.rbac.authorization.k8s.io", "no"),
}


def test_the_api_server_agrees_what_the_operator_may_do(release: ControlPlane) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"
    answers = {
        sentence: kubectl(release, *IN_NAMESPACE, "auth", "can-i", *question.split(), account).strip()
        for sentence, (question, _) in MAY.items()
    }
    assert answers == {sentence: answer for sentence, (_, answer) in MAY.items()}


def test_an_editor_of_a_namespace_may_create_finetunejobs(release: ControlPlane) -> None:
    kubectl(release, "create", "rolebinding", "editor", "--clusterrole=edit", "--user=ada", "-n", "default")
    question = ("auth", "can-i", "create", "finetunejobs.finetune.dev", "-n", "default", "--as=ada")
    assert kubectl(release, *question).strip() == "yes"

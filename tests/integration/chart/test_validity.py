"""The chart passes `helm lint --strict`, and what it renders passes `kubeconform -strict`."""

from __future__ import annotations

import subprocess

import pytest

from devcluster.programs import KUBERNETES_VERSION
from tests.integration.chart.conftest import CHART, Helm

VALUES: dict[str, list[str]] = {
    "the defaults": [],
    "two watched namespaces": ["--set", "watchNamespaces={team-a,team-b}"],
    "every option that adds objects": [
        *("--set", "networkPolicy.enabled=true"),
        *("--set", "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"),
        *("--set", "metrics.serviceMonitor.enabled=true"),
        *("--set", "serviceAccount.annotations.example\\.com/role=finetune"),
    ],
    "every option of the pod": [
        *("--set", "imagePullSecrets={registry}", "--set", "trainer.imagePullSecrets={registry}"),
        *("--set", "priorityClassName=high", "--set", "nodeSelector.pool=system"),
        *("--set", "tolerations[0].key=system", "--set", "tolerations[0].operator=Exists"),
        *("--set-json", 'affinity={"nodeAffinity": {}}', "--set", "commonLabels.team=ml"),
        *("--set", "podAnnotations.note=x", "--set", "podLabels.team=ml"),
        *("--set", "extraEnv[0].name=HTTPS_PROXY", "--set", "extraEnv[0].value=http://proxy:3128"),
    ],
    "every option of the jobs": [
        *("--set", "trainer.trustRemoteCode=true", "--set", "passThrough.labels={example.com/team}"),
        *("--set", "passThrough.annotations={kueue.x-k8s.io/podset-required-topology}"),
        *("--set", "defaultStore.uri=s3://models", "--set", "defaultStore.store.region=eu-west-1"),
        *("--set", "progress.authentication=Jwt", "--set", "progress.keysConfigMap=keys"),
        *("--set", "progress.issuer=https://issuer", "--set", "kueue.enabled=false"),
    ],
    "nothing optional": [
        *(
            "--set",
            "crds.install=false",
            "--set",
            "rbac.create=false",
            "--set",
            "serviceAccount.create=false",
        ),
        *("--set", "uninstallHook.enabled=false"),
    ],
}


@pytest.mark.parametrize("arguments", VALUES.values(), ids=VALUES.keys())
def test_lint_finds_nothing(helm: Helm, arguments: list[str]) -> None:
    result = helm.run("lint", "--strict", "--kube-version", KUBERNETES_VERSION, str(CHART), *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[WARNING]" not in result.stdout


@pytest.mark.parametrize("arguments", VALUES.values(), ids=VALUES.keys())
def test_rendered_objects_match_the_api_servers_schemas(
    helm: Helm, kubeconform: list[str], arguments: list[str]
) -> None:
    result = _check(kubeconform, helm.render(*arguments))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("serviceAccountName:", "serviceAcountName:", "serviceAcountName"),
        ("replicas: 1", "replicas: one", "got string, want"),
        ("path: /readyz", "pth: /readyz", "pth"),
    ],
    ids=["a misspelt field", "a wrong type", "a misspelt field deep inside"],
)
def test_a_wrong_object_does_not_pass(
    helm: Helm, kubeconform: list[str], old: str, new: str, complaint: str
) -> None:
    rendered = helm.render()
    assert old in rendered
    result = _check(kubeconform, rendered.replace(old, new))
    assert result.returncode == 1
    assert complaint in result.stdout


def _check(kubeconform: list[str], manifests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*kubeconform, "-"], input=manifests, capture_output=True, text=True, timeout=60, check=False
    )

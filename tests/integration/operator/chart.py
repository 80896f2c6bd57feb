"""The operator's rights and settings as the chart gives them: what the tests pass with is what users install."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from devcluster import ControlPlane
from devcluster.console import QUIET
from devcluster.programs import PROGRAMS, ensure_program
from tests.integration.operator.api_client import CORE, Api

CHART = Path(__file__).parents[3] / "helm/finetune-operator"
APPLIED = {"ServiceAccount", "Secret", "Lease", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}


@dataclass(frozen=True)
class Installation:
    """Everything of the chart but the Deployment, which a process of the test stands in for."""

    kubeconfig: Path
    environment: dict[str, str]
    home: Api


def install_without_deployment(
    control_plane: ControlPlane, home: Api, folder: Path, **values: str
) -> Installation:
    """Apply the chart's rights and Secret, and log in as its ServiceAccount. `values` as for `helm --set`."""
    helm = ensure_program(PROGRAMS["helm"], QUIET)
    command = [str(helm), "template", "finetune-operator", str(CHART), "--namespace", home.namespace]
    chosen = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    rendered = subprocess.run(
        [*command, "--kube-version", "1.34", *chosen], check=True, capture_output=True, text=True
    )
    objects = [each for each in yaml.safe_load_all(rendered.stdout) if each and not _is_hook(each)]
    _apply(control_plane, [each for each in objects if each["kind"] in APPLIED])
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    environment = {each["name"]: _value(each, home) for each in pod["containers"][0]["env"]}
    return Installation(_log_in(control_plane, home, pod["serviceAccountName"], folder), environment, home)


def _is_hook(manifest: dict[str, Any]) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def _value(variable: dict[str, Any], home: Api) -> str:
    """What the kubelet would put into a variable."""
    fields = {"metadata.namespace": home.namespace, "metadata.name": f"finetune-operator-{home.namespace}"}
    if "value" in variable:
        value: str = variable["value"]
        return value
    return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]


def _apply(control_plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    kubectl = [str(control_plane.kubectl), "--kubeconfig", str(control_plane.kubeconfig)]
    subprocess.run(
        [*kubectl, "apply", "--server-side", "-f", "-"],
        input=yaml.safe_dump_all(objects),
        check=True,
        capture_output=True,
        text=True,
    )


def _log_in(control_plane: ControlPlane, home: Api, service_account: str, folder: Path) -> Path:
    """Write a kubeconfig with a token of the ServiceAccount."""
    answer = home.create(
        CORE, f"serviceaccounts/{service_account}/token", {"spec": {"expirationSeconds": 7200}}
    )
    authority = str(control_plane.credentials.authority.certificate)
    cluster = {"server": control_plane.endpoints.apiserver, "certificate-authority": authority}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "operator",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "operator", "user": {"token": answer["status"]["token"]}}],
        "contexts": [{"name": "operator", "context": {"cluster": "test", "user": "operator"}}],
    }
    kubeconfig = folder / "operator.kubeconfig"
    kubeconfig.write_text(json.dumps(content))
    return kubeconfig

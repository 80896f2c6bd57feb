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
APPLIED = {"ServiceAccount", "Secret", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}


@dataclass(frozen=True)
class Installation:
    """Everything of the chart but the Deployment, which a process of the test stands in for."""

    kubeconfig: Path
    environment: dict[str, str]


def install_without_deployment(control_plane: ControlPlane, home: Api, folder: Path) -> Installation:
    """Apply the chart's rights and Secret, and log in as its ServiceAccount."""
    helm = ensure_program(PROGRAMS["helm"], QUIET)
    command = [str(helm), "template", "finetune-operator", str(CHART), "--namespace", home.namespace]
    rendered = subprocess.run(
        [*command, "--kube-version", "1.34"], check=True, capture_output=True, text=True
    )
    objects = {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(rendered.stdout) if each
    }
    _apply(control_plane, home, [each for (kind, _), each in objects.items() if kind in APPLIED])
    pod = objects["Deployment", "finetune-operator"]["spec"]["template"]["spec"]
    environment = {each["name"]: each.get("value", home.namespace) for each in pod["containers"][0]["env"]}
    return Installation(_log_in(control_plane, home, pod["serviceAccountName"], folder), environment)


def _apply(control_plane: ControlPlane, home: Api, objects: list[dict[str, Any]]) -> None:
    kubectl = [
        str(control_plane.kubectl),
        "--kubeconfig",
        str(control_plane.kubeconfig),
        "-n",
        home.namespace,
    ]
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

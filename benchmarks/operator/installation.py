"""The operator's rights and settings exactly as the chart gives them; a process stands in for the Deployment."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.operator.api import SERVER_SIDE_APPLY, Api, path_of
from devcluster import ControlPlane
from devcluster.console import QUIET
from devcluster.programs import PROGRAMS, ensure_program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/finetune-operator"
CRD = ROOT / "crds/finetunejobs.yaml"
RELEASE = "finetune-operator"
# What of the chart is applied, and where its kinds are served.
_CLUSTER_PATHS = {
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
_NAMESPACED_PATHS = {
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "Secret": ("api/v1", "secrets"),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "Lease": ("apis/coordination.k8s.io/v1", "leases"),
}
POD_NAME = "finetune-operator-0"
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """A ServiceAccount that one can log in as."""

    user: str
    """Its name in the audit log."""
    kubeconfig: Path


@dataclass(frozen=True)
class Installation:
    """What the operator's process needs to know."""

    account: Account
    environment: dict[str, str]


async def install_operator(plane: ControlPlane, api: Api, namespace: str) -> Installation:
    """Apply the chart's rights and Secret, and log in as its ServiceAccount."""
    objects = _render(namespace)
    for each in objects:
        if path := _path(each, namespace):
            await _apply(api, f"{path}/{each['metadata']['name']}", each)
    pod = next(each for each in objects if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    fields = {"metadata.namespace": namespace, "metadata.name": POD_NAME}
    environment = {each["name"]: _value(each, fields) for each in pod["containers"][0]["env"]}
    return Installation(await _log_in(plane, api, namespace, pod["serviceAccountName"]), environment)


async def install_rival(plane: ControlPlane, api: Api, namespace: str, name: str) -> Account:
    """Make a ServiceAccount that may do everything, and log in as it."""
    await api.create("serviceaccounts", {"metadata": {"name": name, "namespace": namespace}})
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
    }
    await api.send("POST", _CLUSTER_PATHS["ClusterRoleBinding"], binding)
    return await _log_in(plane, api, namespace, name)


async def install_crd(api: Api) -> None:
    """Install the FineTuneJob CRD and wait until it is served."""
    crd = yaml.safe_load(CRD.read_text())
    path = f"apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    await _apply(api, path, crd)


def _render(namespace: str) -> list[JsonObject]:
    helm = ensure_program(PROGRAMS["helm"], QUIET)
    command = [str(helm), "template", RELEASE, str(CHART), "--namespace", namespace, "--kube-version", "1.34"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [each for each in yaml.safe_load_all(rendered) if each]


def _value(variable: JsonObject, fields: dict[str, str]) -> str:
    """The value of a variable of the environment; some are fields of the pod (downward API)."""
    if "valueFrom" in variable:
        return fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
    return str(variable.get("value", ""))


def _path(manifest: JsonObject, namespace: str) -> str | None:
    kind = manifest["kind"]
    # Hooks belong to helm's own steps.
    if "helm.sh/hook" in (manifest["metadata"].get("annotations") or {}):
        return None
    if kind in _CLUSTER_PATHS:
        return _CLUSTER_PATHS[kind]
    if kind in _NAMESPACED_PATHS:
        api, plural = _NAMESPACED_PATHS[kind]
        return f"{api}/namespaces/{manifest['metadata'].get('namespace', namespace)}/{plural}"
    return None


async def _apply(api: Api, path: str, manifest: JsonObject) -> None:
    # JSON is YAML.
    await api.send("PATCH", f"{path}?fieldManager=benchmark&force=true", manifest, SERVER_SIDE_APPLY)


async def _log_in(plane: ControlPlane, api: Api, namespace: str, name: str) -> Account:
    """Write a kubeconfig with a token of a ServiceAccount."""
    path = f"{path_of('serviceaccounts', namespace, name)}/token"
    answer = await api.send("POST", path, {"spec": {"expirationSeconds": 7200}})
    authority = str(plane.credentials.authority.certificate)
    cluster = {"server": plane.endpoints.apiserver, "certificate-authority": authority}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": "benchmark", "cluster": cluster}],
        "users": [{"name": name, "user": {"token": answer["status"]["token"]}}],
        "contexts": [{"name": name, "context": {"cluster": "benchmark", "user": name}}],
    }
    kubeconfig = plane.state.config / f"{name}.kubeconfig"
    kubeconfig.write_text(json.dumps(content))
    return Account(f"system:serviceaccount:{namespace}:{name}", kubeconfig)

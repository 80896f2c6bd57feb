"""Stands in for the kubelet of a Helm hook: no node runs here, so the hook's command runs as a process of the test,
with the environment that its pod has and the token of its own ServiceAccount, and the pod's end is what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from devcluster import ControlPlane
from tests.integration.chart.conftest import NAMESPACE, RELEASE, Helm

HOOK = f"{RELEASE}-uninstall"
T = TypeVar("T")


def kubectl(cluster: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as administrator; returns what it prints. `no` of `auth can-i` is an answer, not a failure."""
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
    """Read an object or a list."""
    content: dict[str, Any] = json.loads(kubectl(cluster, "get", *arguments, "-o", "json"))
    return content


def wait_until(probe: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Return the first truthy answer of a probe."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"after {seconds} s there is still no {what}"
        time.sleep(0.1)
    return answer


def log_in(cluster: ControlPlane, account: str, path: Path) -> Path:
    """Write a kubeconfig with a token of a ServiceAccount of the release's namespace."""
    token = kubectl(cluster, "--namespace", NAMESPACE, "create", "token", account, "--duration=1h").strip()
    authority = str(cluster.credentials.authority.certificate)
    server = {"server": cluster.endpoints.apiserver, "certificate-authority": authority}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": server}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    path.write_text(json.dumps(content))
    return path


def environment_of(container: dict[str, Any], pod_name: str) -> dict[str, str]:
    """The variables of a container as the kubelet would set them."""
    fields = {"metadata.namespace": NAMESPACE, "metadata.name": pod_name}
    return {
        # An empty value is left out by the API server.
        each["name"]: fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        if "valueFrom" in each
        else each.get("value", "")
        for each in container["env"]
    }


class Uninstallation:
    """`helm uninstall`, with the hook's pod played by `run_hook`."""

    def __init__(self, helm: Helm, cluster: ControlPlane, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.on_end: Callable[[], object] = lambda: None
        self._process = subprocess.Popen(
            [
                *(str(helm.program), "uninstall", RELEASE, "--namespace", NAMESPACE, "--timeout=120s"),
                *("--kubeconfig", str(cluster.kubeconfig)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_hook(self) -> str:
        """Run the command of the hook's newest pod and report its end. Returns its log."""
        pod = wait_until(self.pending_pod, "pod of the hook")
        (container,) = pod["spec"]["containers"]
        kubeconfig = log_in(
            self._cluster, pod["spec"]["serviceAccountName"], self._folder / "hook.kubeconfig"
        )
        variables = {**environment_of(container, pod["metadata"]["name"]), "KUBECONFIG": str(kubeconfig)}
        result = subprocess.run(
            [sys.executable, *container["command"][1:]],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.on_end()
        self._report_end(pod, result.returncode)
        return result.stdout + result.stderr

    def wait(self) -> tuple[int, str]:
        """Wait until Helm is done. Returns its exit code and what it printed."""
        output, _ = self._process.communicate(timeout=150)
        return self._process.returncode, output

    def pending_pod(self) -> dict[str, Any] | None:
        """The hook's pod that has not ended yet."""
        selector = f"batch.kubernetes.io/job-name={HOOK}"
        pods = read(self._cluster, "--namespace", NAMESPACE, "pods", "--selector", selector)["items"]
        return next((pod for pod in pods if pod["status"]["phase"] == "Pending"), None)

    def _report_end(self, pod: dict[str, Any], exit_code: int) -> None:
        phase = "Succeeded" if exit_code == 0 else "Failed"
        kubectl(
            self._cluster,
            *("--namespace", NAMESPACE, "patch", f"pod/{pod['metadata']['name']}", "--subresource=status"),
            *("--type=merge", "--patch", json.dumps({"status": {"phase": phase}})),
        )

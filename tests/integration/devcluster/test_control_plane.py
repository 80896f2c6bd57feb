"""A control plane without nodes: up, in use, apiserver out and back, down without a trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import ControlPlane
from devcluster.processes import find_processes
from devcluster.programs import PROGRAMS

ROOT = Path(__file__).parents[3]


def devcluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, as a user does, without the environment of another cluster."""
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    command = [sys.executable, "-m", "devcluster", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570, check=False
    )


def kubectl(plane: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    command = [str(plane.kubectl), "--kubeconfig", str(plane.kubeconfig), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_command_line_brings_a_control_plane_up_and_removes_it(short_tmp: Path) -> None:
    folder = short_tmp / "by-command"
    where = ("--state-dir", str(folder))
    up = devcluster("up", "--control-plane-only", *where)
    assert up.returncode == 0, up.stderr
    assert "starting etcd" in up.stdout

    again = devcluster("up", "--control-plane-only", *where)
    assert again.returncode == 0, again.stderr
    assert "starting" not in again.stdout

    status = devcluster("status", *where)
    assert status.returncode == 0, status.stdout
    assert status.stdout.count("healthy") == 4

    listing = 'source "$0" && kubectl get namespaces --output name'
    names = subprocess.run(
        ["bash", "-c", listing, str(folder / "env")], capture_output=True, text=True, check=True, timeout=60
    )
    assert "namespace/kube-system" in names.stdout

    refused = devcluster("load-image", "localhost/any", *where)
    assert refused.returncode == 1
    assert "'control-plane', and this needs 'full'" in refused.stderr

    down = devcluster("down", *where)
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert find_processes(frozenset(PROGRAMS), str(folder)) == []


def test_a_half_dead_control_plane_is_repaired(short_tmp: Path) -> None:
    with ControlPlane(short_tmp / "repaired") as plane:
        kubectl(plane, "create", "namespace", "kept")
        plane.processes.stop("etcd", grace_seconds=1)
        plane.processes.stop("kube-controller-manager")
        plane.start()
        assert plane.processes.is_running("kube-controller-manager")
        assert "kept" in kubectl(plane, "get", "namespaces")


def test_the_apiserver_can_be_out_and_come_back_with_its_data(short_tmp: Path) -> None:
    with ControlPlane(short_tmp / "outage") as plane:
        kubectl(plane, "create", "namespace", "kept")
        plane.stop_apiserver()
        with pytest.raises(subprocess.CalledProcessError):
            kubectl(plane, "get", "namespaces", "--request-timeout=2s")
        plane.start_apiserver()
        assert "kept" in kubectl(plane, "get", "namespaces")


def test_two_control_planes_run_side_by_side(control_plane: ControlPlane, short_tmp: Path) -> None:
    with ControlPlane(short_tmp / "second") as second:
        kubectl(second, "create", "namespace", "only-here")
        assert "only-here" in kubectl(second, "get", "namespaces")
        assert "only-here" not in kubectl(control_plane, "get", "namespaces")
    assert not (short_tmp / "second").exists()


def test_pod_security_is_enforced(control_plane: ControlPlane) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "locked", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    kubectl(control_plane, "apply", "-f", "-", stdin=json.dumps(namespace))
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        kubectl(control_plane, "run", "any", "--image=any", "--namespace=locked")
    assert 'violates PodSecurity "restricted:latest"' in refusal.value.stderr


def test_rights_are_checked(control_plane: ControlPlane) -> None:
    account = "--as=system:serviceaccount:default:default"
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        kubectl(control_plane, "get", "secrets", account)
    assert "cannot list resource" in refusal.value.stderr


def test_every_request_is_in_the_audit_log(control_plane: ControlPlane) -> None:
    kubectl(control_plane, "create", "configmap", "audited")
    entries = [json.loads(line) for line in control_plane.audit_log.read_text().splitlines()]
    ours = [entry["verb"] for entry in entries if entry.get("objectRef", {}).get("name") == "audited"]
    assert ours == ["create"]

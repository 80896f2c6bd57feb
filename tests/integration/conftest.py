"""A real control plane and a real S3 server, one of each for the whole run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import ControlPlane, S3Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short path: sockets stand in it, and their paths are bounded."""
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def control_plane(short_tmp: Path) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager; its kubectl comes first on PATH."""
    with ControlPlane(short_tmp / "control-plane") as control_plane:
        os.environ["PATH"] = f"{control_plane.kubectl.parent}{os.pathsep}{os.environ['PATH']}"
        yield control_plane


@pytest.fixture(scope="session")
def crd_kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig of a control plane on which the CRD is installed and established."""
    kubectl = [str(control_plane.kubectl), "--kubeconfig", str(control_plane.kubeconfig)]
    for arguments in (
        ["apply", "--server-side", "-f", str(ROOT / "crds/finetunejobs.yaml")],
        ["wait", "--for=condition=Established", "--timeout=30s", "crd/finetunejobs.finetune.dev"],
    ):
        subprocess.run([*kubectl, *arguments], check=True, capture_output=True, timeout=60)
    return control_plane.kubeconfig


@pytest.fixture(scope="session")
def s3_server(short_tmp: Path) -> Iterator[S3Server]:
    """versitygw on loopback."""
    with S3Server(short_tmp / "s3") as server:
        yield server

"""A real control plane and a real S3 server, one of each for the whole run."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
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
    apply = ["apply", "--server-side", "-f", str(ROOT / "crds/finetunejobs.yaml")]
    subprocess.run([*kubectl, *apply], check=True, capture_output=True, timeout=60)
    # `kubectl wait` fails on a CRD that has no conditions yet, so the new resource itself is asked for.
    deadline = time.monotonic() + 30
    while subprocess.run([*kubectl, "get", "finetunejobs", "-A"], capture_output=True, timeout=60).returncode:
        assert time.monotonic() < deadline, "the CRD is not served after 30 s"
        time.sleep(0.2)
    return control_plane.kubeconfig


@pytest.fixture(scope="session")
def s3_server(short_tmp: Path) -> Iterator[S3Server]:
    """versitygw on loopback."""
    with S3Server(short_tmp / "s3") as server:
        yield server

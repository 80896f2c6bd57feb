"""A control plane of their own for tests that stop it, and operators that are watched by a proxy each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import Api, wait_until
from tests.integration.operator.chart import Installation, install_without_deployment
from tests.integration.operator.conftest import make_namespace
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.outages.replica import Replica
from tests.stand_ins.api_proxy import ApiProxy

CRD = Path(__file__).parents[4] / "crds/finetunejobs.yaml"


@pytest.fixture(scope="session")
def site(short_tmp: Path) -> Iterator[ControlPlane]:
    """A control plane that tests may stop and start."""
    with ControlPlane(short_tmp / "outages") as control_plane:
        kubectl = [str(control_plane.kubectl), "--kubeconfig", str(control_plane.kubeconfig)]
        apply = ["apply", "--server-side", "-f", str(CRD)]
        subprocess.run([*kubectl, *apply], check=True, capture_output=True, timeout=60)
        wait_until(lambda: _succeeds([*kubectl, "get", "finetunejobs", "-A"]), 30, lambda: "served CRD")
        yield control_plane


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="session")
def installation(site: ControlPlane, short_tmp: Path) -> Installation:
    """The chart's rights, Secret and Lease."""
    folder = short_tmp / "outages-home"
    folder.mkdir()
    return install_without_deployment(site, make_namespace(site, "operator"), folder)


@pytest.fixture
def api(site: ControlPlane) -> Api:
    """A namespace of the test's own."""
    return make_namespace(site, "test")


@pytest.fixture
def kubelet(api: Api) -> Kubelet:
    """A stand-in kubelet for the test's namespace."""
    return Kubelet(api)


@pytest.fixture
def make_replica(
    site: ControlPlane, installation: Installation, tmp_path: Path
) -> Iterator[Callable[[str], Replica]]:
    """Make operators, each in a pod of its own name; what is left of them at the end is killed."""
    with ExitStack() as stack:

        def make(pod_name: str) -> Replica:
            proxy = stack.enter_context(ApiProxy(site))
            replica = Replica(installation, pod_name, proxy, tmp_path)
            stack.callback(replica.kill)
            return replica

        yield make


@pytest.fixture
def replica(make_replica: Callable[[str], Replica]) -> Replica:
    """One operator, not started yet."""
    return make_replica("pod-a")

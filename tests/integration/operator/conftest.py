"""One operator for all tests of this folder, which kill and restart it as they like, and one namespace a test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster import ControlPlane
from devcluster.console import QUIET
from finetune_api import PLURAL
from tests.integration.operator.api_client import CORE, FINETUNE, Api, wait_until
from tests.integration.operator.chart import install_without_deployment
from tests.integration.operator.kubelet import Kubelet
from tests.integration.operator.nodes import StandInNodes
from tests.integration.operator.process import OperatorProcess


def make_namespace(control_plane: ControlPlane, prefix: str) -> Api:
    """A namespace of one's own, with the ServiceAccount that pods need."""
    api = Api(control_plane, f"{prefix}-{secrets.token_hex(3)}")
    api.send("POST", "api/v1/namespaces", {"metadata": {"name": api.namespace}})
    wait_until(lambda: api.read(CORE, "serviceaccounts", "default"))
    return api


CONTROLLERS = "kube-controller-manager"
# By default they make 20 requests a second, and take the pods from one dead node in 10 s, of few nodes from none.
FASTER = (
    "--kube-api-qps=300",
    "--kube-api-burst=600",
    "--node-eviction-rate=10",
    "--unhealthy-zone-threshold=1",
)


@pytest.fixture(scope="session")
def controllers(control_plane: ControlPlane) -> None:
    """Let the Job controller, the garbage collector and the node controllers go faster than by default."""
    usual = next(each for each in control_plane.components() if each.name == CONTROLLERS)
    control_plane.processes.stop(CONTROLLERS)
    faster = replace(usual, command=(*usual.command, *FASTER))
    control_plane.processes.ensure_all_running([faster], QUIET)


@pytest.fixture(scope="session")
def operator(
    control_plane: ControlPlane, controllers: None, crd_kubeconfig: Path, short_tmp: Path
) -> Iterator[OperatorProcess]:
    """An operator that serves all namespaces, with the rights and settings of the chart."""
    home = make_namespace(control_plane, "operator")
    operator = OperatorProcess(
        install_without_deployment(control_plane, home, short_tmp), short_tmp / "operator.log"
    )
    operator.start()
    yield operator
    assert operator.stop() == 0


@pytest.fixture
def api(control_plane: ControlPlane, operator: OperatorProcess) -> Iterator[Api]:
    """A namespace that the operator serves. Its jobs go at the end: later tests should not find them at every start."""
    api = make_namespace(control_plane, "test")
    yield api
    api.send("DELETE", api.path(FINETUNE, PLURAL), {"propagationPolicy": "Background"})


@pytest.fixture(scope="session")
def nodes(control_plane: ControlPlane) -> Iterator[StandInNodes]:
    """Stand-in nodes, among them the one on which tests park pods."""
    nodes = StandInNodes(control_plane)
    yield nodes
    nodes.stop()


@pytest.fixture
def kubelet(api: Api, nodes: StandInNodes) -> Kubelet:
    """A stand-in kubelet for the test's namespace."""
    return Kubelet(api)

"""One operator for all tests of this folder, which kill and restart it as they like, and one namespace a test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import CORE, Api, wait_until
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


@pytest.fixture(scope="session")
def operator(control_plane: ControlPlane, crd_kubeconfig: Path, short_tmp: Path) -> Iterator[OperatorProcess]:
    """An operator that serves all namespaces, with the rights and settings of the chart."""
    home = make_namespace(control_plane, "operator")
    operator = OperatorProcess(
        install_without_deployment(control_plane, home, short_tmp), short_tmp / "operator.log"
    )
    operator.start()
    yield operator
    assert operator.stop() == 0


@pytest.fixture
def api(control_plane: ControlPlane, operator: OperatorProcess) -> Api:
    """A namespace that the operator serves."""
    return make_namespace(control_plane, "test")


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

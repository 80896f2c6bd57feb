"""The API server with the CRD, seen from one namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from devcluster import ControlPlane
from tests.integration.operator.api_client import Api


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane, crd_kubeconfig: Path) -> Api:
    assert crd_kubeconfig == control_plane.kubeconfig
    return Api(control_plane, "default")

"""Helm, kubeconform and the API server's schemas, for every test of the chart."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from devcluster import ControlPlane
from devcluster.console import QUIET
from devcluster.programs import KUBERNETES_VERSION, ensure_programs
from tests.builders.kubernetes_schemas import SCHEMA_LOCATION, write_schemas

CHART = Path(__file__).parents[3] / "helm/finetune-operator"
RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"


@dataclass(frozen=True)
class Helm:
    """The helm program and our chart."""

    program: Path

    def run(self, *arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run helm; the caller judges the exit code."""
        cluster = ("--kubeconfig", str(kubeconfig)) if kubeconfig else ()
        return subprocess.run(
            [str(self.program), *arguments, *cluster],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def render(self, *arguments: str) -> str:
        """Render the chart as `helm install finetune-operator --namespace finetune-system` would."""
        version = ("--kube-version", KUBERNETES_VERSION)
        result = self.run("template", RELEASE, str(CHART), "--namespace", NAMESPACE, *version, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def objects(self, *arguments: str) -> list[dict[str, Any]]:
        """Render and parse; empty documents are left out."""
        return [each for each in yaml.safe_load_all(self.render(*arguments)) if each]


def pick(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the only object of that kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}, name {name}"
    return found[0]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm that the dev cluster uses."""
    return Helm(ensure_programs(["helm"], QUIET)["helm"])


@pytest.fixture(scope="session")
def kubeconform(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """kubeconform's command line, checking strictly against the running API server's own schemas."""
    folder = tmp_path_factory.mktemp("schemas")
    index = cast(dict[str, Any], control_plane.client.read("/openapi/v3"))
    documents = [path["serverRelativeURL"] for path in index["paths"].values()]
    written = sum(
        write_schemas(cast(dict[str, Any], control_plane.client.read(url)), folder) for url in documents
    )
    assert written > 100, f"only {written} kinds in the API server's OpenAPI documents"
    program = ensure_programs(["kubeconform"], QUIET)["kubeconform"]
    return [str(program), "-strict", "-summary", "-schema-location", f"{folder}/{SCHEMA_LOCATION}"]

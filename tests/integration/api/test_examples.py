"""Every example that a user would start from is taken by the API server as it stands, and parsed by the models."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.spec import FineTuneJobSpec
from tests.integration.operator.api_client import FINETUNE, Api

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(
    [*(ROOT / "examples").glob("*.yaml"), ROOT / "examples/quickstart/job.yaml"],
    key=lambda path: path.as_posix(),
)


def load(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return manifest


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_an_example_is_applied_and_parsed(api: Api, crd_kubeconfig: Path, path: Path) -> None:
    manifest = load(path)
    manifest["metadata"]["namespace"] = api.namespace

    stored = api.send(
        "POST", f"{api.path(FINETUNE, 'finetunejobs')}?dryRun=All&fieldValidation=Strict", manifest
    )

    assert stored is not None
    assert FineTuneJobSpec.model_validate(stored["spec"]) == FineTuneJobSpec.model_validate(manifest["spec"])


def test_kubectl_applies_all_of_them_at_once(crd_kubeconfig: Path) -> None:
    """kubectl reads YAML by another parser than Python: numbers, `None` and Chinese must mean the same there."""
    applied = subprocess.run(
        [
            "kubectl",
            "--kubeconfig",
            str(crd_kubeconfig),
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            str(ROOT / "examples"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.count("created (server dry run)") == len(EXAMPLES) - 1


def test_every_example_is_in_the_list_and_says_what_it_shows() -> None:
    listed = (ROOT / "examples/README.md").read_text(encoding="utf-8")

    for path in EXAMPLES:
        assert path.parent.name == "quickstart" or f"[`{path.name}`]({path.name})" in listed
        assert path.read_text(encoding="utf-8").startswith("# "), f"{path.name} has no first sentence"

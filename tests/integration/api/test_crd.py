"""The generated CRD as people meet it: `kubectl apply`, `kubectl get`, `kubectl explain` on a real API server."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.generate.crd import build_root_schema
from finetune_api.generate.explain import explain
from tests.builders.jobs import make_manifest

ROOT = Path(__file__).parents[3]


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--kubeconfig", str(kubeconfig), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def apply(kubeconfig: Path, manifest: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return kubectl(kubeconfig, "apply", *arguments, "-f", "-", stdin=json.dumps(manifest))


def kubectl_explain(kubeconfig: Path, path: str) -> str:
    """What kubectl explains of a field; its view of the schemas is a moment behind a new CRD."""
    deadline = time.monotonic() + 60
    while True:
        explained = kubectl(kubeconfig, "explain", f"finetunejobs.{path}")
        if explained.returncode == 0:
            return "\n".join(line.rstrip() for line in explained.stdout.rstrip().splitlines())
        assert time.monotonic() < deadline, explained.stderr
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"trainning": {"epochs": 3}}, 'unknown field "spec.trainning"', id="a misspelt block"),
        pytest.param(
            {"training": {"epochs": 1, "maxSteps": 10}},
            "training.epochs and training.maxSteps exclude each other",
            id="two fields that exclude each other",
        ),
    ],
)
def test_a_wrong_job_is_refused_by_a_plain_apply(
    crd_kubeconfig: Path, changes: dict[str, Any], sentence: str
) -> None:
    refused = apply(crd_kubeconfig, make_manifest(name="wrong", **changes))

    assert refused.returncode != 0
    assert sentence in refused.stderr


def test_applying_a_job_again_changes_nothing(crd_kubeconfig: Path) -> None:
    """Also from Git, by client and by server side: defaults that were filled in are not taken for edits."""
    manifest = make_manifest(name="again", method__lora={"rank": 8}, dataset__validation={"fraction": 0.1})
    assert apply(crd_kubeconfig, manifest).returncode == 0

    for arguments in ((), ("--server-side", "--force-conflicts")):
        again = apply(crd_kubeconfig, manifest, *arguments)
        assert again.returncode == 0, again.stderr


def test_the_crd_can_be_applied_by_client_side_too(crd_kubeconfig: Path) -> None:
    """Its copy in an annotation is still within Kubernetes' bound."""
    applied = kubectl(crd_kubeconfig, "apply", "--dry-run=server", "-f", str(ROOT / "crds/finetunejobs.yaml"))

    assert applied.returncode == 0, applied.stderr


def test_columns_show_how_far_a_job_is(crd_kubeconfig: Path) -> None:
    apply(crd_kubeconfig, make_manifest(name="columns"))

    header = kubectl(crd_kubeconfig, "get", "ftj").stdout.splitlines()[0].split()
    wide = kubectl(crd_kubeconfig, "get", "ftj", "-o", "wide").stdout.splitlines()[0].split()

    assert header == ["NAME", "PHASE", "MODEL", "METHOD", "GPUS", "STEP", "LOSS", "ETA", "AGE"]
    assert wide == [*header, "REASON", "RESTARTS", "CHECKPOINT", "QUEUE", "OUTPUT"]


@pytest.mark.parametrize(
    "path", ["spec.method.lora", "spec.checkpoints", "spec.output", "spec.failurePolicy", "status.progress"]
)
def test_explain_prints_our_descriptions_as_the_field_reference_shows_them(
    crd_kubeconfig: Path, path: str
) -> None:
    assert kubectl_explain(crd_kubeconfig, path) == explain(build_root_schema(), path).rstrip()


def test_the_field_reference_shows_what_kubectl_explains(crd_kubeconfig: Path) -> None:
    reference = (ROOT / "crds/README.md").read_text(encoding="utf-8")

    explained = kubectl_explain(crd_kubeconfig, "spec.method.lora")

    shown = "\n".join(f"    {line}".rstrip() for line in explained.splitlines())
    assert f"    $ kubectl explain ftj.spec.method.lora\n{shown}\n" in reference


def test_people_may_write_the_learning_rate_as_2e_4(crd_kubeconfig: Path) -> None:
    """kubectl's YAML reads it as a number; PyYAML would make it a string."""
    text = json.dumps(make_manifest(training__learningRate=0.5)).replace("0.5", "2e-4")

    stored = kubectl(crd_kubeconfig, "apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=text)

    assert json.loads(stored.stdout)["spec"]["training"]["learningRate"] == 2e-4

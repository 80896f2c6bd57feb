"""The generated CRD on a real kube-apiserver: accepted, and refusing wrong objects with our sentences."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.builders.jobs import make_manifest

ROOT = Path(__file__).parents[3]


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--kubeconfig", str(kubeconfig), *arguments], input=stdin, capture_output=True, text=True
    )


def apply(kubeconfig: Path, manifest: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return kubectl(kubeconfig, "apply", *arguments, "-f", "-", stdin=json.dumps(manifest))


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown block", {"trainning": {"epochs": 3}}, 'unknown field "spec.trainning"'),
    ("an unknown field", {"training__epoch": 3}, 'unknown field "spec.training.epoch"'),
    ("a method in lower case", {"method__type": "lora"}, 'spec.method.type: Unsupported value: "lora"'),
    ("no model", {"model": ...}, "spec.model: Required value"),
    ("no output", {"output": ...}, "spec.output: Required value"),
    ("no training source", {"dataset__train": []}, "spec.dataset.train"),
    (
        "a model with a bare path",
        {"model__source": "/models/base"},
        "model.source must be s3://bucket/prefix",
    ),
    (
        "a bucket in capitals",
        {"model__source": "s3://Models/base"},
        "model.source must be s3://bucket/prefix",
    ),
    ("an output without scheme", {"output__uri": "models/bot"}, "output.uri must be s3://bucket/prefix"),
    (
        "a data file without key",
        {"dataset__train": [{"source": "s3://data"}]},
        "dataset source must be s3://bucket/key",
    ),
    (
        "a ConfigMap without key",
        {"dataset__train": [{"source": "configMap://rows"}]},
        "dataset source must be",
    ),
    (
        "rows and a file in one source",
        {"dataset__train": [{"source": "s3://data/a.jsonl", "inline": [{"messages": []}]}]},
        "set exactly one of dataset source and inline",
    ),
    (
        "a source with nothing",
        {"dataset__train": [{"format": "Messages"}]},
        "set exactly one of dataset source and inline",
    ),
    (
        "an unknown format",
        {"dataset__train": [{"source": "s3://data/a", "format": "CSV"}]},
        'Unsupported value: "CSV"',
    ),
    ("a learning rate as text", {"training__learningRate": "2e-4"}, "spec.training.learningRate"),
    ("a learning rate above one", {"training__learningRate": 2}, "spec.training.learningRate"),
    ("a learning rate of zero", {"training__learningRate": 0}, "spec.training.learningRate"),
    ("rank zero", {"method__lora__rank": 0}, "spec.method.lora.rank"),
    ("dropout of one", {"method__lora__dropout": 1}, "spec.method.lora.dropout"),
    (
        "epochs and steps",
        {"training": {"epochs": 1, "maxSteps": 10}},
        "training.epochs and training.maxSteps exclude each other",
    ),
    (
        "two warm-ups",
        {"training": {"warmupSteps": 1, "warmupFraction": 0.1}},
        "training.warmupSteps and training.warmupFraction exclude each other",
    ),
    (
        "a warm-up longer than the run",
        {"training": {"warmupSteps": 11, "maxSteps": 10}},
        "training.warmupSteps is larger than training.maxSteps",
    ),
    ("a fraction of a step", {"training__maxSteps": 1.5}, "spec.training.maxSteps"),
    ("no row in a batch", {"training__globalBatchSize": 0}, "spec.training.globalBatchSize"),
    ("half a GPU", {"parallelism__gpusPerNode": 0.5}, "spec.parallelism.gpusPerNode"),
    ("a negative number of GPUs", {"parallelism__gpusPerNode": -1}, "spec.parallelism.gpusPerNode"),
    ("memory with a space", {"resources__memory": "16 GB"}, "spec.resources.memory"),
    (
        "a shard size in GiB",
        {"output__merged__maxShardSize": "5GiB"},
        "output.merged.maxShardSize must be a whole number",
    ),
    (
        "an endpoint without scheme",
        {"output__store__endpoint": "s3.example.com"},
        "store.endpoint must be a URL",
    ),
    (
        "a secret name in capitals",
        {"output__store__credentialsSecretRef": {"name": "S3"}},
        "credentialsSecretRef.name",
    ),
    ("a label key with a space", {"resources__nodeSelector": {"a b": "c"}}, "spec.resources.nodeSelector"),
    ("a pod template", {"podTemplate": {"spec": {"hostNetwork": True}}}, 'unknown field "spec.podTemplate"'),
    ("a service account", {"serviceAccountName": "admin"}, 'unknown field "spec.serviceAccountName"'),
]


@pytest.mark.parametrize(("changes", "sentence"), [pytest.param(c, s, id=i) for i, c, s in WRONG])
def test_a_wrong_object_is_refused_at_apply(
    crd_kubeconfig: Path, changes: dict[str, Any], sentence: str
) -> None:
    refused = apply(crd_kubeconfig, make_manifest(**changes), "--dry-run=server")

    assert refused.returncode != 0
    assert sentence in refused.stderr


@pytest.mark.parametrize("name", ["1job", "a.b", "a" * 43])
def test_a_name_that_pods_cannot_be_named_after_is_refused(crd_kubeconfig: Path, name: str) -> None:
    refused = apply(crd_kubeconfig, make_manifest(name=name), "--dry-run=server")

    assert "metadata.name must start with a letter" in refused.stderr


def test_defaults_are_visible_in_the_stored_object(crd_kubeconfig: Path) -> None:
    stored = apply(crd_kubeconfig, make_manifest(), "--dry-run=server", "-o", "json")

    spec = json.loads(stored.stdout)["spec"]
    assert spec["method"]["lora"]["rank"] == 16
    assert spec["training"]["learningRate"] == 2e-4
    assert spec["resources"]["export"] == {"cpu": "2", "memory": "8Gi", "ephemeralStorage": "50Gi"}


def test_what_defines_the_run_cannot_be_changed(crd_kubeconfig: Path) -> None:
    assert apply(crd_kubeconfig, make_manifest(name="frozen")).returncode == 0

    for changes in ({"training__seed": 7}, {"method__lora__rank": 8}, {"output__uri": "s3://models/other"}):
        refused = apply(crd_kubeconfig, make_manifest(name="frozen", **changes))
        assert "is immutable" in refused.stderr, changes


def test_what_may_change_can_be_changed(crd_kubeconfig: Path) -> None:
    assert apply(crd_kubeconfig, make_manifest(name="fluid")).returncode == 0

    changed = apply(
        crd_kubeconfig, make_manifest(name="fluid", resources__memory="8Gi", checkpoints__everySteps=7)
    )

    assert changed.returncode == 0, changed.stderr


def test_columns_and_explain_read_as_documentation(crd_kubeconfig: Path) -> None:
    apply(crd_kubeconfig, make_manifest(name="columns"))

    header = kubectl(crd_kubeconfig, "get", "ftj").stdout.splitlines()[0].split()
    explained = kubectl(crd_kubeconfig, "explain", "ftj.spec.method.lora.rank").stdout

    assert header == ["NAME", "PHASE", "MODEL", "METHOD", "GPUS", "STEP", "LOSS", "ETA", "AGE"]
    assert "rank of the adapter matrices" in explained


def test_people_may_write_the_learning_rate_as_2e_4(crd_kubeconfig: Path) -> None:
    """kubectl's YAML reads it as a number; PyYAML would make it a string."""
    text = json.dumps(make_manifest(training__learningRate=0.5)).replace("0.5", "2e-4")

    stored = kubectl(crd_kubeconfig, "apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=text)

    assert json.loads(stored.stdout)["spec"]["training"]["learningRate"] == 2e-4

"""What a spec names in its namespace: mounted where it is needed, once, and blamed by the field that names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from finetune_api.names import STAGES, Stage
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.manifests import desired_objects
from finetune_operator.references import Reference, ReferenceKind, list_references
from tests.builders.jobs import make_manifest
from tests.unit.operator.builders import make_job, make_pod_settings

KEYS = {"credentialsSecretRef": {"name": "keys"}}
SECRET, CONFIG_MAP, CLAIM = ReferenceKind.SECRET, ReferenceKind.CONFIG_MAP, ReferenceKind.CLAIM
ALL = frozenset(Stage)
PREPARE, TRAIN = frozenset({Stage.PREPARE}), frozenset({Stage.TRAIN})
AFTER_PREPARE = frozenset({Stage.TRAIN, Stage.EXPORT})

# A change of the minimal spec; what it refers to; the field that is blamed; the stages that need it.
NAMED: dict[str, tuple[dict[str, Any], tuple[ReferenceKind, str], str, frozenset[Stage]]] = {
    "keys of the output": (
        {"output__store": KEYS},
        (SECRET, "keys"),
        "spec.output.store.credentialsSecretRef",
        ALL,
    ),
    "authorities of the output's store": (
        {"output__store__caBundleRef": {"name": "ca"}},
        (CONFIG_MAP, "ca"),
        "spec.output.store.caBundleRef",
        ALL,
    ),
    "keys of the model": (
        {"model__store": KEYS},
        (SECRET, "keys"),
        "spec.model.store.credentialsSecretRef",
        PREPARE | AFTER_PREPARE,
    ),
    "a hub's token for the model": (
        {"model__source": "hf://org/name", "model__tokenSecretRef": {"name": "hub"}},
        (SECRET, "hub"),
        "spec.model.tokenSecretRef",
        PREPARE,
    ),
    "a claim with the model": (
        {"model__source": "pvc://models/qwen"},
        (CLAIM, "models"),
        "spec.model.source",
        PREPARE,
    ),
    "a claim with an earlier adapter": (
        {"model__adapterSource": "pvc://adapters"},
        (CLAIM, "adapters"),
        "spec.model.adapterSource",
        PREPARE,
    ),
    "keys of the second source of rows": (
        {"dataset__train": [{"inline": [{"text": "a"}]}, {"source": "s3://data/a", "store": KEYS}]},
        (SECRET, "keys"),
        "spec.dataset.train[1].store.credentialsSecretRef",
        PREPARE,
    ),
    "a ConfigMap with rows": (
        {"dataset__train": [{"source": "configMap://rows/train.jsonl"}]},
        (CONFIG_MAP, "rows"),
        "spec.dataset.train[0].source",
        PREPARE,
    ),
    "a claim with rows": (
        {"dataset__train": [{"source": "pvc://rows/train.jsonl"}]},
        (CLAIM, "rows"),
        "spec.dataset.train[0].source",
        PREPARE,
    ),
    "a claim with a folder of rows": (
        {"dataset__train": [{"source": "pvc://rows/2025/"}]},
        (CLAIM, "rows"),
        "spec.dataset.train[0].source",
        PREPARE,
    ),
    "a ConfigMap with synonyms": (
        {
            "dataset__preparation__augment": {
                "methods": ["Synonyms"],
                "wordList": "configMap://words/list.txt",
            }
        },
        (CONFIG_MAP, "words"),
        "spec.dataset.preparation.augment.wordList",
        PREPARE,
    ),
    "a hub's token for rows": (
        {"dataset__train": [{"source": "hf://org/rows", "tokenSecretRef": {"name": "hub"}}]},
        (SECRET, "hub"),
        "spec.dataset.train[0].tokenSecretRef",
        PREPARE,
    ),
    "validation rows": (
        {"dataset__validation": {"sources": [{"source": "configMap://rows/validation.jsonl"}]}},
        (CONFIG_MAP, "rows"),
        "spec.dataset.validation.sources[0].source",
        PREPARE,
    ),
    "test rows": (
        {"dataset__test": [{"source": "s3://data/test.jsonl", "store": KEYS}]},
        (SECRET, "keys"),
        "spec.dataset.test[0].store.credentialsSecretRef",
        PREPARE,
    ),
    "keys of TensorBoard's store": (
        {"tracking__tensorBoard": {"uri": "s3://curves/bot", "store": KEYS}},
        (SECRET, "keys"),
        "spec.tracking.tensorBoard.store.credentialsSecretRef",
        TRAIN,
    ),
    "a key of SwanLab": (
        {"tracking__swanLab": {"secretRef": {"name": "lab"}}},
        (SECRET, "lab"),
        "spec.tracking.swanLab.secretRef",
        TRAIN,
    ),
    "a token of MLflow": (
        {"tracking__mlflow": {"uri": "https://mlflow", "secretRef": {"name": "flow"}}},
        (SECRET, "flow"),
        "spec.tracking.mlflow.secretRef",
        TRAIN,
    ),
    "a key of Weights & Biases": (
        {"tracking__wandb": {"secretRef": {"name": "biases"}}},
        (SECRET, "biases"),
        "spec.tracking.wandb.secretRef",
        TRAIN,
    ),
}


def reference_paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Paths of the API's reference fields, such as `output.store.caBundleRef`; a list's first entry stands for all."""
    for name, field in model.model_fields.items():
        path = f"{above}{field.alias or name}"
        if path.endswith("Ref"):
            yield path
            continue
        for nested, in_list in nested_models(field.annotation):
            yield from reference_paths(nested, f"{path}[0]." if in_list else f"{path}.")


def nested_models(annotation: Any, in_list: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, in_list
    for part in get_args(annotation):
        yield from nested_models(part, in_list or get_origin(annotation) is list)


def set_path(target: dict[str, Any], path: str, value: object) -> None:
    head, _, rest = path.partition(".")
    name, _, is_list = head.partition("[")
    if not rest:
        target[name] = value
    elif is_list:
        set_path(target.setdefault(name, [{}])[0], rest, value)
    else:
        set_path(target.setdefault(name, {}), rest, value)


REFERENCE_PATHS = list(reference_paths(FineTuneJobSpec))


def test_the_search_finds_the_references_that_are_known() -> None:
    known = {
        "output.store.credentialsSecretRef",
        "dataset.train[0].tokenSecretRef",
        "tracking.wandb.secretRef",
    }
    assert known <= set(REFERENCE_PATHS)


@pytest.mark.parametrize("path", REFERENCE_PATHS)
def test_every_reference_of_the_api_is_mounted_somewhere(path: str) -> None:
    """One that is not listed would do nothing, and nobody would be told."""
    raw = make_manifest(tracking__mlflow__uri="https://mlflow")["spec"]
    set_path(raw, path, {"name": "named"})
    spec = FineTuneJobSpec.model_validate(raw)

    found = {r.field for stage in Stage for r in list_references(spec, stage) if r.name == "named"}

    assert found == {f"spec.{path}"}


def references(stage: Stage, **changes: Any) -> tuple[Reference, ...]:
    spec = make_job(**changes).spec
    assert spec is not None
    return list_references(spec, stage)


@pytest.mark.parametrize(("changes", "target", "field", "stages"), NAMED.values(), ids=NAMED.keys())
def test_named_objects(
    changes: dict[str, Any], target: tuple[ReferenceKind, str], field: str, stages: frozenset[Stage]
) -> None:
    found = {
        stage: [r for r in references(stage, **changes) if (r.kind, r.name) == target] for stage in Stage
    }

    assert {stage for stage, listed in found.items() if listed} == stages
    assert {r.field for listed in found.values() for r in listed} == {field}


@pytest.mark.parametrize(("changes", "target", "field", "stages"), NAMED.values(), ids=NAMED.keys())
def test_named_objects_are_mounted_read_only(
    changes: dict[str, Any], target: tuple[ReferenceKind, str], field: str, stages: frozenset[Stage]
) -> None:
    kind, name = target
    stage = min(stages)
    (reference,) = (r for r in references(stage, **changes) if (r.kind, r.name) == target)
    pod = desired_objects(make_job(**changes), stage, 1, make_pod_settings()).job["spec"]["template"]["spec"]

    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == reference.mount_path)
    (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])

    assert mount["readOnly"] is True
    expected = {
        SECRET: {"secret": {"secretName": name, "defaultMode": 0o440}},
        CONFIG_MAP: {"configMap": {"name": name}},
        CLAIM: {"persistentVolumeClaim": {"claimName": name, "readOnly": True}},
    }
    assert {key: value for key, value in volume.items() if key != "name"} == expected[kind]


def test_an_object_named_twice_is_mounted_once_and_blamed_by_its_first_field() -> None:
    changes: dict[str, Any] = {
        "output__store": KEYS,
        "model__store": KEYS,
        "dataset__train": [{"source": "s3://data/a", "store": KEYS}],
    }

    (reference,) = references(Stage.PREPARE, **changes)

    assert reference.field == "spec.output.store.credentialsSecretRef"


def test_one_config_map_may_hold_rows_and_authorities() -> None:
    rows = [{"source": "configMap://both/train.jsonl"}]

    found = references(Stage.PREPARE, output__store={"caBundleRef": {"name": "both"}}, dataset__train=rows)

    assert len({each.mount_path for each in found}) == len(found) == 2


def test_without_references_nothing_is_mounted() -> None:
    assert [references(stage, output__store=...) for stage in STAGES] == [(), (), ()]

"""FineTuneJobs as users write them."""

from __future__ import annotations

import copy
from typing import Any

MINIMAL_SPEC: dict[str, Any] = {
    "model": {"source": "s3://models/base"},
    "dataset": {"train": [{"source": "s3://data/train.jsonl"}]},
    "method": {"type": "LoRA"},
    "output": {
        "uri": "s3://models/support-bot",
        "store": {"credentialsSecretRef": {"name": "s3-credentials"}},
    },
}


def make_manifest(name: str = "support-bot", namespace: str = "default", **changes: Any) -> dict[str, Any]:
    """A FineTuneJob manifest; `changes` sets paths written with `__` for the dot (`training__epochs=2`).

    A value of `...` removes the field.
    """
    spec = copy.deepcopy(MINIMAL_SPEC)
    for path, value in changes.items():
        _set(spec, path.split("__"), value)
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _set(target: dict[str, Any], path: list[str], value: object) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    if value is ...:
        target.pop(path[-1], None)
    else:
        target[path[-1]] = value

"""The FineTuneJobs that are created: what a user would write for an ordinary LoRA run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_api import API_VERSION, KIND
from finetune_api.names import Stage, child_name

JsonObject = dict[str, Any]


def build_job(namespace: str, name: str) -> JsonObject:
    """Build a FineTuneJob."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "s3://models/qwen3-0.6b"},
            "dataset": {"train": [{"source": "s3://data/support.jsonl"}]},
            "method": {"type": "LoRA", "lora": {"rank": 16}},
            "training": {"epochs": 3, "learningRate": 0.0002},
            "resources": {"cpu": "4", "memory": "16Gi"},
            "output": {
                "uri": "s3://models/support-bot",
                "store": {
                    "endpoint": "https://s3.example.com",
                    "credentialsSecretRef": {"name": "s3-credentials"},
                },
            },
        },
    }


def list_names(prefix: str, count: int) -> Iterator[str]:
    """Names of so many jobs."""
    return (f"{prefix}-{number:05d}" for number in range(count))


def first_child(job_name: str) -> str:
    """Name of the first child Job and of its ConfigMap."""
    return child_name(job_name, Stage.PREPARE, 1)


def has_phase(*phases: str) -> Any:  # noqa: ANN401 (a condition on raw objects)
    """Whether a FineTuneJob's status says one of these phases."""
    return lambda body: body.get("status", {}).get("phase") in phases


def is_prepared(body: JsonObject) -> bool:
    """Whether a FineTuneJob's status says that prepare has succeeded."""
    conditions = body.get("status", {}).get("conditions", ())
    return any(each["type"] == "Prepared" and each["status"] == "True" for each in conditions)


def has_status(body: JsonObject) -> bool:
    """Whether the operator has written a status."""
    return bool(body.get("status", {}).get("conditions"))

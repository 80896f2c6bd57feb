"""A FineTuneJob that uses every field by which a user can change its pods; for tests of what such pods may be.

It is no sensible job: it takes its model from a claim and its rows from everywhere.
"""

from __future__ import annotations

from typing import Any

STORE = {
    "endpoint": "https://s3.example.com",
    "credentialsSecretRef": {"name": "keys"},
    "caBundleRef": {"name": "authorities"},
}
# Changes of the minimal spec, as `make_manifest` takes them.
LARGEST_SPEC: dict[str, Any] = {
    "output__store": STORE,
    "model": {
        "source": "pvc://models/qwen",
        "adapterSource": "pvc://adapters",
        "store": STORE,
        "tokenSecretRef": {"name": "hub-token"},
    },
    "dataset__train": [
        {"source": "pvc://rows/train.jsonl"},
        {"source": "configMap://rows/train.jsonl"},
        {"source": "hf://org/rows", "tokenSecretRef": {"name": "rows-token"}},
        {"inline": [{"input_text": "a", "target_text": "b"}]},
    ],
    "dataset__preparation__augment": {
        "methods": ["Synonyms"],
        "wordList": "configMap://words/synonyms.txt",
    },
    "dataset__validation": {"sources": [{"source": "s3://data/validation.jsonl", "store": STORE}]},
    "dataset__test": [{"source": "configMap://test/rows.jsonl"}],
    "tracking": {
        "tensorBoard": {"uri": "s3://curves/bot", "store": STORE},
        "mlflow": {"uri": "https://mlflow", "secretRef": {"name": "mlflow-token"}},
        "wandb": {"secretRef": {"name": "wandb-key"}},
        "swanLab": {"secretRef": {"name": "swanlab-key"}},
    },
    "parallelism": {"nodes": 3, "gpusPerNode": 8},
    "resources": {
        "gpuResourceName": "amd.com/gpu",
        "extended": {"rdma/hca": 1},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"operator": "Exists"}],
        "topologyKey": "topology.kubernetes.io/zone",
        "priorityClassName": "system-node-critical",
        "runtimeClassName": "nvidia",
    },
    "checkpoints__gracePeriodSeconds": 600,
    "queueName": "team",
    "workloadPriorityClassName": "high",
    "image": "example.com/mine:1",
    "imagePullSecrets": [{"name": "registry"}],
    "env": [{"name": "NCCL_DEBUG", "value": "$(KUBERNETES_SERVICE_HOST)"}],
}

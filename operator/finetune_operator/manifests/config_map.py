"""The attempt's ConfigMap: job.json, what the stage's process is to do."""

from __future__ import annotations

from finetune_api.names import JOB_FILE_NAME
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.job_file import build_job_file
from finetune_operator.manifests.metadata import build_metadata
from finetune_operator.manifests.wanted import WantedAttempt


def build_config_map(wanted: WantedAttempt) -> JsonObject:
    """Build it immutable: an attempt runs with the spec as it stood when the attempt began."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(wanted),
        "immutable": True,
        "data": {JOB_FILE_NAME: build_job_file(wanted)},
    }

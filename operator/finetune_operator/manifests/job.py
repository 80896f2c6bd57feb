"""The attempt's batch/v1 Job: one pod, one try."""

from __future__ import annotations

from finetune_api.names import Stage
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.metadata import build_labels, build_metadata
from finetune_operator.manifests.pod import build_pod_spec
from finetune_operator.settings import PodSettings


def build_job(job: FineTuneJob, stage: Stage, attempt: int, image: str, settings: PodSettings) -> JsonObject:
    """Build the Job. It never starts a second pod: the operator classifies the failure and starts the next attempt."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": build_metadata(job, stage, attempt),
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            # A pod that still saves its checkpoint counts as active, not as failed.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {"labels": build_labels(job, stage, attempt)},
                "spec": build_pod_spec(job, stage, attempt, image, settings),
            },
        },
    }

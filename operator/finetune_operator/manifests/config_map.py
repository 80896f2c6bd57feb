"""The attempt's ConfigMap: job.json, what the stage's process is to do."""

from __future__ import annotations

from finetune_api.job_file import JobFile
from finetune_api.names import JOB_FILE_NAME, Stage
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.metadata import build_metadata


def build_config_map(job: FineTuneJob, stage: Stage, attempt: int, image: str) -> JsonObject:
    """Build it immutable: an attempt runs with the spec as it stood when the attempt began."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build_metadata(job, stage, attempt),
        "immutable": True,
        "data": {JOB_FILE_NAME: _job_file(job, stage, attempt, image)},
    }


def _job_file(job: FineTuneJob, stage: Stage, attempt: int, image: str) -> str:
    assert job.spec is not None
    return JobFile(
        name=job.name,
        namespace=job.namespace,
        uid=job.uid,
        stage=stage,
        attempt=attempt,
        trainer_image=image,
        spec=job.spec,
    ).model_dump_json(exclude_none=True)

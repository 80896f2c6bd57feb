"""What an attempt looks like in the cluster: pure builders from job and settings to plain dicts, one concern a file."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.names import Stage
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.config_map import build_config_map
from finetune_operator.manifests.job import build_job
from finetune_operator.settings import PodSettings


@dataclass(frozen=True)
class AttemptObjects:
    """The objects of one attempt, in the order in which they are created."""

    config_map: JsonObject
    job: JsonObject


def desired_objects(job: FineTuneJob, stage: Stage, attempt: int, settings: PodSettings) -> AttemptObjects:
    """Build everything an attempt needs."""
    image = choose_image(job, stage, settings)
    return AttemptObjects(
        config_map=build_config_map(job, stage, attempt, image),
        job=build_job(job, stage, attempt, image, settings),
    )


def choose_image(job: FineTuneJob, stage: Stage, settings: PodSettings) -> str:
    """Choose the image: a run stays with the one it began to train with, whatever the chart says later."""
    if stage is Stage.PREPARE:
        return settings.prepare_image
    return job.status.provenance.trainer_image or settings.trainer_image

"""What an attempt looks like in the cluster: pure builders from job and settings to plain dicts, one concern a file."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.config_map import build_config_map
from finetune_operator.manifests.job import build_job
from finetune_operator.manifests.service import build_service
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.policies.grace import decide_grace_seconds
from finetune_operator.settings import PodSettings


@dataclass(frozen=True)
class DesiredObjects:
    """The objects of one attempt, in the order in which they are created."""

    # None for cleanup: its Job belongs to nobody, so nothing would remove a ConfigMap of it.
    config_map: JsonObject | None
    # Only where several pods have to find each other.
    service: JsonObject | None
    job: JsonObject


def desired_objects(
    job: FineTuneJob,
    stage: Stage,
    attempt: int,
    settings: PodSettings,
    *,
    memory_backoff: int = 0,
    active_seconds_left: float | None = None,
    stop_seconds: float | None = None,
    image: str | None = None,
) -> DesiredObjects:
    """Build everything an attempt needs.

    `image` is what the job's earlier attempts ran with; `active_seconds_left` bounds how long its pods may run;
    `stop_seconds` is what they were last measured to need for a stop.
    """
    assert job.spec is not None
    wanted = WantedAttempt(
        job=job,
        spec=job.spec,
        stage=stage,
        number=attempt,
        image=image or choose_image(job.spec, stage, settings),
        grace_seconds=decide_grace_seconds(stage, job.spec.checkpoints, stop_seconds),
        memory_backoff=memory_backoff,
        active_seconds_left=active_seconds_left,
    )
    return DesiredObjects(
        config_map=build_config_map(wanted) if wanted.is_owned else None,
        service=build_service(wanted) if wanted.is_gang else None,
        job=build_job(wanted, settings),
    )


def choose_image(spec: FineTuneJobSpec, stage: Stage, settings: PodSettings) -> str:
    """Choose the image of a first attempt: `spec.image` stands for the trainer, so for train and export alone."""
    if stage in (Stage.PREPARE, Stage.CLEANUP):
        return settings.prepare_image
    return spec.image or settings.trainer_image

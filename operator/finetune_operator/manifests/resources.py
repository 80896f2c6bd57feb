"""What a stage's container asks of its node."""

from __future__ import annotations

from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec, Resources, StageResources
from finetune_operator.kubernetes_objects import JsonObject


def stage_resources(spec: FineTuneJobSpec, stage: Stage) -> Resources | StageResources:
    """The block of the spec that sizes a stage."""
    match stage:
        case Stage.PREPARE:
            return spec.resources.prepare
        case Stage.TRAIN:
            return spec.resources
        case Stage.EXPORT:
            return spec.resources.export


def build_resources(spec: FineTuneJobSpec, stage: Stage) -> JsonObject:
    """Build requests and limits.

    CPU is requested and never limited: throttling would slow the input pipeline of an idle node. Memory is both, so
    that the pod that uses too much is the one that is killed.
    """
    size = stage_resources(spec, stage)
    requests = {"cpu": size.cpu, "memory": size.memory, "ephemeral-storage": size.ephemeral_storage}
    limits = {"memory": size.memory}
    if stage is Stage.TRAIN and spec.parallelism.gpus_per_node > 0:
        limits[spec.resources.gpu_resource_name] = str(spec.parallelism.gpus_per_node)
    return {"requests": requests, "limits": limits}

"""What a stage's container asks of its node."""

from __future__ import annotations

from finetune_api.names import Stage
from finetune_api.spec import FineTuneJobSpec, Resources, StageResources
from finetune_operator.kubernetes_objects import JsonObject

# Listing and deleting objects: a Python process with an S3 client.
CLEANUP_RESOURCES = StageResources(cpu="100m", memory="256Mi", ephemeral_storage="128Mi")


def stage_resources(spec: FineTuneJobSpec, stage: Stage) -> Resources | StageResources:
    """What sizes a stage."""
    match stage:
        case Stage.PREPARE:
            return spec.resources.prepare
        case Stage.TRAIN:
            return spec.resources
        case Stage.EXPORT:
            return spec.resources.export
        case Stage.CLEANUP:
            return CLEANUP_RESOURCES


def build_resources(spec: FineTuneJobSpec, stage: Stage) -> JsonObject:
    """Build requests and limits.

    CPU is requested and never limited: throttling would slow the input pipeline of an idle node. Memory is both, so
    that the pod that uses too much is the one that is killed.
    """
    size = stage_resources(spec, stage)
    requests = {"cpu": size.cpu, "memory": size.memory, "ephemeral-storage": size.ephemeral_storage}
    devices = _devices(spec) if stage is Stage.TRAIN else {}
    return {"requests": requests, "limits": {**devices, "memory": size.memory}}


def _devices(spec: FineTuneJobSpec) -> dict[str, str]:
    """GPUs and other extended resources. As limits: Kubernetes makes the request of it, which must be the same."""
    counts = dict(spec.resources.extended or {})
    if spec.parallelism.gpus_per_node > 0:
        counts[spec.resources.gpu_resource_name] = spec.parallelism.gpus_per_node
    return {name: str(count) for name, count in counts.items()}

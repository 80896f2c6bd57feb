"""`spec.resources`: what each stage's pod asks the cluster for, and where it may run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, ObjectName, Quantity

LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        max_length=317,
    ),
]
LabelValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", max_length=63)
]


class TolerationOperator(StrEnum):
    """How a toleration matches a taint."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """The effect of the taint that is tolerated."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A taint that the pods may be scheduled on, as in a Pod."""

    key: LabelKey | None = Field(
        default=None, description="key of the taint. Without it, with operator Exists, every taint."
    )
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL, description="operator: Exists or Equal. Default: Equal."
    )
    value: LabelValue | None = Field(default=None, description="value of the taint, for operator Equal.")
    effect: TaintEffect | None = Field(
        default=None, description="effect of the taint. Without it, every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = Field(
        default=None, description="tolerationSeconds bounds how long a NoExecute taint is tolerated."
    )


class StageResources(ApiModel):
    """Size of a CPU stage's pod."""

    cpu: Quantity = Field(default="1", description="cpu requested, in cores. Default: 1.")
    memory: Quantity = Field(default="4Gi", description="memory requested, and the limit. Default: 4Gi.")
    ephemeral_storage: Quantity = Field(
        default="20Gi", description="ephemeralStorage for the stage's working folder. Default: 20Gi."
    )


class Resources(ApiModel):
    """What the pods ask for. The train stage's own figures stand at the top level."""

    gpu_resource_name: LabelKey = Field(
        default="nvidia.com/gpu",
        description="gpuResourceName is the extended resource that counts GPUs. Default: nvidia.com/gpu.",
    )
    cpu: Quantity = Field(default="4", description="cpu requested by the train pod, in cores. Default: 4.")
    memory: Quantity = Field(
        default="16Gi",
        description="memory requested by the train pod, and the limit; sharedMemory counts in it. Default: 16Gi.",
    )
    ephemeral_storage: Quantity = Field(
        default="50Gi",
        description="ephemeralStorage for the base model and the local copy of checkpoints. Default: 50Gi.",
    )
    shared_memory: Quantity = Field(
        default="2Gi",
        description="sharedMemory is the size of /dev/shm. It counts in the memory limit. Default: 2Gi.",
    )
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = Field(
        default=None, description="nodeSelector restricts the train pod to nodes with these labels."
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        default=None, description="tolerations of the train pod."
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="priorityClassName of the train pod."
    )
    prepare: StageResources = Field(default=StageResources(), description="prepare sizes the prepare pod.")
    export: StageResources = Field(
        default=StageResources(cpu="2", memory="8Gi", ephemeral_storage="50Gi"),
        description="export sizes the export pod.",
    )

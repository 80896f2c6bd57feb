"""`spec.resources`: what each stage's pod asks the cluster for, and where it may run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from finetune_api.base import ApiModel, CelRule, ObjectName, Quantity

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
# Extended resources always have a domain: without one Kubernetes means its own (cpu, memory, hugepages).
ResourceName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=317
    ),
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

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "self.operator == 'Exists' || has(self.key)",
            "tolerations: without key, operator must be Exists, which tolerates every taint: set key, or operator: Exists",
        ),
        CelRule(
            "self.operator == 'Equal' || !has(self.value)",
            "tolerations: operator Exists matches any value: remove value, or set operator: Equal",
        ),
        CelRule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerations: tolerationSeconds is for effect NoExecute: set that effect or remove tolerationSeconds",
        ),
    )

    key: LabelKey | None = Field(
        default=None, description="key of the taint. Without it, with operator Exists, every taint."
    )
    operator: TolerationOperator = Field(
        default=TolerationOperator.EQUAL, description="operator: Exists or Equal. Default: Equal."
    )
    value: LabelValue | None = Field(
        default=None, description="value of the taint, for operator Equal. Default: empty."
    )
    effect: TaintEffect | None = Field(
        default=None, description="effect of the taint. Without it, every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = Field(
        default=None,
        description="tolerationSeconds bounds how long a NoExecute taint is tolerated. Default: for ever.",
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

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!has(self.gpuResourceName) || self.gpuResourceName.contains('/')",
            "resources.gpuResourceName must be an extended resource with its domain, such as nvidia.com/gpu",
        ),
        CelRule(
            "!has(self.extended) || !(self.gpuResourceName in self.extended)",
            "resources.extended names resources.gpuResourceName, whose number is parallelism.gpusPerNode: remove it from extended",
        ),
        CelRule(
            # The block's default `{}` is held to its rules before its own defaults are filled in.
            "!has(self.sharedMemory) || quantity(string(self.sharedMemory)).compareTo(quantity(string(self.memory))) < 0",
            "resources.sharedMemory counts in resources.memory and must be smaller: raise memory or lower sharedMemory",
        ),
    )

    gpu_resource_name: LabelKey = Field(
        default="nvidia.com/gpu",
        description="gpuResourceName is the extended resource that counts GPUs, with its domain. Default: nvidia.com/gpu.",
    )
    extended: (
        Annotated[dict[ResourceName, Annotated[int, Field(ge=1, le=1024)]], Field(max_length=8)] | None
    ) = Field(
        default=None,
        description="extended resources of each train pod beside GPUs, such as rdma/hca: 1 or vpc.amazonaws.com/efa: 4. Default: none.",
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
        default=None,
        description="nodeSelector restricts the train pods to nodes with these labels. Default: none.",
    )
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        default=None,
        description="tolerations of the train pods: taints of nodes that they may run on. Default: none.",
    )
    topology_key: LabelKey | None = Field(
        default=None,
        description="topologyKey is a node label, such as topology.kubernetes.io/zone or a rack's: all train pods of an attempt run on nodes that "
        "have the same value of it. No effect with parallelism.nodes 1. Default: none.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="priorityClassName of the train pod. Default: the cluster's."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="runtimeClassName of the train pod, such as nvidia. Default: the node's."
    )
    prepare: StageResources = Field(
        default=StageResources(),
        description="prepare sizes the pod that fetches, checks and tokenises the data.",
    )
    export: StageResources = Field(
        default=StageResources(cpu="2", memory="8Gi", ephemeral_storage="50Gi"),
        description="export sizes the pod that merges, verifies and uploads the model; memory and ephemeralStorage grow with the model.",
    )

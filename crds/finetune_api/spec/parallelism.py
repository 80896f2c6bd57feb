"""`spec.parallelism`: on how many nodes and GPUs the run is spread, and how they share the work."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel, CelRule

Elements = Annotated[int, Field(ge=1, le=100_000_000_000)]


class Strategy(StrEnum):
    """What each process holds."""

    AUTO = "Auto"
    DDP = "DDP"
    ZERO1 = "ZeRO1"
    ZERO2 = "ZeRO2"
    ZERO3 = "ZeRO3"
    FSDP = "FSDP"


class Offload(StrEnum):
    """What is kept in host memory instead of the GPU's."""

    NONE = "None"
    OPTIMIZER = "Optimizer"
    OPTIMIZER_AND_PARAMETERS = "OptimizerAndParameters"


# The block's default `{}` is held to its rules before its own defaults are filled in.
_OFFLOAD = "self.?offload.orValue('None')"
_STAGE3 = ("prefetchBucketSize", "paramPersistenceThreshold", "maxLiveParameters", "maxReuseDistance")


class DeepSpeed(ApiModel):
    """Tuning of DeepSpeed's ZeRO: an allow-list, because its whole configuration can name paths and programs."""

    reduce_bucket_size: Elements | None = Field(
        default=None,
        description="reduceBucketSize: elements that are reduced at once; smaller takes less memory. Default: DeepSpeed's, 500,000,000.",
    )
    allgather_bucket_size: Elements | None = Field(
        default=None,
        description="allgatherBucketSize: elements that are gathered at once, in ZeRO1 and ZeRO2. Default: DeepSpeed's, 500,000,000.",
    )
    overlap_comm: bool | None = Field(
        default=None,
        description="overlapComm reduces gradients while the rest is still computed. Default: DeepSpeed's: true for ZeRO3, false otherwise.",
    )
    contiguous_gradients: bool | None = Field(
        default=None,
        description="contiguousGradients copies gradients into one buffer, so that memory is not split up. Default: true.",
    )
    reduce_scatter: bool | None = Field(
        default=None,
        description="reduceScatter averages gradients by reduce-scatter instead of all-reduce. Default: true.",
    )
    round_robin_gradients: bool | None = Field(
        default=None,
        description="roundRobinGradients spreads the copying of gradients over the processes, in ZeRO1 and ZeRO2 with offload. Default: false.",
    )
    sub_group_size: Elements | None = Field(
        default=None,
        description="subGroupSize: elements whose optimizer step is taken at once, in ZeRO3. Default: DeepSpeed's, 1,000,000,000.",
    )
    prefetch_bucket_size: Elements | None = Field(
        default=None,
        description="prefetchBucketSize: elements that ZeRO3 fetches ahead. Default: DeepSpeed's, 50,000,000.",
    )
    param_persistence_threshold: Elements | None = Field(
        default=None,
        description="paramPersistenceThreshold: smaller parameters stay on every GPU in ZeRO3. Default: DeepSpeed's, 100,000.",
    )
    max_live_parameters: Elements | None = Field(
        default=None,
        description="maxLiveParameters that a GPU holds at once in ZeRO3. Default: DeepSpeed's, 1,000,000,000.",
    )
    max_reuse_distance: Elements | None = Field(
        default=None,
        description="maxReuseDistance: parameters that are used again within so many elements are kept in ZeRO3. Default: DeepSpeed's, 1,000,000,000.",
    )
    pin_memory: bool | None = Field(
        default=None,
        description="pinMemory of what is offloaded: faster, and the host cannot use it for anything else. Default: false.",
    )


class Parallelism(ApiModel):
    """The shape of the training processes."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            f"{_OFFLOAD} == 'None' || self.strategy != 'DDP'",
            "parallelism.offload moves what ZeRO or FSDP has split up, but parallelism.strategy is DDP: set strategy: ZeRO2, or offload: None",
        ),
        CelRule(
            f"{_OFFLOAD} != 'OptimizerAndParameters' || self.strategy in ['Auto', 'ZeRO3', 'FSDP']",
            "parallelism.offload OptimizerAndParameters needs parallelism.strategy ZeRO3 or FSDP: set one of them, or offload: Optimizer",
        ),
        CelRule(
            f"{_OFFLOAD} != 'Optimizer' || self.strategy != 'FSDP'",
            "parallelism.offload Optimizer: parallelism.strategy FSDP offloads parameters and optimizer only together: "
            "set offload: OptimizerAndParameters, or strategy: ZeRO3",
        ),
        CelRule(
            "!has(self.deepspeed) || self.strategy in ['Auto', 'ZeRO1', 'ZeRO2', 'ZeRO3']",
            "parallelism.deepspeed tunes ZeRO, but parallelism.strategy is DDP or FSDP: set strategy: ZeRO1, ZeRO2 or ZeRO3, or remove deepspeed",
        ),
        CelRule(
            "!has(self.deepspeed) || self.strategy in ['Auto', 'ZeRO3'] || !("
            + " || ".join(f"has(self.deepspeed.{name})" for name in _STAGE3)
            + ")",
            f"parallelism.deepspeed: {', '.join(_STAGE3)} are for parallelism.strategy ZeRO3: set that strategy or remove them",
        ),
        CelRule(
            "!has(self.deepspeed) || !has(self.deepspeed.pinMemory) || self.offload != 'None'",
            "parallelism.deepspeed.pinMemory is about what parallelism.offload moves to host memory, but offload is None: set offload or remove pinMemory",
        ),
    )

    nodes: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="nodes is the number of train pods, which start, end and restart together. Default: 1.",
    )
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="gpusPerNode is the number of GPUs of each pod, one process each. 0 trains on the CPU with one process a pod. Default: 1.",
    )
    strategy: Strategy = Field(
        default=Strategy.AUTO,
        description="strategy by which processes share the work: DDP copies the model to each; ZeRO1 splits the optimizer's state, ZeRO2 also the "
        "gradients, ZeRO3 and FSDP also the parameters. Auto takes the first of DDP, ZeRO2, ZeRO3 that fits. Default: Auto.",
    )
    offload: Offload = Field(
        default=Offload.NONE,
        description="offload keeps the optimizer's state (Optimizer), or also the parameters (OptimizerAndParameters), in host memory, which counts "
        "in resources.memory: larger models, slower. Default: None.",
    )
    deepspeed: DeepSpeed | None = Field(
        default=None,
        description="deepspeed tunes ZeRO: buckets and overlap. Default: DeepSpeed's own values.",
    )

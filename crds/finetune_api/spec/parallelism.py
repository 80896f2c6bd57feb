"""`spec.parallelism`: on how many nodes and GPUs the run is spread."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel


class Parallelism(ApiModel):
    """The shape of the training processes."""

    nodes: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="nodes is the number of train pods, which start, end and restart together. Default: 1.",
    )
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="gpusPerNode is the number of GPUs of each pod, one process each. 0 trains on the CPU with one process a pod. Default: 1.",
    )

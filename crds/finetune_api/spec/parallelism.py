"""`spec.parallelism`: on how many GPUs the run is spread."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel


class Parallelism(ApiModel):
    """The shape of the training processes."""

    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = Field(
        default=1,
        description="gpusPerNode is the number of GPUs, one process each, joined by data parallelism. 0 trains on the CPU with one process. Default: 1.",
    )

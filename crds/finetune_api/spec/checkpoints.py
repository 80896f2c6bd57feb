"""`spec.checkpoints`: how often the run is saved to the store, and how much of it is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel


class Checkpoints(ApiModel):
    """Checkpoints go to the store; a new attempt goes on from the newest valid one."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=100,
        description="everySteps between two checkpoints. A lost pod costs at most this many steps. Default: 100.",
    )
    keep_last: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2,
        description="keepLast checkpoints; older ones are removed once a newer one is verified. Default: 2.",
    )

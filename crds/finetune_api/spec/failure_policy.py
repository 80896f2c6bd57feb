"""`spec.failurePolicy`: when a failed attempt is followed by another one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.base import ApiModel


class FailurePolicy(ApiModel):
    """How often a run is taken up again."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3,
        description="maxRestarts of a stage after failures that time can heal. Attempts that were preempted after saving a new "
        "checkpoint are not counted. Default: 3.",
    )

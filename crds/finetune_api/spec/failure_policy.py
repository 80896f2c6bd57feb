"""`spec.failurePolicy`: when a failed attempt is followed by another one, and how long anything may take."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from finetune_api.base import ApiModel

Seconds = Annotated[int, Field(ge=1, le=31_536_000)]


class OnOutOfMemory(StrEnum):
    """What follows when training runs out of memory."""

    BACKOFF = "Backoff"
    FAIL = "Fail"


class FailurePolicy(ApiModel):
    """How often a run is taken up again, and its time limits."""

    # The deadlines can be changed at any time: they are the operator's to watch.
    settled_fields: ClassVar[tuple[str, ...]] = (
        "max_restarts",
        "on_out_of_memory",
        "stall_timeout_seconds",
        "gang_start_timeout_seconds",
    )

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3,
        description="maxRestarts of a stage after failures that time can heal. Attempts that were preempted after saving a new "
        "checkpoint are not counted. Default: 3. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    on_out_of_memory: OnOutOfMemory = Field(
        default=OnOutOfMemory.BACKOFF,
        description="onOutOfMemory: Backoff trains on in a new attempt with micro-batches of half the size, which changes memory and "
        "speed but not the result (counted against maxRestarts); Fail ends the job. Default: Backoff. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    stall_timeout_seconds: Annotated[int, Field(ge=30, le=86_400)] = Field(
        default=1800,
        description="stallTimeoutSeconds without a finished optimizer step after which training counts as hung: the stacks of all "
        "processes are logged and the next attempt starts. Default: 1800. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    gang_start_timeout_seconds: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=600,
        description="gangStartTimeoutSeconds within which all pods of a multi-node attempt must run once the first of them has a node; "
        "otherwise the attempt gives its nodes back and is tried again later, uncounted. Default: 600. Can be changed while the job is Pending, Queued, Suspended or Failed.",
    )
    pending_deadline_seconds: Seconds | None = Field(
        default=None,
        description="pendingDeadlineSeconds that the job may wait for a pod to start; time in a queue or suspended is not counted. "
        "Default: none. Can be changed at any time.",
    )
    active_deadline_seconds: Seconds | None = Field(
        default=None,
        description="activeDeadlineSeconds that the job's pods may run, all attempts together; training saves a checkpoint before it "
        "ends. Default: none. Can be changed at any time.",
    )

"""`spec.checkpoints`: how often the run is saved to the store, and how much of it is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from finetune_api.base import (
    MESSAGE_KEY,
    UNWRITTEN,
    ApiModel,
    CelRule,
    auto_or_integer_schema,
    auto_to_none,
)

_GRACE_SECONDS = (30, 86_400)
GraceSeconds = Annotated[
    Annotated[int, Field(ge=_GRACE_SECONDS[0], le=_GRACE_SECONDS[1])] | None,
    BeforeValidator(auto_to_none),
    WithJsonSchema(auto_or_integer_schema(*_GRACE_SECONDS)),
]


class Checkpoints(ApiModel):
    """Checkpoints go to the store; a new attempt goes on from the newest valid one."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "!(has(self.everySteps) && has(self.everyMinutes))",
            "checkpoints.everySteps and checkpoints.everyMinutes exclude each other: remove one",
        ),
    )

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=100,
        json_schema_extra=UNWRITTEN,
        description="everySteps between two checkpoints. A lost pod costs at most this many steps. Default: 100 when everyMinutes is not set.",
    )
    every_minutes: Annotated[int, Field(ge=1, le=10_080)] | None = Field(
        default=None, description="everyMinutes between two checkpoints, instead of everySteps."
    )
    keep_last: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2,
        description="keepLast checkpoints; older ones are removed once a newer one is verified. Default: 2.",
    )
    keep_best: Annotated[int, Field(ge=0, le=10)] = Field(
        default=1,
        description="keepBest checkpoints by validation loss, beside keepLast; no effect without dataset.validation. Default: 1.",
    )
    on_preemption: bool = Field(
        default=True,
        description="onPreemption saves a checkpoint when the pod is told to go (suspend, drain, preemption, deadline), within gracePeriodSeconds. "
        "false gives the node back at once; the steps since the last checkpoint are lost. Default: true.",
    )
    grace_period_seconds: GraceSeconds = Field(
        default=None,
        json_schema_extra={
            MESSAGE_KEY: "checkpoints.gracePeriodSeconds must be Auto or a number of seconds, such as 300"
        },
        description="gracePeriodSeconds that the train pods have to save and upload when they are told to go: Auto, or a number. "
        "Auto is 120 until a stop was measured (status.checkpoint.stopSeconds); from the next attempt on twice what was measured plus 15, "
        "from 120 to 3,600. Default: Auto.",
    )

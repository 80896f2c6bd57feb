"""What the train pod reports while it runs: POST, JSON, bearer token of audience names.PROGRESS_TOKEN_AUDIENCE.

The outer shape is that of transformers' `KubeflowCallback` (`trainerStatus`), so any Hugging Face Trainer image
can report; `finetune` carries what that shape has no place for. Identity is in the token, never in the body.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from finetune_api.base import ApiModel

PROGRESS_PATH = "/v1alpha1/progress"
MAX_REPORT_BYTES = 64 * 1024


class Metric(ApiModel):
    """A named figure; values travel as text, as in KubeflowCallback."""

    name: Annotated[str, Field(max_length=256)]
    value: Annotated[str, Field(max_length=64)]


class TrainerStatus(ApiModel):
    """KubeflowCallback's payload."""

    model_config = ConfigDict(extra="ignore")

    last_updated_time: str | None = None
    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=256)] = ()


class CheckpointReport(ApiModel):
    """The newest checkpoint whose manifest is committed."""

    step: Annotated[int, Field(ge=0)]
    uri: Annotated[str, Field(max_length=2048)]
    time: str


class EffectiveReport(ApiModel):
    """What really runs, after every `Auto` was decided."""

    micro_batch_tokens: int
    gradient_accumulation: int
    world_size: int
    strategy: str


class TrainingReport(ApiModel):
    """Where training stands after an optimizer step."""

    model_config = ConfigDict(extra="ignore")

    step: Annotated[int, Field(ge=0)]
    total_steps: Annotated[int, Field(ge=0)]
    epoch: Annotated[float, Field(ge=0)] | None = None
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    peak_memory_bytes: Annotated[int, Field(ge=0)] | None = None
    resumed_from_step: int | None = None
    checkpoint: CheckpointReport | None = None
    effective: EffectiveReport | None = None


class ProgressReport(ApiModel):
    """The request's body."""

    model_config = ConfigDict(extra="ignore")

    trainer_status: TrainerStatus
    finetune: TrainingReport | None = None

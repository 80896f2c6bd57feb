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
# A report is a pod's word and becomes status: what the API server would refuse there is refused here. JSON numbers are
# exact up to this.
_MAX_INTEGER = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
Word = Annotated[str, Field(max_length=64)]


class Metric(ApiModel):
    """A named figure; values travel as text, as in KubeflowCallback."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=256)]
    value: Word


class TrainerStatus(ApiModel):
    """KubeflowCallback's payload."""

    model_config = ConfigDict(extra="ignore")

    last_updated_time: Word | None = None
    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: Count | None = None
    metrics: Annotated[tuple[Metric, ...], Field(max_length=2048)] = ()


class CheckpointReport(ApiModel):
    """The newest checkpoint whose manifest is committed."""

    step: Count
    uri: Annotated[str, Field(max_length=1024)]
    time: Word


class EffectiveReport(ApiModel):
    """What really runs, after every `Auto` was decided."""

    micro_batch_tokens: Count
    gradient_accumulation: Count
    world_size: Count
    strategy: Word


class TrainingReport(ApiModel):
    """Where training stands after an optimizer step."""

    model_config = ConfigDict(extra="ignore")

    step: Count
    total_steps: Count
    epoch: Annotated[float, Field(ge=0)] | None = None
    loss: float | None = None
    # Loss on the validation rows, where there are any.
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    peak_memory_bytes: Count | None = None
    resumed_from_step: Count | None = None
    checkpoint: CheckpointReport | None = None
    effective: EffectiveReport | None = None


class ProgressReport(ApiModel):
    """The request's body."""

    model_config = ConfigDict(extra="ignore")

    trainer_status: TrainerStatus = TrainerStatus()
    finetune: TrainingReport | None = None

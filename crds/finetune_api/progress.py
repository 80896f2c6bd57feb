"""What the train pod reports while it runs: POST, JSON, bearer token of audience names.PROGRESS_TOKEN_AUDIENCE.

The outer shape is that of transformers' `KubeflowCallback` (`trainerStatus`), so any Hugging Face Trainer image
can report; `finetune` carries what that shape has no place for. Identity is in the token, never in the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from finetune_api.base import ApiModel

PROGRESS_PATH = "/v1alpha1/progress"
MAX_REPORT_BYTES = 64 * 1024
# A report is a pod's word and becomes status: what the API server would refuse there is refused here. JSON numbers are
# exact up to this.
_MAX_INTEGER = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Word = Annotated[str, Field(max_length=64)]
MAX_NOTICES = 8
MAX_NOTICE_LENGTH = 512


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

    model_config = ConfigDict(extra="ignore")

    step: Count
    uri: Annotated[str, Field(max_length=1024)]
    time: Word
    # All its files in the store.
    size_bytes: Count | None = None
    # From the end of its step to its commit.
    save_seconds: Seconds | None = None


class EffectiveReport(ApiModel):
    """What really runs, after every `Auto` was decided."""

    model_config = ConfigDict(extra="ignore")

    micro_batch_tokens: Count
    gradient_accumulation: Count
    world_size: Count
    strategy: Word


class NoticeReason(StrEnum):
    """What people should know of a run that goes on all the same. Stable: each is the reason of an event."""

    # An attempt began from an older checkpoint than the newest, which is damaged or not whole.
    CHECKPOINT_PASSED_OVER = "CheckpointPassedOver"
    # The store does not answer; training goes on while its checkpoints wait.
    STORE_UNAVAILABLE = "StoreUnavailable"
    # A save takes longer than the interval that spec.checkpoints asks for.
    SAVES_ARE_RARER = "SavesAreRarer"
    # A stop takes longer than the pods' grace period: the steps since the last checkpoint would be lost.
    GRACE_PERIOD_TOO_SHORT = "GracePeriodTooShort"


class Notice(ApiModel):
    """Something is not as it should be, and training goes on."""

    model_config = ConfigDict(extra="ignore")

    reason: NoticeReason
    message: Annotated[str, Field(max_length=MAX_NOTICE_LENGTH)]


def _drop_unknown(notices: object) -> object:
    """Leave out notices whose reason this version does not know: the rest of the report is still true."""
    if not isinstance(notices, list | tuple):
        return notices
    return [notice for notice in notices if not _is_unknown(notice)]


def _is_unknown(notice: object) -> bool:
    reason = notice.get("reason") if isinstance(notice, Mapping) else None
    return isinstance(reason, str) and reason not in set(NoticeReason)


Notices = Annotated[tuple[Notice, ...], Field(max_length=MAX_NOTICES), BeforeValidator(_drop_unknown)]


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
    # What the pods need, as measured, to finish a step, save and upload when they are told to go.
    stop_seconds: Seconds | None = None
    effective: EffectiveReport | None = None
    # All that hold now, the most important first; one that is left out is over.
    notices: Notices = ()


class ProgressReport(ApiModel):
    """The request's body."""

    model_config = ConfigDict(extra="ignore")

    trainer_status: TrainerStatus = TrainerStatus()
    finetune: TrainingReport | None = None

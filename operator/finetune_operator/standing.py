"""Where a job stands after its children were observed: the one answer that status, events and actions follow from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass, Reason
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_operator.gang import Gang
from finetune_operator.notices import Noticed
from finetune_operator.observation import Refusal
from finetune_operator.waiting import Explanation


@dataclass(frozen=True)
class Starting:
    """The next attempt is to be created now; `refusal` says why that did not work."""

    stage: Stage
    number: int
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Active:
    """An attempt is under way."""

    attempt: Attempt
    gang: Gang
    explanation: Explanation | None = None
    noticed: Noticed = field(default_factory=Noticed)

    @property
    def is_queued(self) -> bool:
        """Whether somebody holds its Job back: Kueue, as a rule."""
        return self.gang.is_suspended

    @property
    def has_started(self) -> bool:
        """Whether all its containers have been started, and not all have ended since."""
        return self.gang.has_started


@dataclass(frozen=True)
class Stopping:
    """The operator ends an attempt whose pods still run; the attempt's reason says why."""

    attempt: Attempt
    gang: Gang
    noticed: Noticed = field(default_factory=Noticed)


@dataclass(frozen=True)
class Restarting:
    """The last attempt ended before its time; the next one starts later."""

    attempt: Attempt
    at: datetime


@dataclass(frozen=True)
class Suspended:
    """The user suspended the job and no pod of it runs."""


@dataclass(frozen=True)
class Succeeded:
    """Every stage that was asked for is done."""

    after_prepare_only: bool = False


@dataclass(frozen=True)
class Failed:
    """No further attempt is made."""

    reason: FailureClass | Reason
    message: str


Standing = Starting | Active | Stopping | Restarting | Suspended | Succeeded | Failed


@dataclass(frozen=True)
class Course:
    """The job's history brought up to date, and where that leaves it."""

    base: FineTuneJobStatus
    standing: Standing
    wake_seconds: float | None = None

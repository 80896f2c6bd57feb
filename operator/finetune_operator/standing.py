"""Where a job stands after its children were observed: the one answer that status, events and actions follow from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass, Reason
from finetune_api.status import Attempt
from finetune_operator.observation import PodFacts, Refusal
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
    pod: PodFacts | None
    explanation: Explanation | None = None

    @property
    def has_started(self) -> bool:
        """Whether the trainer container has been started."""
        return self.pod is not None and self.pod.started is not None


@dataclass(frozen=True)
class Restarting:
    """The last attempt failed; the next one starts later."""

    attempt: Attempt
    at: datetime


@dataclass(frozen=True)
class Succeeded:
    """Every stage is done."""


@dataclass(frozen=True)
class Failed:
    """No further attempt is made."""

    reason: FailureClass | Reason
    message: str


Standing = Starting | Active | Restarting | Succeeded | Failed

"""What the reconciler decides and the controller carries out."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_api.status import FineTuneJobStatus
from finetune_operator.attempts import LookUp
from finetune_operator.events import JobEvent
from finetune_operator.observation import JobFacts
from finetune_operator.standing import Starting


@dataclass(frozen=True)
class Plan:
    """What is to be done now.

    `look_ups` and `create` come first: while there are any, nothing else is decided. Then the finalizer is set or
    taken away, the status written, children stopped (their pods are waited for) and others deleted.
    """

    status: FineTuneJobStatus
    look_ups: tuple[LookUp, ...] = ()
    create: Starting | None = None
    finalizer: bool | None = None
    stop: tuple[JobFacts, ...] = ()
    delete: tuple[JobFacts, ...] = ()
    # Beyond those that follow from the change of status.
    events: tuple[JobEvent, ...] = ()
    requeue_seconds: float | None = None
    is_progress_only: bool = False

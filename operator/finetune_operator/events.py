"""Kubernetes events, one per transition: the difference between two statuses, told with stable reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from finetune_api.reasons import Reason
from finetune_api.status import (
    Attempt,
    AttemptOutcome,
    ConditionStatus,
    ConditionType,
    FineTuneJobStatus,
    Phase,
)
from finetune_api.wording import cut
from finetune_operator.conditions import find_condition, is_true
from finetune_operator.notices import list_begun
from finetune_operator.observation import ReceivedReport

# The API server's limit on an event's message.
MAX_MESSAGE_LENGTH = 1024
_COMPLAINTS = frozenset(
    {
        Reason.MISSING_REFERENCE,
        Reason.FORBIDDEN,
        Reason.QUOTA_EXCEEDED,
        Reason.UNSCHEDULABLE,
        Reason.IMAGE_PULL,
        Reason.QUEUE_NOT_SERVED,
    }
)
# The end of a suspension and a retry are told as such.
_TOLD_BY_THE_WISH = frozenset({Phase.RESTARTING, Phase.SUSPENDED, Phase.FAILED})
# They end the job, which is an event of its own.
_DEADLINES = frozenset({Reason.ACTIVE_DEADLINE_EXCEEDED, Reason.PENDING_DEADLINE_EXCEEDED})
_STARTS = {
    Phase.PREPARING: Reason.PREPARING,
    Phase.TRAINING: Reason.TRAINING,
    Phase.EXPORTING: Reason.EXPORTING,
}


@dataclass(frozen=True)
class JobEvent:
    """An event about a FineTuneJob. `occasion` tells two events of one reason apart."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    occasion: str

    def name(self, job_name: str, job_uid: str) -> str:
        """A name that is the same however often the transition is told, so that it is told once."""
        digest = hashlib.sha256(f"{job_uid}/{self.reason}/{self.occasion}".encode()).hexdigest()
        return f"{job_name}.{digest[:16]}"

    @property
    def short_message(self) -> str:
        """The message within the API server's limit."""
        return cut(self.message, MAX_MESSAGE_LENGTH)


def decide_events(
    old: FineTuneJobStatus, new: FineTuneJobStatus, report: ReceivedReport | None = None
) -> tuple[JobEvent, ...]:
    """List the transitions between two statuses; `report` is the one that went into the new one, if any did."""
    return (
        *_ended_attempts(old, new),
        *_resumed(old, new, report),
        *_noticed(old, new, report),
        *_checkpoint(old, new),
        *_wishes(old, new),
        *_evicted(old, new),
        *_changes_of_job(old, new),
    )


def _wishes(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[JobEvent]:
    """What the user asked for and now is so."""
    generation = f"{new.observed_generation}"
    if (
        new.observed_retry > old.observed_retry
        and old.phase is Phase.FAILED
        and new.phase is not Phase.FAILED
    ):
        told = f"spec.retry was raised to {new.observed_retry}: the job goes on."
        yield JobEvent("Normal", Reason.RETRIED, told, generation)
    if new.phase is Phase.SUSPENDED and old.phase is not Phase.SUSPENDED:
        # A stopped attempt has said so already.
        stopped = new.attempts[-1:] if new.attempts[-1:] != old.attempts[-1:] else []
        if not any(attempt.reason == Reason.SUSPENDED for attempt in stopped):
            yield JobEvent("Normal", Reason.SUSPENDED, new.message or "", generation)
    elif old.phase is Phase.SUSPENDED and new.phase is not Phase.SUSPENDED:
        yield JobEvent(
            "Normal", Reason.UNSUSPENDED, "spec.suspend is false again: the job goes on.", generation
        )


def _evicted(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[JobEvent]:
    """The queue took the pods of an attempt away that goes on when it is admitted again."""
    if new.preemptions <= old.preemptions or not new.attempts:
        return
    newest = new.attempts[-1]
    if (
        newest.outcome is AttemptOutcome.RUNNING
        and old.attempts
        and old.attempts[-1].job_uid == newest.job_uid
    ):
        told = f"Attempt {newest.number} of {newest.stage} was evicted by its queue; it goes on when admitted again."
        yield JobEvent("Warning", Reason.KUEUE_EVICTED, told, f"{_occasion(newest)}/{new.preemptions}")


def _resumed(
    old: FineTuneJobStatus, new: FineTuneJobStatus, report: ReceivedReport | None
) -> Iterator[JobEvent]:
    """The first report of an attempt says whether it went on from a checkpoint."""
    training = report.report.finetune if report else None
    if report is None or training is None or training.resumed_from_step is None:
        return
    reported_before = {attempt.job_uid for attempt in old.attempts if attempt.step is not None}
    for attempt in new.attempts:
        if attempt.job_uid == report.job_uid and attempt.job_uid not in reported_before:
            message = (
                f"Attempt {attempt.number} goes on from the checkpoint of step {training.resumed_from_step}."
            )
            yield JobEvent("Normal", Reason.RESUMED, message, _occasion(attempt))


def _noticed(
    old: FineTuneJobStatus, new: FineTuneJobStatus, report: ReceivedReport | None
) -> Iterator[JobEvent]:
    """What the trainer warns of now and did not before; also once more, where it was over meanwhile."""
    if report is None:
        return
    # The last figures before it tell two beginnings apart, and stay the same however often one of them is told.
    after = old.progress.last_update_time if old.progress else None
    for notice in list_begun(old, new, report):
        yield JobEvent("Warning", notice.reason, notice.message, f"{report.job_uid}/{after}")


def _ended_attempts(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[JobEvent]:
    known = {(attempt.job_uid, attempt.outcome) for attempt in old.attempts}
    for attempt in new.attempts:
        if (attempt.job_uid, attempt.outcome) in known:
            continue
        if attempt.outcome is AttemptOutcome.FAILED:
            told = " ".join(filter(None, (attempt.message, attempt.decision)))
            yield JobEvent("Warning", attempt.reason or "Unknown", told, _occasion(attempt))
        elif attempt.outcome is AttemptOutcome.STOPPED and attempt.reason not in _DEADLINES:
            told = f"Attempt {attempt.number} of {attempt.stage} was stopped: {attempt.message}"
            yield JobEvent("Normal", attempt.reason or Reason.STOPPING, told, _occasion(attempt))


def _checkpoint(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[JobEvent]:
    checkpoint = new.checkpoint
    if checkpoint is not None and (old.checkpoint is None or old.checkpoint.uri != checkpoint.uri):
        message = f"The checkpoint of step {checkpoint.step} is committed."
        yield JobEvent("Normal", Reason.CHECKPOINT_SAVED, message, checkpoint.uri)


def _changes_of_job(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[JobEvent]:
    occasion = _occasion(new.attempts[-1]) if new.attempts else ""
    was_prepared = is_true(old.conditions, ConditionType.PREPARED)
    prepared = find_condition(new.conditions, ConditionType.PREPARED)
    if prepared and prepared.status is ConditionStatus.TRUE and not was_prepared:
        yield JobEvent("Normal", Reason.PREPARED, prepared.message or "The data are prepared.", "once")
    if new.reason in _COMPLAINTS and new.reason != old.reason:
        yield JobEvent("Warning", new.reason, new.message or "", occasion)
    if new.phase == old.phase or new.phase is None:
        return
    if new.phase in _STARTS and new.reason == _STARTS[new.phase]:
        yield JobEvent("Normal", _STARTS[new.phase], new.message or "", occasion)
    elif new.phase is Phase.RESTARTING and old.phase not in _TOLD_BY_THE_WISH:
        yield JobEvent("Normal", Reason.RESTARTING, new.message or "", occasion)
    elif new.phase is Phase.SUCCEEDED:
        yield JobEvent("Normal", Reason.SUCCEEDED, new.message or "", "once")
    elif new.phase is Phase.FAILED and not _is_told(new):
        yield JobEvent("Warning", new.reason or "Failed", new.message or "", f"{new.observed_generation}")


def _is_told(new: FineTuneJobStatus) -> bool:
    """Whether the failed attempt that ended the job has said why."""
    newest = new.attempts[-1] if new.attempts else None
    return newest is not None and newest.outcome is AttemptOutcome.FAILED and newest.reason == new.reason


def _occasion(attempt: Attempt) -> str:
    return f"{attempt.stage}-{attempt.number}"

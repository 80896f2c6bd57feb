"""An attempt that goes on: since when it runs, why it waits if it does, and whether the operator has to end it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_api.termination import parse_termination_message
from finetune_operator import attempts as attempts_
from finetune_operator import waiting
from finetune_operator.attempts import LookUp, LookUpKind
from finetune_operator.gang import Gang, observe_gang
from finetune_operator.images import choose_image, pin_image
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.notices import Noticed, observe_notices
from finetune_operator.observation import NODE_LOST_AFTER, Observed
from finetune_operator.policies import deadline, gang_start
from finetune_operator.policies.spec_change import decide_replacement
from finetune_operator.policies.stop import Stop
from finetune_operator.policies.suspend import decide_suspension
from finetune_operator.references import list_references
from finetune_operator.standing import Active, Course, Stopping
from finetune_operator.times import earliest, format_time, seconds_until


def watch_attempt(
    job: FineTuneJob, base: FineTuneJobStatus, attempt: Attempt, observed: Observed, now: datetime
) -> Course | LookUp:
    """Note how it stands, end it if it must end, else find out why it waits, if it does."""
    assert job.spec is not None
    gang = observe_gang(attempt.job_uid, observed)
    base = _note_running(job, base, attempt, gang, now)
    attempt = base.attempts[-1]
    wake = _wake_for_lost_pods(gang, now)
    trains = attempt.stage is Stage.TRAIN and gang.has_started
    noticed = observe_notices(job.status, attempt, observed.report) if trains else Noticed()
    if attempts_.is_stopping(attempt) or gang.lost_pods(now):
        return Course(base, Stopping(attempt, gang, noticed), wake)
    if (stop := _decide_stop(job, base, attempt, gang, now)) is not None:
        return _stop(base, stop, Stopping(attempt, gang, noticed), wake)
    explanation = _explain(job, attempt, gang, observed, now)
    if isinstance(explanation, LookUp):
        return explanation
    told, look_seconds = explanation
    if (stop := _decide_pending_stop(job, gang, told, now)) is not None:
        return _stop(base, stop, Stopping(attempt, gang, noticed), wake)
    limits = _wake_for_limits(job.spec, base, gang, now)
    return Course(base, Active(attempt, gang, told, noticed), earliest(look_seconds, wake, limits))


def _stop(base: FineTuneJobStatus, stop: Stop, stopping: Stopping, wake: float | None) -> Course:
    """The reason goes into the history first: when the pods are gone, nothing else would tell it."""
    marked = attempts_.mark_stopping(stopping.attempt, stop)
    return Course(attempts_.replace_newest(base, marked), replace(stopping, attempt=marked), wake)


def _note_running(
    job: FineTuneJob, base: FineTuneJobStatus, attempt: Attempt, gang: Gang, now: datetime
) -> FineTuneJobStatus:
    """Since when and where its pods run; an eviction by the queue ends one run of the same attempt."""
    if attempt.running_since is not None and _was_evicted(attempt, gang, now):
        base, attempt = _note_eviction(base, attempt, gang, now)
    # An export's start changes nothing that people see; its running time is counted at its end.
    if gang.has_started and gang.started_at is not None and attempt.stage is not Stage.EXPORT:
        attempt = attempt.model_copy(
            update={"running_since": format_time(gang.started_at), "node": gang.pods[0].node}
        )
    if attempt.stage is Stage.TRAIN and gang.has_started:
        base = _note_image(job, base, gang)
    return attempts_.replace_newest(base, attempt)


def _note_eviction(
    base: FineTuneJobStatus, attempt: Attempt, gang: Gang, now: datetime
) -> tuple[FineTuneJobStatus, Attempt]:
    """Count it, with the running time; and take in what the pods left, which no end of the attempt will tell."""
    checkpoint = base.checkpoint
    for pod in (*gang.leftover, *gang.pods):
        termination = parse_termination_message(pod.end.message) if pod.end else None
        if termination is None:
            continue
        ended = attempt.model_copy(
            update={"ended": format_time(pod.end.finished or now) if pod.end else None}
        )
        checkpoint = attempts_.fold_checkpoint(ended, checkpoint, termination)
        attempt = attempt.model_copy(update={"step": termination.step or attempt.step})
    base = base.model_copy(
        update={
            "checkpoint": checkpoint,
            "active_seconds": base.active_seconds + deadline.running_seconds(attempt, now),
            "preemptions": base.preemptions + 1,
        }
    )
    return base, attempt.model_copy(update={"running_since": None})


def _was_evicted(attempt: Attempt, gang: Gang, now: datetime) -> bool:
    """Whether the pods that ran are gone, or were replaced while nobody looked, without the attempt's end."""
    assert attempt.running_since is not None
    if gang.is_suspended:
        return not gang.live_pods(now)
    started = gang.started_at
    return started is not None and format_time(started) != attempt.running_since


def _note_image(job: FineTuneJob, base: FineTuneJobStatus, gang: Gang) -> FineTuneJobStatus:
    """All later attempts of the job keep to the image of the first, until `spec.image` names another."""
    assert job.spec is not None
    image, known = pin_image(gang.pods[0].image, gang.pods[0].image_id), base.provenance.trainer_image
    if image is None or (known is not None and choose_image(known, job.spec.image) == known):
        return base
    return base.model_copy(update={"provenance": base.provenance.model_copy(update={"trainer_image": image})})


def _wake_for_lost_pods(gang: Gang, now: datetime) -> float | None:
    latest = gang.latest_deadline()
    return None if latest is None else seconds_until(latest + NODE_LOST_AFTER, now) + 1


def _wake_for_limits(
    spec: FineTuneJobSpec, base: FineTuneJobStatus, gang: Gang, now: datetime
) -> float | None:
    policy = spec.failure_policy
    return deadline.earliest_wake(
        now,
        deadline.active_deadline(policy, base, base.attempts[-1]),
        gang_start.start_deadline(gang, policy.gang_start_timeout_seconds),
    )


def _explain(
    job: FineTuneJob, attempt: Attempt, gang: Gang, observed: Observed, now: datetime
) -> LookUp | tuple[waiting.Explanation | None, float | None]:
    """Why it waits, and when to look again at the events about it; a LookUp where that is now."""
    assert job.spec is not None
    if gang.job is not None and gang.is_suspended and gang.live_pods(now):
        told = f"Job {gang.job.name} was suspended; its pods save and end."
        return waiting.Explanation(Reason.KUEUE_EVICTED, told), None
    waits = waiting.find_waiting(gang)
    if waits is None or gang.job is None:
        return None, None
    look_seconds = waiting.next_look_seconds(waits, observed, now)
    if look_seconds == 0:
        kind = LookUpKind.QUEUE if waits.is_queued else LookUpKind.EVENTS
        return LookUp(kind, gang.job.name, waits.uid)
    references = list_references(job.spec, attempt.stage)
    return waiting.explain_waiting(gang, observed, references, now), look_seconds


def _decide_stop(
    job: FineTuneJob, base: FineTuneJobStatus, attempt: Attempt, gang: Gang, now: datetime
) -> Stop | None:
    """Ask each policy in turn whether the attempt has to end."""
    assert job.spec is not None
    policy = job.spec.failure_policy
    return (
        decide_suspension(job.spec)
        or decide_replacement(job.spec, gang)
        or deadline.decide_active_stop(policy, base, attempt, now)
        or gang_start.decide_gang_stop(gang, policy.gang_start_timeout_seconds, now)
    )


def _decide_pending_stop(
    job: FineTuneJob, gang: Gang, told: waiting.Explanation | None, now: datetime
) -> Stop | None:
    """The one limit whose sentence says what the job waited for."""
    assert job.spec is not None
    is_waiting = not gang.is_suspended and gang.started_at is None
    since = job.status.waiting_since if is_waiting else None
    return deadline.decide_pending_stop(job.spec.failure_policy, since, told.message if told else "", now)

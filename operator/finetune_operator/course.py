"""The job's history brought up to date, attempt by attempt, and where that leaves the job.

The reconciler's middle: folds in what the newest attempt reports, closes it if it has ended, and says what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.names import STAGES, Stage, child_name
from finetune_api.reasons import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus
from finetune_api.termination import parse_termination_message
from finetune_operator import attempts as attempts_
from finetune_operator import gang as gangs
from finetune_operator import waiting
from finetune_operator.attempts import Ending, LookUp, LookUpKind
from finetune_operator.gang import Gang
from finetune_operator.images import choose_image, pin_image
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import NODE_LOST_AFTER, Observed
from finetune_operator.pace import Pace
from finetune_operator.policies import deadline, gang_start, retry
from finetune_operator.policies.classification import Failure
from finetune_operator.policies.spec_change import decide_replacement
from finetune_operator.policies.stop import Stop
from finetune_operator.policies.suspend import decide_suspension
from finetune_operator.progress import fold_report
from finetune_operator.references import list_references
from finetune_operator.standing import (
    Active,
    Failed,
    Restarting,
    Standing,
    Starting,
    Stopping,
    Succeeded,
    Suspended,
)
from finetune_operator.status import fold_termination
from finetune_operator.times import format_time, has_passed, parse_time, seconds_until


@dataclass(frozen=True)
class Course:
    """The job's history brought up to date, and where that leaves it."""

    base: FineTuneJobStatus
    standing: Standing
    wake_seconds: float | None = None


def chart_course(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Course | LookUp:
    """Bring the history up to date and find where that leaves the job."""
    base = job.status
    unknown = list(attempts_.list_unknown_children(job.name, base.attempts, observed))
    while True:
        found = _chart_newest(job, base, observed, now, pace, is_superseded=bool(unknown))
        if isinstance(found, LookUp) or not unknown:
            return found
        base = _adopt(found.base, unknown.pop(0))


def list_stages_done(base: FineTuneJobStatus) -> frozenset[Stage]:
    """The stages that have succeeded."""
    newest = _newest_of_chain(base)
    if newest is None:
        return frozenset()
    index = STAGES.index(newest.stage) + int(newest.outcome is AttemptOutcome.SUCCEEDED)
    return frozenset(STAGES[:index])


def earliest(*seconds: float | None) -> float | None:
    """The smallest of these that is set."""
    return min((each for each in seconds if each is not None), default=None)


def _newest_of_chain(base: FineTuneJobStatus) -> Attempt | None:
    return next((each for each in reversed(base.attempts) if each.stage in STAGES), None)


def _adopt(base: FineTuneJobStatus, attempt: Attempt) -> FineTuneJobStatus:
    """Append an attempt. Restarts are counted within a stage, so a new stage begins with none."""
    has_advanced = not base.attempts or base.attempts[-1].stage is not attempt.stage
    return base.model_copy(
        update={
            "attempts": attempts_.append_attempt(base.attempts, attempt),
            "restarts": 0 if has_advanced else base.restarts,
        }
    )


def _chart_newest(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    observed: Observed,
    now: datetime,
    pace: Pace,
    *,
    is_superseded: bool,
) -> Course | LookUp:
    """Fold in what the newest attempt reports, close it if it has ended, and say what comes next."""
    if not base.attempts:
        return Course(base, _hold_or(job, Starting(Stage.PREPARE, 1, observed.refusal)))
    newest = base.attempts[-1]
    if newest.outcome is not AttemptOutcome.RUNNING:
        return Course(base, _follow(job, base, newest, observed, now, pace))
    if observed.report is not None and observed.report.job_uid == newest.job_uid:
        base = fold_report(base, observed.report)
        newest = base.attempts[-1]
    ending = attempts_.find_ending(job.name, newest, observed, now)
    if isinstance(ending, LookUp):
        return ending
    if ending is None and is_superseded:
        ending = attempts_.close_attempt(newest, gangs.observe_gang(newest.job_uid, observed), now)
    if ending is None:
        return _watch(job, base, newest, observed, now)
    return _close(job, base, ending, observed, now, pace)


# --- an attempt that goes on -----------------------------------------------------------------------------------


def _watch(
    job: FineTuneJob, base: FineTuneJobStatus, attempt: Attempt, observed: Observed, now: datetime
) -> Course | LookUp:
    """Note how it stands, end it if it must end, else find out why it waits, if it does."""
    assert job.spec is not None
    gang = gangs.observe_gang(attempt.job_uid, observed)
    base = _note_running(job, base, attempt, gang, now)
    attempt = base.attempts[-1]
    wake = _wake_for_lost_pods(gang, now)
    if attempts_.is_stopping(attempt) or gang.lost_pods(now):
        return Course(base, Stopping(attempt, gang), wake)
    if (stop := _decide_stop(job, base, attempt, gang, now)) is not None:
        return _stop(base, attempt, stop, gang, wake)
    explanation = _explain(job, attempt, gang, observed, now)
    if isinstance(explanation, LookUp):
        return explanation
    told, look_seconds = explanation
    if (stop := _decide_pending_stop(job, gang, told, now)) is not None:
        return _stop(base, attempt, stop, gang, wake)
    limits = _wake_for_limits(job.spec, base, gang, now)
    return Course(base, Active(attempt, gang, told), earliest(look_seconds, wake, limits))


def _stop(base: FineTuneJobStatus, attempt: Attempt, stop: Stop, gang: Gang, wake: float | None) -> Course:
    """The reason goes into the history first: when the pods are gone, nothing else would tell it."""
    marked = attempts_.mark_stopping(attempt, stop)
    return Course(_replace_newest(base, marked), Stopping(marked, gang), wake)


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
    return _replace_newest(base, attempt)


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


def _replace_newest(base: FineTuneJobStatus, attempt: Attempt) -> FineTuneJobStatus:
    return base.model_copy(update={"attempts": [*base.attempts[:-1], attempt]})


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


# --- an attempt that has ended ---------------------------------------------------------------------------------


def _close(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ending: Ending,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Course:
    """The newest attempt has ended: put it into the history, count it, and go on from there."""
    saved = attempts_.has_saved_checkpoint(ending.attempt, base.checkpoint, ending.termination)
    base = _record(base, ending)
    if ending.failure is not None:
        return _close_failed(job, base, ending.attempt, ending.failure, observed, now, pace, saved=saved)
    if ending.attempt.outcome is AttemptOutcome.STOPPED:
        base = _count_stop(base, ending.attempt)
        failed = _why_stop_is_final(ending.attempt)
        return Course(base, failed or _follow(job, base, ending.attempt, observed, now, pace))
    if ending.termination is not None:
        base = fold_termination(job, base, ending.termination, now)
    base = base.model_copy(update={"incomplete_gangs": 0})
    return Course(base, _follow(job, base, ending.attempt, observed, now, pace))


def _record(base: FineTuneJobStatus, ending: Ending) -> FineTuneJobStatus:
    """The history with the attempt as it ended, its checkpoint and its running time."""
    closed = ending.attempt
    ended = parse_time(closed.ended) if closed.ended else None
    ran = deadline.running_seconds(closed, ended) if ended else 0
    return _replace_newest(base, closed).model_copy(
        update={
            "checkpoint": attempts_.fold_checkpoint(closed, base.checkpoint, ending.termination),
            "active_seconds": base.active_seconds + ran,
        }
    )


def _close_failed(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    closed: Attempt,
    failure: Failure,
    observed: Observed,
    now: datetime,
    pace: Pace,
    *,
    saved: bool,
) -> Course:
    """Judge the failure: the verdict stands in the attempt, and its counts in the status."""
    assert job.spec is not None
    policy = job.spec.failure_policy
    verdict = retry.judge(failure, closed.stage, policy, restarts=base.restarts, saved_new_checkpoint=saved)
    closed = closed.model_copy(update={"counted": verdict.counted, "decision": verdict.explanation})
    base = _replace_newest(base, closed).model_copy(
        update={
            "restarts": base.restarts + int(verdict.counted and verdict.restarts),
            "preemptions": base.preemptions + int(not verdict.counted),
            "memory_backoff": base.memory_backoff + int(verdict.halves_micro_batch),
            "incomplete_gangs": 0,
        }
    )
    if not verdict.restarts:
        return Course(base, _give_up(failure, closed, policy.max_restarts))
    return Course(base, _follow(job, base, closed, observed, now, pace))


def _give_up(failure: Failure, attempt: Attempt, limit: int) -> Failed:
    if failure.failure_class.ends_job:
        return Failed(failure.failure_class, failure.message)
    return Failed(
        Reason.RESTARTS_EXHAUSTED,
        f"Attempt {attempt.number} of {attempt.stage} ended: {failure.message} No further attempt is made: "
        f"spec.failurePolicy.maxRestarts is {limit}.",
    )


def _count_stop(base: FineTuneJobStatus, stopped: Attempt) -> FineTuneJobStatus:
    is_gang = stopped.reason == Reason.GANG_INCOMPLETE
    return base.model_copy(update={"incomplete_gangs": base.incomplete_gangs + 1 if is_gang else 0})


def _why_stop_is_final(stopped: Attempt) -> Failed | None:
    """A deadline ends the job; every other stop is followed by another attempt."""
    if stopped.reason not in (Reason.ACTIVE_DEADLINE_EXCEEDED, Reason.PENDING_DEADLINE_EXCEEDED):
        return None
    return Failed(Reason(stopped.reason), stopped.message or "")


def _follow(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ended: Attempt,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Standing:
    """What follows an ended attempt: the next stage, the next attempt when its time has come, or the end."""
    assert job.spec is not None
    if ended.outcome is AttemptOutcome.SUCCEEDED:
        if ended.stage is Stage.EXPORT:
            return Succeeded()
        if ended.stage is Stage.PREPARE and job.spec.stop_after is not None:
            return Succeeded(after_prepare_only=True)
        following = Starting(STAGES[STAGES.index(ended.stage) + 1], 1, observed.refusal)
    else:
        following = Starting(ended.stage, ended.number + 1, observed.refusal)
    if deadline.active_seconds_left(job.spec.failure_policy, base) == 0:
        return Failed(Reason.ACTIVE_DEADLINE_EXCEEDED, deadline.explain_active(job.spec.failure_policy))
    at = _next_start(job, base, ended, now, pace)
    is_early = ended.outcome is not AttemptOutcome.SUCCEEDED and not has_passed(at, now)
    return _hold_or(job, Restarting(ended, at) if is_early else following)


def _hold_or(job: FineTuneJob, standing: Standing) -> Standing:
    """Nothing is started while the user wants the job to stand still."""
    return Suspended() if job.spec is not None and job.spec.suspend else standing


def _next_start(
    job: FineTuneJob, base: FineTuneJobStatus, ended: Attempt, now: datetime, pace: Pace
) -> datetime:
    """When the attempt after this one may start."""
    since = parse_time(ended.ended) if ended.ended else now
    identity = f"{job.uid}/{child_name(job.name, ended.stage, ended.number)}"
    if ended.outcome is AttemptOutcome.FAILED:
        return retry.next_start(
            since,
            restarts=base.restarts,
            counted=ended.counted,
            first_delay=pace.first_restart_delay,
            identity=identity,
        )
    if ended.reason == Reason.GANG_INCOMPLETE:
        return gang_start.next_start(since, incomplete_gangs=base.incomplete_gangs, identity=identity)
    return since - timedelta(seconds=1)

"""reconcile(job, observed, now) -> Plan: what to read, create, delete and write. Pure, level-triggered, idempotent.

It never asks what happened, only what is: called twice with the same facts it gives the same plan, so a killed
operator goes on wherever it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from finetune_api.names import Stage
from finetune_api.reasons import Reason
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus
from finetune_operator import attempts as attempts_
from finetune_operator import waiting
from finetune_operator.attempts import Ending, LookUp, LookUpKind
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import NODE_LOST_AFTER, JobFacts, Observed, PodFacts
from finetune_operator.policies import cleanup, retry
from finetune_operator.progress import differs_in_progress_only, fold_report, seconds_until_due
from finetune_operator.references import list_references
from finetune_operator.standing import Active, Failed, Restarting, Standing, Starting, Succeeded
from finetune_operator.status import compute_status, fold_termination, is_finished, reject_spec, was_rejected
from finetune_operator.times import has_passed, parse_time, seconds_until

_STAGES = tuple(Stage)
# A refused creation (quota, permissions) is tried again at this pace; nothing tells us when the cause is gone.
REFUSED_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Pace:
    """How fast things are done again."""

    progress_interval: timedelta = timedelta(seconds=10)
    first_restart_delay: timedelta = timedelta(seconds=5)


@dataclass(frozen=True)
class Plan:
    """What is to be done now. `look_ups` come first: while there are any, nothing else is decided."""

    status: FineTuneJobStatus
    look_ups: tuple[LookUp, ...] = ()
    create: Starting | None = None
    delete: tuple[JobFacts, ...] = ()
    requeue_seconds: float | None = None


@dataclass(frozen=True)
class _Course:
    """The job's history brought up to date, and where that leaves it."""

    base: FineTuneJobStatus
    standing: Standing
    wake_seconds: float | None = None


def reconcile(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Plan:
    """Decide what a FineTuneJob needs."""
    if job.deleting:
        return Plan(job.status)  # Its children go with it; the store stays.
    if was_rejected(job.status) and job.spec is not None:
        job = job.with_status(FineTuneJobStatus())
    if is_finished(job.status):
        return _acknowledge(job, observed)
    if job.problem is not None:
        return Plan(reject_spec(job, job.problem, now))
    course = _chart_course(job, observed, now, pace)
    if isinstance(course, LookUp):
        return Plan(job.status, look_ups=(course,))
    if isinstance(course.standing, Starting) and course.standing.refusal is None:
        return Plan(job.status, create=course.standing)
    return _conclude(job, observed, course, now, pace)


def _acknowledge(job: FineTuneJob, observed: Observed) -> Plan:
    """A finished job stays as it is; only that its newest spec was seen is noted."""
    seen = job.status.model_copy(update={"observed_generation": job.generation})
    return Plan(seen, delete=cleanup.decide_deletions(job.status.attempts, observed))


def _chart_course(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> _Course | LookUp:
    """Bring the history up to date, attempt by attempt, and find where that leaves the job."""
    base = job.status
    unknown = list(attempts_.list_unknown_children(job.name, base.attempts, observed))
    while True:
        course = _chart_newest(job, base, observed, now, pace, is_superseded=bool(unknown))
        if isinstance(course, LookUp) or not unknown:
            return course
        base = _adopt(course.base, unknown.pop(0))


def _adopt(base: FineTuneJobStatus, attempt: Attempt) -> FineTuneJobStatus:
    """Append an attempt. Restarts are counted within a stage, so a new stage begins with none."""
    has_advanced = not base.attempts or base.attempts[-1].stage is not attempt.stage
    return base.model_copy(
        update={
            "attempts": attempts_.cap_attempts([*base.attempts, attempt]),
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
) -> _Course | LookUp:
    """Fold in what the newest attempt reports, close it if it has ended, and say what comes next."""
    if not base.attempts:
        return _Course(base, Starting(Stage.PREPARE, 1, observed.refusal))
    newest = base.attempts[-1]
    if newest.outcome is not AttemptOutcome.RUNNING:
        return _Course(base, _after(job, base, newest, observed, now, pace))
    if observed.report is not None and observed.report.job_uid == newest.job_uid:
        base = fold_report(base, observed.report)
        newest = base.attempts[-1]
    ending = attempts_.find_ending(job.name, newest, observed, now)
    if ending is None and is_superseded:
        ending = attempts_.close_superseded(newest, observed, now)
    if isinstance(ending, LookUp):
        return ending
    if ending is None:
        return _watch(job, base, newest, observed, now)
    return _close(job, base, ending, observed, now, pace)


def _watch(
    job: FineTuneJob, base: FineTuneJobStatus, attempt: Attempt, observed: Observed, now: datetime
) -> _Course | LookUp:
    """An attempt that goes on: find out why it waits, if it does."""
    assert job.spec is not None
    child, pod = observed.job(attempt.job_uid), observed.pod_of(attempt.job_uid)
    base = _note_start(base, attempt, pod)
    wake = None
    if pod is not None and pod.deletion_deadline is not None:
        wake = seconds_until(pod.deletion_deadline + NODE_LOST_AFTER, now) + 1
    waits = waiting.find_waiting(child, pod) if child is not None else None
    if child is None or waits is None:
        return _Course(base, Active(attempt, pod), wake)
    look_seconds = waiting.next_look_seconds(waits, observed, now)
    if look_seconds == 0:
        return LookUp(LookUpKind.EVENTS, child.name, waits.uid)
    explanation = waiting.explain_waiting(child, pod, observed, list_references(job.spec, attempt.stage), now)
    return _Course(base, Active(attempt, pod, explanation), min(look_seconds, wake or look_seconds))


def _note_start(base: FineTuneJobStatus, attempt: Attempt, pod: PodFacts | None) -> FineTuneJobStatus:
    """Where and from what image training runs; all later attempts of the job keep to that image."""
    if attempt.stage is not Stage.TRAIN or pod is None or pod.started is None:
        return base
    image = base.provenance.trainer_image or pod.image
    return base.model_copy(
        update={
            "attempts": [*base.attempts[:-1], attempt.model_copy(update={"node": pod.node})],
            "provenance": base.provenance.model_copy(update={"trainer_image": image}),
        }
    )


def _close(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ending: Ending,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> _Course:
    """The newest attempt has ended: put it into the history, count it, and go on from there."""
    assert job.spec is not None
    closed, failure = ending.attempt, ending.failure
    checkpoint = attempts_.fold_checkpoint(closed, base.checkpoint, ending.termination)
    if failure is None:
        base = base.model_copy(update={"attempts": [*base.attempts[:-1], closed], "checkpoint": checkpoint})
        base = fold_termination(job, base, ending.termination, now) if ending.termination else base
        return _Course(base, _after(job, base, closed, observed, now, pace))
    saved = attempts_.has_saved_checkpoint(closed, base.checkpoint, ending.termination)
    counted = retry.is_counted(failure, saved_new_checkpoint=saved)
    closed = closed.model_copy(update={"counted": counted})
    limit = job.spec.failure_policy.max_restarts
    goes_on = retry.may_restart(failure, counted=counted, restarts=base.restarts, max_restarts=limit)
    base = base.model_copy(
        update={
            "attempts": [*base.attempts[:-1], closed],
            "checkpoint": checkpoint,
            "restarts": base.restarts + int(counted and goes_on),
            "preemptions": base.preemptions + int(not counted),
        }
    )
    if not goes_on:
        return _Course(base, _give_up(failure, closed, limit))
    return _Course(base, _after(job, base, closed, observed, now, pace))


def _give_up(failure: retry.Failure, attempt: Attempt, limit: int) -> Failed:
    if failure.failure_class.ends_job:
        return Failed(failure.failure_class, failure.message)
    return Failed(
        Reason.RESTARTS_EXHAUSTED,
        f"Attempt {attempt.number} of {attempt.stage} ended: {failure.message} No further attempt is made: "
        f"spec.failurePolicy.maxRestarts is {limit}.",
    )


def _after(
    job: FineTuneJob,
    base: FineTuneJobStatus,
    ended: Attempt,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Standing:
    """What follows an ended attempt: the next stage, the next attempt when its time has come, or the end."""
    if ended.outcome is AttemptOutcome.SUCCEEDED:
        following = _STAGES[_STAGES.index(ended.stage) + 1 :]
        return Starting(following[0], 1, observed.refusal) if following else Succeeded()
    at = retry.next_start(
        parse_time(ended.ended) if ended.ended else now,
        restarts=base.restarts,
        counted=ended.counted,
        first_delay=pace.first_restart_delay,
        identity=f"{job.uid}/{ended.stage}/{ended.number}",
    )
    if not has_passed(at, now):
        return Restarting(ended, at)
    return Starting(ended.stage, ended.number + 1, observed.refusal)


def _conclude(job: FineTuneJob, observed: Observed, course: _Course, now: datetime, pace: Pace) -> Plan:
    """Turn the course into a status, and say when to look again."""
    status = compute_status(job, course.base, course.standing, _stages_done(course), now)
    plan = Plan(
        status,
        delete=cleanup.decide_deletions(status.attempts, observed),
        requeue_seconds=_wake_seconds(course, now),
    )
    return _hold_back_progress(job, plan, pace, now)


def _stages_done(course: _Course) -> frozenset[Stage]:
    if not course.base.attempts:
        return frozenset()
    newest = course.base.attempts[-1]
    index = _STAGES.index(newest.stage) + int(newest.outcome is AttemptOutcome.SUCCEEDED)
    return frozenset(_STAGES[:index])


def _wake_seconds(course: _Course, now: datetime) -> float | None:
    match course.standing:
        case Restarting(_, at):
            return seconds_until(at, now)
        case Starting():
            return REFUSED_RETRY_SECONDS
        case _:
            return course.wake_seconds


def _hold_back_progress(job: FineTuneJob, plan: Plan, pace: Pace, now: datetime) -> Plan:
    """Figures are written at most once an interval; with anything else they go along at once."""
    if plan.status == job.status or not differs_in_progress_only(job.status, plan.status):
        return plan
    wait_seconds = seconds_until_due(job.status, pace.progress_interval, now)
    if wait_seconds == 0:
        return plan
    wake = min(wait_seconds, plan.requeue_seconds or wait_seconds)
    return replace(plan, status=job.status, requeue_seconds=wake)

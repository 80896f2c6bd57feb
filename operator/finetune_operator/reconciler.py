"""reconcile(job, observed, now) -> Plan: what to read, create, end and write. Pure, level-triggered, idempotent.

It never asks what happened, only what is: called twice with the same facts it gives the same plan, so a killed
operator goes on wherever it was.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator import course, removal
from finetune_operator.attempts import LookUp
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import JobFacts, Observed
from finetune_operator.pace import Pace
from finetune_operator.plan import Plan
from finetune_operator.policies import cleanup, deadline
from finetune_operator.policies.reopening import is_retry_asked, reopen
from finetune_operator.progress import differs_in_progress_only, seconds_until_due
from finetune_operator.standing import Course, Failed, Restarting, Standing, Starting, Stopping
from finetune_operator.status import compute_status, is_finished, reject_spec, was_rejected
from finetune_operator.times import earliest, parse_time, seconds_until

# A refused creation (quota, permissions) is tried again, at first so soon; nothing tells when the cause is gone.
FIRST_REFUSED_RETRY_SECONDS = 5.0
LONGEST_REFUSED_RETRY_SECONDS = 60.0


def reconcile(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Plan:
    """Decide what a FineTuneJob needs."""
    if job.deleting:
        return removal.plan_removal(job, observed, now, pace)
    if (finalizer := cleanup.decide_finalizer(job)) is not None:
        return Plan(job.status, finalizer=finalizer)
    job = _take_up_again(job)
    if is_finished(job.status):
        return _acknowledge(job, observed)
    if job.problem is not None:
        return Plan(reject_spec(job, job.problem, now))
    found = course.chart_course(job, observed, now, pace)
    if isinstance(found, LookUp):
        return Plan(job.status, look_ups=(found,))
    if isinstance(found.standing, Starting) and found.standing.refusal is None:
        return Plan(found.base, create=found.standing)
    return _conclude(job, observed, found, now, pace)


def _take_up_again(job: FineTuneJob) -> FineTuneJob:
    """A job that had ended goes on where its spec was corrected, or where a retry is asked for."""
    if was_rejected(job.status) and job.spec is not None:
        return job.with_status(FineTuneJobStatus(observed_retry=job.spec.retry))
    if is_retry_asked(job):
        return job.with_status(reopen(job))
    return job


def _acknowledge(job: FineTuneJob, observed: Observed) -> Plan:
    """A finished job stays as it is; only that its newest spec was seen is noted."""
    retry = job.spec.retry if job.spec else job.status.observed_retry
    seen = job.status.model_copy(
        update={
            "observed_generation": job.generation,
            "observed_retry": max(retry, job.status.observed_retry),
        }
    )
    return Plan(seen, delete=cleanup.decide_deletions(job.status.attempts, observed, is_finished=True))


def _conclude(job: FineTuneJob, observed: Observed, found: Course, now: datetime, pace: Pace) -> Plan:
    """Turn the course into a status, and say when to look again."""
    found = _give_up_starting(job, found, now)
    status = compute_status(job, found.base, found.standing, course.list_stages_done(found.base), now)
    plan = Plan(
        status,
        stop=_decide_stop(found.standing, observed),
        delete=cleanup.decide_deletions(status.attempts, observed, is_finished=is_finished(status)),
        requeue_seconds=_wake_seconds(job, found, status, now),
    )
    return _hold_back_progress(job, plan, pace, now)


def _give_up_starting(job: FineTuneJob, found: Course, now: datetime) -> Course:
    """A job whose next attempt cannot be created fails here: at once if it never can be, else after its deadline."""
    standing = found.standing
    if not isinstance(standing, Starting) or standing.refusal is None or job.spec is None:
        return found
    if standing.refusal.reason is Reason.INVALID_SPEC:
        return replace(found, standing=Failed(Reason.INVALID_SPEC, standing.refusal.message))
    waiting_since = job.status.waiting_since
    stop = deadline.decide_pending_stop(job.spec.failure_policy, waiting_since, standing.refusal.message, now)
    return found if stop is None else replace(found, standing=Failed(stop.reason, stop.message))


def _decide_stop(standing: Standing, observed: Observed) -> tuple[JobFacts, ...]:
    """The child whose pods are to be told to go, unless that was done already."""
    if not isinstance(standing, Stopping):
        return ()
    child = observed.job(standing.attempt.job_uid)
    return () if child is None or child.deleting else (child,)


def _wake_seconds(job: FineTuneJob, found: Course, status: FineTuneJobStatus, now: datetime) -> float | None:
    assert job.spec is not None
    pending = deadline.pending_deadline(job.spec.failure_policy, status.waiting_since)
    match found.standing:
        case Restarting(_, at):
            return seconds_until(at, now)
        case Starting():
            return min(_refused_retry_seconds(status, now), deadline.earliest_wake(now, pending) or 3600.0)
        case _:
            return earliest(found.wake_seconds, deadline.earliest_wake(now, pending))


def _refused_retry_seconds(status: FineTuneJobStatus, now: datetime) -> float:
    """Slower and slower: somebody has to act, and that takes people minutes."""
    waited = (now - parse_time(status.waiting_since)).total_seconds() if status.waiting_since else 0.0
    return min(max(FIRST_REFUSED_RETRY_SECONDS, waited / 2), LONGEST_REFUSED_RETRY_SECONDS)


def _hold_back_progress(job: FineTuneJob, plan: Plan, pace: Pace, now: datetime) -> Plan:
    """Figures are written at most once an interval; with anything else they go along at once."""
    if plan.status == job.status or not differs_in_progress_only(job.status, plan.status):
        return plan
    wait_seconds = seconds_until_due(job.status, pace.progress_interval, now)
    if wait_seconds == 0:
        return replace(plan, is_progress_only=True)
    wake = earliest(wait_seconds, plan.requeue_seconds)
    return replace(plan, status=job.status, requeue_seconds=wake)

"""A FineTuneJob that is being deleted while its finalizer stands: end its pods, empty its folder, let it go.

It is never held for ever: a refusal lets it go at once, a store that stays away after some attempts, and a namespace
that is being deleted takes no new Jobs. What was kept then is told by an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from finetune_api.layout import RunLayout
from finetune_api.names import FINALIZER, Stage, child_name
from finetune_api.reasons import FailureClass, Reason
from finetune_api.spec import DeletionPolicy
from finetune_api.status import Attempt, AttemptOutcome, ConditionStatus, ConditionType, FineTuneJobStatus
from finetune_operator import attempts as attempts_
from finetune_operator import conditions
from finetune_operator.attempts import LookUp, LookUpKind
from finetune_operator.conditions import Verdict
from finetune_operator.events import JobEvent
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import NODE_LOST_AFTER, JobFacts, Observed, PodFacts
from finetune_operator.pace import Pace
from finetune_operator.plan import Plan
from finetune_operator.policies import retry
from finetune_operator.standing import Starting
from finetune_operator.times import has_passed, parse_time, seconds_until

MAX_CLEANUP_ATTEMPTS = 5
_HOPELESS = frozenset({FailureClass.USER_ERROR, FailureClass.STORAGE_DENIED})


def plan_removal(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Plan:
    """Decide the next step of a deletion. Without our finalizer there is none: the garbage collector does the rest."""
    if FINALIZER not in job.finalizers:
        return Plan(job.status)
    if job.spec is None or job.spec.deletion_policy is DeletionPolicy.RETAIN:
        return _let_go(job, None)
    if not job.status.attempts and not observed.jobs:
        return _let_go(job, None)  # Nothing of it ever ran, so there is nothing in the store.
    if observed.namespace_terminating is None:
        return Plan(job.status, look_ups=(LookUp(LookUpKind.NAMESPACE, job.namespace, job.uid),))
    if observed.namespace_terminating:
        return _let_go(job, _kept(job, "its namespace is being deleted"))
    # One that is being deleted may stand for ever, if its pod's node is dead; what counts are live pods.
    remaining = [each for each in observed.jobs if each.stage is not Stage.CLEANUP and not each.deleting]
    if remaining or _list_live_pods(observed, now):
        return _end_children(job, remaining, observed, now)
    return _clean_up(job, observed, now, pace)


def _list_live_pods(observed: Observed, now: datetime) -> list[PodFacts]:
    """Pods of the run itself, also of Jobs that are gone already."""
    cleaners = {each.uid for each in observed.jobs if each.stage is Stage.CLEANUP}
    return [pod for pod in observed.pods if pod.job_uid not in cleaners and pod.is_live(now)]


def _end_children(job: FineTuneJob, remaining: Sequence[JobFacts], observed: Observed, now: datetime) -> Plan:
    """Nothing may write into the folder while it is emptied."""
    deadlines = [pod.deletion_deadline for pod in _list_live_pods(observed, now) if pod.deletion_deadline]
    wake = seconds_until(max(deadlines) + NODE_LOST_AFTER, now) + 1 if deadlines else None
    told = f"The pods are told to go, then {_folder(job)} is removed."
    return Plan(
        _status(job, job.status, Reason.CLEANING_UP, told, now, has_ended=False),
        stop=tuple(remaining),
        requeue_seconds=wake,
    )


def _clean_up(job: FineTuneJob, observed: Observed, now: datetime, pace: Pace) -> Plan:
    """Run the cleanup Job until it has succeeded or gives up."""
    status = _adopt(job, observed)
    newest = status.attempts[-1] if status.attempts else None
    if newest is None or newest.stage is not Stage.CLEANUP:
        return _create(job, status, 1, observed, now)
    if newest.outcome is AttemptOutcome.RUNNING:
        ending = attempts_.find_ending(job.name, newest, observed, now)
        if isinstance(ending, LookUp):
            return Plan(job.status, look_ups=(ending,))
        if ending is None:
            told = f"Job {child_name(job.name, newest.stage, newest.number)} removes {_folder(job)}."
            return Plan(_status(job, status, Reason.CLEANING_UP, told, now))
        newest = ending.attempt
        status = status.model_copy(update={"attempts": [*status.attempts[:-1], newest]})
    if newest.outcome is AttemptOutcome.SUCCEEDED:
        done = JobEvent("Normal", Reason.CLEANED_UP, f"{_folder(job)} was removed.", "once")
        return _let_go(job, done)
    if newest.reason in _HOPELESS or newest.number >= MAX_CLEANUP_ATTEMPTS:
        return _let_go(job, _kept(job, newest.message or "its removal failed"))
    return _try_again(job, status, newest, observed, now, pace)


def _try_again(
    job: FineTuneJob,
    status: FineTuneJobStatus,
    newest: Attempt,
    observed: Observed,
    now: datetime,
    pace: Pace,
) -> Plan:
    at = retry.next_start(
        parse_time(newest.ended) if newest.ended else now,
        restarts=newest.number,
        counted=True,
        first_delay=pace.first_restart_delay,
        identity=f"{job.uid}/{newest.stage}/{newest.number}",
    )
    if has_passed(at, now):
        return _create(job, status, newest.number + 1, observed, now)
    told = f"{newest.message} It is tried again."
    waiting = _status(job, status, newest.reason or Reason.CLEANING_UP, told, now)
    return Plan(waiting, requeue_seconds=seconds_until(at, now))


def _create(
    job: FineTuneJob, status: FineTuneJobStatus, number: int, observed: Observed, now: datetime
) -> Plan:
    refusal = observed.refusal
    if refusal is None:
        return Plan(status, create=Starting(Stage.CLEANUP, number))
    told = _status(job, status, refusal.reason, refusal.message, now)
    return Plan(told, requeue_seconds=30.0)


def _adopt(job: FineTuneJob, observed: Observed) -> FineTuneJobStatus:
    """The history with the cleanup Jobs that it does not hold yet."""
    status = job.status
    for attempt in attempts_.list_unknown_children(job.name, status.attempts, observed):
        status = status.model_copy(update={"attempts": attempts_.append_attempt(status.attempts, attempt)})
    return status


def _let_go(job: FineTuneJob, event: JobEvent | None) -> Plan:
    return Plan(job.status, finalizer=False, events=(event,) if event else ())


def _kept(job: FineTuneJob, why: str) -> JobEvent:
    told = (
        f"{_folder(job)} was kept although spec.deletionPolicy is Delete: {why} "
        "Remove it with a client of the store if it is not needed."
    )
    return JobEvent("Warning", Reason.STORE_KEPT, told, "once")


def _status(
    job: FineTuneJob,
    status: FineTuneJobStatus,
    reason: str,
    message: str,
    now: datetime,
    *,
    has_ended: bool = True,
) -> FineTuneJobStatus:
    """The same phase, with what the deletion waits for."""
    stands = conditions.find_condition(status.conditions, ConditionType.RUNNING) is not None
    running = Verdict(ConditionType.RUNNING, ConditionStatus.FALSE, Reason.CLEANING_UP)
    verdicts = (running,) if has_ended and stands else ()
    return status.model_copy(
        update={
            "reason": str(reason),
            "message": message,
            "conditions": conditions.update_conditions(
                status.conditions, verdicts, generation=job.generation, now=now
            ),
        }
    )


def _folder(job: FineTuneJob) -> str:
    assert job.spec is not None
    return RunLayout(output_uri=job.spec.output.uri, name=job.name, uid=job.uid).run_uri

"""What can go: child Jobs whose facts stand in status, finished FineTuneJobs whose time is up; and the finalizer.

The finalizer stands on jobs with deletionPolicy Delete and on no other: whoever keeps their store must never find a
FineTuneJob stuck because the operator is down.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_api.names import FINALIZER, Stage
from finetune_api.spec import DeletionPolicy
from finetune_api.status import Attempt, AttemptOutcome
from finetune_operator.gang import observe_gang
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import JobFacts, JobState, Observed
from finetune_operator.times import parse_time

_ORDER = tuple(Stage)


def decide_finalizer(job: FineTuneJob) -> bool | None:
    """True: to be set, False: to be taken away, None: as it should be."""
    if job.spec is None:
        return None
    wanted = job.spec.deletion_policy is DeletionPolicy.DELETE
    return None if wanted == (FINALIZER in job.finalizers) else wanted


def expiry(completion_time: str | None, ttl_seconds: int | None) -> datetime | None:
    """When a finished FineTuneJob is to be deleted; None: never."""
    if completion_time is None or ttl_seconds is None:
        return None
    return parse_time(completion_time) + timedelta(seconds=ttl_seconds)


def decide_deletions(
    attempts: Sequence[Attempt], observed: Observed, *, is_finished: bool = False
) -> tuple[JobFacts, ...]:
    """Choose the children to delete, given the attempts as they stand in status already.

    While the job goes on, the newest attempt of each stage and the newest failed one are kept: people want to read
    their logs. When it has ended, only the newest and the newest failed one. A Job whose pods nobody can confirm dead
    goes in any case: they must not train on beside the next attempt.
    """
    if not attempts:
        return ()
    newest = attempts[-1]
    failed = [attempt for attempt in attempts if attempt.outcome is AttemptOutcome.FAILED]
    of_each_stage = () if is_finished else {attempt.stage: attempt for attempt in attempts}.values()
    kept = {(attempt.stage, attempt.number) for attempt in (newest, *failed[-1:], *of_each_stage)}
    return tuple(
        job
        for job in observed.jobs
        if not job.deleting
        and (
            (_is_before(job, newest) and (job.stage, job.attempt) not in kept)
            or _is_abandoned(job, attempts, observed)
        )
    )


def _is_before(job: JobFacts, newest: Attempt) -> bool:
    return (_ORDER.index(job.stage), job.attempt) < (_ORDER.index(newest.stage), newest.number)


def _is_abandoned(job: JobFacts, attempts: Sequence[Attempt], observed: Observed) -> bool:
    """Whether its attempt is closed, but it would still run or start pods."""
    closed = {each.job_uid for each in attempts if each.outcome is not AttemptOutcome.RUNNING}
    if job.state is not JobState.ACTIVE or job.uid not in closed:
        return False
    return job.suspended or any(not pod.has_ended for pod in observe_gang(job.uid, observed).pods)

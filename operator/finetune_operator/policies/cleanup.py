"""Which child Jobs can go: their facts stand in status, and neither users nor the reconciler need them any more."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.names import Stage
from finetune_api.status import Attempt, AttemptOutcome
from finetune_operator.observation import JobFacts, JobState, Observed

_STAGES = tuple(Stage)


def decide_deletions(attempts: Sequence[Attempt], observed: Observed) -> tuple[JobFacts, ...]:
    """Choose the children to delete, given the attempts as they stand in status already.

    Kept are the newest attempt and the newest failed one, whose logs people still want to read. A Job whose pod
    nobody can confirm dead goes although it is the newest failed one: its pod must not train on beside the next.
    """
    if not attempts:
        return ()
    newest = attempts[-1]
    failed = [attempt for attempt in attempts if attempt.outcome is AttemptOutcome.FAILED]
    kept = {(attempt.stage, attempt.number) for attempt in (newest, *failed[-1:])}
    return tuple(
        job
        for job in observed.jobs
        if not job.deleting
        and (
            (_is_before(job, newest) and (job.stage, job.attempt) not in kept)
            or _is_abandoned(job, failed, observed)
        )
    )


def _is_before(job: JobFacts, newest: Attempt) -> bool:
    return (_STAGES.index(job.stage), job.attempt) < (_STAGES.index(newest.stage), newest.number)


def _is_abandoned(job: JobFacts, failed: Sequence[Attempt], observed: Observed) -> bool:
    if job.state is not JobState.ACTIVE or job.uid not in {attempt.job_uid for attempt in failed}:
        return False
    pod = observed.pod_of(job.uid)
    return pod is not None and not pod.has_ended

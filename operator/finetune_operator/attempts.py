"""`status.attempts` brought up to date with the children: new Jobs adopted, ended ones closed and classified.

Each function takes what status says already and what was observed, and returns what is true now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finetune_api.names import Stage, child_name
from finetune_api.status import MAX_ATTEMPTS_SHOWN, Attempt, AttemptOutcome, CheckpointStatus
from finetune_api.termination import TerminationMessage, parse_termination_message
from finetune_operator.observation import JobFacts, JobState, Observed, PodFacts
from finetune_operator.policies import retry
from finetune_operator.times import format_time, has_passed, parse_time
from finetune_operator.wording import cut

_STAGES = tuple(Stage)
MAX_ATTEMPT_MESSAGE_LENGTH = 1024


class LookUpKind(StrEnum):
    """What must be read live before anything is decided."""

    JOB = "Job"
    PODS = "Pods"
    EVENTS = "Events"


@dataclass(frozen=True)
class LookUp:
    """One live read: a Job by name, a Job's pods, or the events about an object."""

    kind: LookUpKind
    name: str
    uid: str


@dataclass(frozen=True)
class Ending:
    """An attempt that has ended."""

    attempt: Attempt
    termination: TerminationMessage | None
    failure: retry.Failure | None = None


def list_unknown_children(
    job_name: str, attempts: Sequence[Attempt], observed: Observed
) -> tuple[Attempt, ...]:
    """Attempts that status does not hold yet: created just now, or by an operator that was killed right after."""
    last = _order(attempts[-1].stage, attempts[-1].number) if attempts else (0, 0)
    unknown = [job for job in observed.jobs if _order(job.stage, job.attempt) > last]
    unknown.sort(key=lambda job: _order(job.stage, job.attempt))
    return tuple(
        _open_attempt(job) for job in unknown if job.name == child_name(job_name, job.stage, job.attempt)
    )


def cap_attempts(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The newest ones: an object with many attempts must stay small."""
    return list(attempts[-MAX_ATTEMPTS_SHOWN:])


def _order(stage: Stage, number: int) -> tuple[int, int]:
    return _STAGES.index(stage), number


def _open_attempt(job: JobFacts) -> Attempt:
    return Attempt(
        number=job.attempt,
        stage=job.stage,
        job_uid=job.uid,
        started=format_time(job.created),
        outcome=AttemptOutcome.RUNNING,
    )


def find_ending(job_name: str, attempt: Attempt, observed: Observed, now: datetime) -> Ending | LookUp | None:
    """Tell whether an attempt has ended. A LookUp where that cannot be told from what the watches delivered."""
    name = child_name(job_name, attempt.stage, attempt.number)
    job, pod = observed.job(attempt.job_uid), observed.pod_of(attempt.job_uid)
    if job is None and name not in observed.absent_jobs:
        return LookUp(LookUpKind.JOB, name, attempt.job_uid)
    if pod is not None and pod.is_lost(now):
        return _close_failed(attempt, job, pod, now, lost=True)
    if pod is not None and not pod.has_ended:
        return None  # Also after the Job has failed or is gone: two attempts must not run side by side.
    if pod is None and job is not None and job.state is JobState.ACTIVE:
        return None
    if pod is None and job is not None and job.uid not in observed.jobs_with_all_pods:
        return LookUp(LookUpKind.PODS, name, attempt.job_uid)
    has_succeeded = pod.phase == "Succeeded" if pod else job is not None and job.state is JobState.SUCCEEDED
    return _close_succeeded(attempt, pod, now) if has_succeeded else _close_failed(attempt, job, pod, now)


def close_superseded(attempt: Attempt, observed: Observed, now: datetime) -> Ending:
    """Close an attempt that must have ended, because the next one exists."""
    return _close_failed(attempt, observed.job(attempt.job_uid), observed.pod_of(attempt.job_uid), now)


def _close_succeeded(attempt: Attempt, pod: PodFacts | None, now: datetime) -> Ending:
    termination = parse_termination_message(pod.end.message) if pod and pod.end else None
    return Ending(
        attempt.model_copy(
            update={
                **_facts_of_end(attempt, pod, termination, now),
                "outcome": AttemptOutcome.SUCCEEDED,
                "message": cut(termination.message, MAX_ATTEMPT_MESSAGE_LENGTH) if termination else None,
            }
        ),
        termination,
    )


def _close_failed(
    attempt: Attempt, job: JobFacts | None, pod: PodFacts | None, now: datetime, *, lost: bool = False
) -> Ending:
    failure = retry.classify_failure(job, pod, lost=lost)
    return Ending(
        attempt.model_copy(
            update={
                **_facts_of_end(attempt, pod, failure.termination, now),
                "outcome": AttemptOutcome.FAILED,
                "reason": failure.failure_class.value,
                "message": cut(failure.message, MAX_ATTEMPT_MESSAGE_LENGTH),
            }
        ),
        failure.termination,
        failure,
    )


def _facts_of_end(
    attempt: Attempt, pod: PodFacts | None, termination: TerminationMessage | None, now: datetime
) -> dict[str, object]:
    end = pod.end if pod else None
    reached = termination.step if termination else None
    return {
        "ended": format_time(end.finished if end and end.finished else now),
        "exit_code": end.exit_code if end else None,
        "node": pod.node if pod else None,
        "step": reached if reached is not None else attempt.step,
    }


def has_saved_checkpoint(
    attempt: Attempt, checkpoint: CheckpointStatus | None, termination: TerminationMessage | None
) -> bool:
    """Whether the attempt committed a checkpoint of its own."""
    told = fold_checkpoint(attempt, checkpoint, termination)
    if told is None or attempt.started is None:
        return False
    return told != checkpoint or has_passed(parse_time(attempt.started), parse_time(told.time))


def fold_checkpoint(
    attempt: Attempt, checkpoint: CheckpointStatus | None, termination: TerminationMessage | None
) -> CheckpointStatus | None:
    """The newest checkpoint, also where only the termination message tells of it."""
    trained = termination.trained if termination else None
    if trained is None or trained.checkpoint_uri is None or attempt.ended is None:
        return checkpoint
    if checkpoint is not None and checkpoint.uri == trained.checkpoint_uri:
        return checkpoint
    return CheckpointStatus(step=trained.step, uri=trained.checkpoint_uri, time=attempt.ended)

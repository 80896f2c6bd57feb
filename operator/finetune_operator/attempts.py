"""`status.attempts` brought up to date with the children: new Jobs adopted, ended ones closed and classified.

Each function takes what status says already and what was observed, and returns what is true now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finetune_api.exit_codes import ExitCode
from finetune_api.names import Stage, child_name
from finetune_api.status import (
    MAX_ATTEMPTS_SHOWN,
    Attempt,
    AttemptOutcome,
    CheckpointStatus,
    FineTuneJobStatus,
)
from finetune_api.termination import TerminationMessage, parse_termination_message
from finetune_api.wording import cut
from finetune_operator.gang import Gang, observe_gang
from finetune_operator.observation import JobFacts, JobState, Observed, PodFacts
from finetune_operator.policies.advice import advise
from finetune_operator.policies.classification import Failure, classify_failure
from finetune_operator.policies.stop import Stop
from finetune_operator.times import format_time, parse_time

_ORDER = tuple(Stage)
MAX_ATTEMPT_MESSAGE_LENGTH = 768
# Of earlier attempts the gist is enough: an object with many attempts must stay small.
MAX_OLD_MESSAGE_LENGTH = 256


class LookUpKind(StrEnum):
    """What must be read live before anything is decided."""

    JOB = "Job"
    PODS = "Pods"
    EVENTS = "Events"
    QUEUE = "Queue"
    NAMESPACE = "Namespace"


@dataclass(frozen=True)
class LookUp:
    """One live read: a Job by name, a Job's pods, the events about an object, Kueue's Workload of a Job."""

    kind: LookUpKind
    name: str
    uid: str


@dataclass(frozen=True)
class Ending:
    """An attempt that has ended. `failure` is None where it succeeded or was stopped by the operator."""

    attempt: Attempt
    termination: TerminationMessage | None
    failure: Failure | None = None


# --- adopting --------------------------------------------------------------------------------------------------


def list_unknown_children(
    job_name: str, attempts: Sequence[Attempt], observed: Observed
) -> tuple[Attempt, ...]:
    """Attempts that status does not hold yet: created just now, or by an operator that was killed right after."""
    last = _order(attempts[-1].stage, attempts[-1].number) if attempts else (-1, 0)
    unknown = [job for job in observed.jobs if _order(job.stage, job.attempt) > last]
    unknown.sort(key=lambda job: _order(job.stage, job.attempt))
    return tuple(
        _open_attempt(job) for job in unknown if job.name == child_name(job_name, job.stage, job.attempt)
    )


def append_attempt(attempts: Sequence[Attempt], attempt: Attempt) -> list[Attempt]:
    """The newest ones with this one, the earlier ones shortened."""
    kept = attempts[-(MAX_ATTEMPTS_SHOWN - 1) :]
    return [*(_shorten(each) for each in kept[:-1]), *kept[-1:], attempt]


def _shorten(attempt: Attempt) -> Attempt:
    message = cut(attempt.message, MAX_OLD_MESSAGE_LENGTH) if attempt.message else None
    return attempt.model_copy(update={"message": message, "advice": None})


def _order(stage: Stage, number: int) -> tuple[int, int]:
    return _ORDER.index(stage), number


def _open_attempt(job: JobFacts) -> Attempt:
    return Attempt(
        number=job.attempt,
        stage=job.stage,
        job_uid=job.uid,
        started=format_time(job.created),
        outcome=AttemptOutcome.RUNNING,
    )


def replace_newest(base: FineTuneJobStatus, attempt: Attempt) -> FineTuneJobStatus:
    """The history with the newest attempt as it is now."""
    return base.model_copy(update={"attempts": [*base.attempts[:-1], attempt]})


# --- stopping --------------------------------------------------------------------------------------------------


def is_stopping(attempt: Attempt) -> bool:
    """Whether the operator has decided to end it. Once decided, that stands, whatever is wished meanwhile."""
    return attempt.outcome is AttemptOutcome.RUNNING and attempt.reason is not None


def mark_stopping(attempt: Attempt, stop: Stop) -> Attempt:
    """The attempt with the reason for which it is about to be ended."""
    return attempt.model_copy(
        update={"reason": stop.reason.value, "message": cut(stop.message, MAX_ATTEMPT_MESSAGE_LENGTH)}
    )


# --- ending ----------------------------------------------------------------------------------------------------


def find_ending(job_name: str, attempt: Attempt, observed: Observed, now: datetime) -> Ending | LookUp | None:
    """Tell whether an attempt has ended. A LookUp where that cannot be told from what the watches delivered."""
    gang = observe_gang(attempt.job_uid, observed)
    name = child_name(job_name, attempt.stage, attempt.number)
    question = _find_question(attempt, gang, name, observed, now)
    if question is not None:
        return question
    return close_attempt(attempt, gang, now) if _is_over(gang, now) else None


def _find_question(
    attempt: Attempt, gang: Gang, name: str, observed: Observed, now: datetime
) -> LookUp | None:
    """What has to be read before the end can be told. A watch may lag, so its silence proves nothing."""
    job = gang.job
    if job is None:
        return None if name in observed.absent_jobs else LookUp(LookUpKind.JOB, name, attempt.job_uid)
    has_ended = job.state is not JobState.ACTIVE and not gang.live_pods(now)
    is_unknown = has_ended and not gang.pods and job.uid not in observed.jobs_with_all_pods
    return LookUp(LookUpKind.PODS, name, attempt.job_uid) if is_unknown else None


def _is_over(gang: Gang, now: datetime) -> bool:
    """Whether nothing of the attempt runs or will run. Two attempts must never run side by side."""
    if gang.live_pods(now):
        return False
    if gang.job is None or gang.job.state is not JobState.ACTIVE:
        return True
    if gang.job.suspended and not gang.job.deleting:
        return False  # Whoever held it back may let it go on.
    # Pods that were told to go prove nothing: a queue may have held the Job back and admitted it again since.
    has_failed = any(pod.phase == "Failed" and not pod.was_told_to_go for pod in gang.pods)
    return has_failed or bool(gang.lost_pods(now)) or gang.has_succeeded


def close_attempt(attempt: Attempt, gang: Gang, now: datetime) -> Ending:
    """Put into the attempt how it ended. One that succeeded while it was being stopped has succeeded."""
    if gang.has_succeeded:
        return _close_succeeded(attempt, gang, now)
    failure = classify_failure(gang, now)
    return (
        _close_stopped(attempt, failure, now)
        if is_stopping(attempt)
        else _close_failed(attempt, failure, now)
    )


def _close_succeeded(attempt: Attempt, gang: Gang, now: datetime) -> Ending:
    pod = gang.pods[0] if gang.pods else None
    termination = parse_termination_message(pod.end.message) if pod and pod.end else None
    return Ending(
        attempt.model_copy(
            update={
                **_facts_of_end(attempt, pod, termination, now),
                "outcome": AttemptOutcome.SUCCEEDED,
                "reason": None,
                "message": cut(termination.message, MAX_ATTEMPT_MESSAGE_LENGTH) if termination else None,
            }
        ),
        termination,
    )


def _close_stopped(attempt: Attempt, failure: Failure, now: datetime) -> Ending:
    facts = _facts_of_end(attempt, failure.pod, failure.termination, now)
    return Ending(
        attempt.model_copy(update={**facts, "outcome": AttemptOutcome.STOPPED}), failure.termination
    )


def _close_failed(attempt: Attempt, failure: Failure, now: datetime) -> Ending:
    pod = failure.pod
    told = advise(
        failure.failure_class,
        attempt.stage,
        pod=pod.name if pod else None,
        namespace=pod.namespace if pod else "",
    )
    return Ending(
        attempt.model_copy(
            update={
                **_facts_of_end(attempt, pod, failure.termination, now),
                "outcome": AttemptOutcome.FAILED,
                "reason": failure.failure_class.value,
                "message": cut(failure.message, MAX_ATTEMPT_MESSAGE_LENGTH),
                "advice": told,
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
        "running_since": attempt.running_since or _start_of(pod),
        "exit_code": end.exit_code if end else None,
        "node": (pod.node if pod else None) or attempt.node,
        "rank": _rank(pod, termination),
        "step": reached if reached is not None else attempt.step,
    }


def _start_of(pod: PodFacts | None) -> str | None:
    return format_time(pod.started) if pod and pod.started else None


def _rank(pod: PodFacts | None, termination: TerminationMessage | None) -> int | None:
    """The process's own word; else the pod's rank, which is the same where each pod has one process."""
    if termination is not None and termination.rank is not None:
        return termination.rank
    return pod.rank if pod is not None and pod.rank else None


# --- checkpoints -----------------------------------------------------------------------------------------------


def has_saved_checkpoint(
    attempt: Attempt, checkpoint: CheckpointStatus | None, termination: TerminationMessage | None
) -> bool:
    """Whether the attempt committed a checkpoint of its own."""
    told = fold_checkpoint(attempt, checkpoint, termination)
    if told is None or attempt.started is None:
        return False
    # One of the very second in which the attempt began was committed by the attempt before.
    return told != checkpoint or parse_time(told.time) > parse_time(attempt.started)


def fold_checkpoint(
    attempt: Attempt, checkpoint: CheckpointStatus | None, termination: TerminationMessage | None
) -> CheckpointStatus | None:
    """The newest checkpoint, also where only the termination message tells of it."""
    trained = termination.trained if termination else None
    if trained is None or trained.checkpoint_uri is None or attempt.ended is None:
        return checkpoint
    if checkpoint is not None and checkpoint.uri == trained.checkpoint_uri:
        return checkpoint
    return CheckpointStatus(
        step=trained.step,
        uri=trained.checkpoint_uri,
        time=attempt.ended,
        stop_seconds=checkpoint.stop_seconds if checkpoint else None,
    )


def count_steps_lost(
    ending: Ending, checkpoint: CheckpointStatus | None, *, saves_when_told_to_go: bool
) -> int | None:
    """Finished steps that no committed checkpoint holds; None where training succeeded, or another stage ended.

    `checkpoint` is the newest; `saves_when_told_to_go` what spec.checkpoints.onPreemption says.
    """
    ended = ending.attempt
    if ended.stage is not Stage.TRAIN or ended.outcome is AttemptOutcome.SUCCEEDED:
        return None
    # It names the step that it saved; the report that told of the checkpoint may not have arrived.
    told = ending.termination.step if ending.termination else None
    if saves_when_told_to_go and ended.exit_code == ExitCode.PREEMPTED and told is not None:
        return 0
    return max(0, (ended.step or 0) - (checkpoint.step if checkpoint else 0))

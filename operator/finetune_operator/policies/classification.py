"""What an ended attempt means: its failure class, from what the trainer, the container, the pod and the Job say.

Of several ranks one is to blame: the most specific class, then the earliest end; what merely ended when it was told to
go, because another rank had failed, comes last. Broken connections between ranks have no class of their own: they never
win.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE, FailureClass
from finetune_api.termination import TerminationMessage, parse_termination_message
from finetune_operator.gang import Gang
from finetune_operator.observation import JobFacts, PodFacts
from finetune_operator.wording import as_sentence

# What says most about the cause comes first.
_SPECIFICITY = (
    FailureClass.USER_ERROR,
    FailureClass.DATA_ERROR,
    FailureClass.STORAGE_DENIED,
    FailureClass.NON_FINITE_LOSS,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.DEADLINE_EXCEEDED,
    FailureClass.NODE_LOST,
    FailureClass.EVICTED,
    FailureClass.STORAGE_UNAVAILABLE,
    FailureClass.STALLED,
    FailureClass.PREEMPTED,
    FailureClass.DELETED,
    FailureClass.UNKNOWN,
)
# How a pod ends that was told to go because another one had failed.
_ENDS_OF_THE_TOLD = frozenset({FailureClass.PREEMPTED, FailureClass.DELETED, FailureClass.UNKNOWN})
_NODE_LOSSES = frozenset({"DeletionByTaintManager", "DeletionByPodGC"})
_EVICTIONS = frozenset({"Evicted", "Preempting", "Terminated", "NodeShutdown"})
_DEADLINE = "DeadlineExceeded"
_LATE = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `pod` is the one to blame, where there is one."""

    failure_class: FailureClass
    message: str
    exit_code: int | None = None
    disrupted: bool = False
    termination: TerminationMessage | None = None
    pod: PodFacts | None = None


def classify_failure(gang: Gang, now: datetime) -> Failure:
    """Say why an attempt failed. Its Job is None where it was deleted; it has no pods where none is left."""
    failures = [
        _classify_pod(gang.job, pod, lost=pod.is_lost(now)) for pod in gang.pods if pod.phase != "Succeeded"
    ]
    if not failures:
        return _classify_job(gang.job)
    return min(failures, key=_blame)


def _blame(failure: Failure) -> tuple[bool, int, datetime]:
    pod = failure.pod
    assert pod is not None
    ended = pod.end.finished if pod.end and pod.end.finished else pod.deletion_deadline or _LATE
    is_consequence = pod.was_told_to_go and failure.failure_class in _ENDS_OF_THE_TOLD
    return is_consequence, _SPECIFICITY.index(failure.failure_class), ended


def _classify_job(job: JobFacts | None) -> Failure:
    """No pod is left to ask."""
    if job is None or job.deleting:
        return Failure(FailureClass.DELETED, "The Job of this attempt was deleted.")
    if job.reason == _DEADLINE:
        return Failure(FailureClass.DEADLINE_EXCEEDED, as_sentence(job.message))
    return Failure(FailureClass.DELETED, "The pod of this attempt was deleted.")


def _classify_pod(job: JobFacts | None, pod: PodFacts, *, lost: bool) -> Failure:
    end = pod.end
    termination = parse_termination_message(end.message) if end else None
    failure_class, sentence = _class_and_sentence(job, pod, termination, lost=lost)
    exit_code = end.exit_code if end else None
    return Failure(
        failure_class=failure_class,
        message=termination.message if termination and termination.message else sentence,
        exit_code=exit_code,
        disrupted=bool(pod.disruption_reason) or exit_code == ExitCode.PREEMPTED,
        termination=termination,
        pod=pod,
    )


def _class_and_sentence(
    job: JobFacts | None, pod: PodFacts, termination: TerminationMessage | None, *, lost: bool
) -> tuple[FailureClass, str]:
    end, where = pod.end, pod.node or "unknown"
    if pod.reason == _DEADLINE:
        return FailureClass.DEADLINE_EXCEEDED, f"Pod {pod.name} ran for as long as the job may."
    if end and end.exit_code in FAILURE_CLASS_OF_EXIT_CODE:
        failure_class = FAILURE_CLASS_OF_EXIT_CODE[end.exit_code]
        return failure_class, f"The container ended with exit code {end.exit_code} ({failure_class})."
    if termination and termination.reason in set(FailureClass):
        return FailureClass(termination.reason), termination.message
    if lost or pod.disruption_reason in _NODE_LOSSES or pod.reason == "NodeLost":
        return FailureClass.NODE_LOST, f"Node {where} of pod {pod.name} no longer answers."
    if pod.disruption_reason or pod.reason in _EVICTIONS:
        why = as_sentence(pod.disruption_message or pod.message or pod.disruption_reason or pod.reason)
        return FailureClass.EVICTED, f"Pod {pod.name} was evicted from node {where}: {why}"
    if end and end.reason == "OOMKilled":
        return FailureClass.OUT_OF_MEMORY, (
            f"Pod {pod.name} was killed because it used more memory than its limit."
        )
    if end is None and pod.deletion_deadline is not None:
        return FailureClass.DELETED, f"Pod {pod.name} was deleted."
    if job is None and pod.was_told_to_go:
        return FailureClass.DELETED, f"The Job of pod {pod.name} was deleted."
    return FailureClass.UNKNOWN, _describe_unknown(job, pod)


def _describe_unknown(job: JobFacts | None, pod: PodFacts) -> str:
    if pod.end is None:
        told = pod.message or pod.reason or (job.message or job.reason if job else "")
        return f"Pod {pod.name} failed before its container ended: {as_sentence(told or 'no cause was reported')}"
    detail = f" ({pod.end.reason})" if pod.end.reason not in ("", "Error") else ""
    said = f" {as_sentence(pod.end.message)}" if pod.end.message.strip() else ""
    return f"The container of pod {pod.name} ended with exit code {pod.end.exit_code}{detail} and left no report.{said}"

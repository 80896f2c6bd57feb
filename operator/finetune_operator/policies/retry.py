"""What an ended attempt means: its failure class, whether it counts, and whether and when the next one starts.

Pure. The reconciler asks once when an attempt ends; the answer goes into status, so that a restarted operator
reads it there instead of deciding again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.exit_codes import ExitCode
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE, FailureClass
from finetune_api.termination import TerminationMessage, parse_termination_message
from finetune_operator.observation import JobFacts, PodFacts
from finetune_operator.wording import as_sentence

LONGEST_DELAY = timedelta(minutes=5)
# Attempts of many jobs that one outage ended must not come back in the same second.
JITTER = 0.2
_NODE_LOSSES = frozenset({"DeletionByTaintManager", "DeletionByPodGC"})


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    failure_class: FailureClass
    message: str
    exit_code: int | None = None
    disrupted: bool = False
    termination: TerminationMessage | None = None


def classify_failure(job: JobFacts | None, pod: PodFacts | None, *, lost: bool = False) -> Failure:
    """Say why an attempt failed: by the trainer's own word, else the container's end, else the pod's, else the Job's.

    `job` is None where the Job was deleted, `pod` where no pod is left; `lost`: its node no longer answers.
    """
    end = pod.end if pod else None
    termination = parse_termination_message(end.message) if end else None
    exit_code = end.exit_code if end else None
    failure_class, sentence = _class_and_sentence(job, pod, termination, lost=lost)
    return Failure(
        failure_class=failure_class,
        message=termination.message if termination and termination.message else sentence,
        exit_code=exit_code,
        disrupted=bool(pod and pod.disruption_reason) or exit_code == ExitCode.PREEMPTED,
        termination=termination,
    )


def _class_and_sentence(
    job: JobFacts | None, pod: PodFacts | None, termination: TerminationMessage | None, *, lost: bool
) -> tuple[FailureClass, str]:
    end = pod.end if pod else None
    if end and end.exit_code in FAILURE_CLASS_OF_EXIT_CODE:
        failure_class = FAILURE_CLASS_OF_EXIT_CODE[end.exit_code]
        return failure_class, f"The container ended with exit code {end.exit_code} ({failure_class})."
    if termination and termination.reason in set(FailureClass):
        return FailureClass(termination.reason), termination.message
    if pod and (lost or pod.disruption_reason in _NODE_LOSSES or pod.reason == "NodeLost"):
        return FailureClass.NODE_LOST, f"Node {pod.node or 'unknown'} of pod {pod.name} no longer answers."
    if pod and (
        pod.disruption_reason or pod.reason in ("Evicted", "Preempting", "Terminated", "NodeShutdown")
    ):
        why = pod.disruption_message or pod.message or pod.disruption_reason or pod.reason
        return (
            FailureClass.EVICTED,
            f"Pod {pod.name} was evicted from node {pod.node or 'unknown'}: {as_sentence(why)}",
        )
    if end and end.reason == "OOMKilled":
        return FailureClass.OUT_OF_MEMORY, (
            f"Pod {pod.name if pod else ''} was killed because it used more memory than its limit. "
            "Raise spec.resources.memory (spec.resources.prepare.memory and export.memory for those stages), "
            "or lower spec.training.microBatchTokens."
        )
    if job is None:
        return FailureClass.DELETED, "The Job of this attempt was deleted."
    if pod is None or (end is None and pod.deletion_deadline is not None):
        return FailureClass.DELETED, "The pod of this attempt was deleted."
    return FailureClass.UNKNOWN, _describe_unknown(job, pod)


def _describe_unknown(job: JobFacts, pod: PodFacts) -> str:
    if pod.end is None:
        why = pod.message or pod.reason or job.message or job.reason or "no cause was reported"
        return f"Pod {pod.name} failed before its container ended: {as_sentence(why)}"
    detail = f" ({pod.end.reason})" if pod.end.reason not in ("", "Error") else ""
    said = f" {as_sentence(pod.end.message)}" if pod.end.message.strip() else ""
    return (
        f"The container of pod {pod.name} ended with exit code {pod.end.exit_code}{detail} and left no report.{said} "
        f"`kubectl -n {pod.namespace} logs {pod.name}` shows its last words."
    )


def is_counted(failure: Failure, *, saved_new_checkpoint: bool) -> bool:
    """Whether the failure counts against failurePolicy.maxRestarts.

    A disruption is nobody's fault, but it is only free where the run got further meanwhile: so nothing loops for ever.
    """
    return not (failure.disrupted and saved_new_checkpoint)


def may_restart(failure: Failure, *, counted: bool, restarts: int, max_restarts: int) -> bool:
    """Whether another attempt is to follow. `restarts` are those counted before this failure."""
    if failure.failure_class.ends_job:
        return False
    return not counted or restarts < max_restarts


def next_start(
    ended: datetime, *, restarts: int, counted: bool, first_delay: timedelta, identity: str
) -> datetime:
    """When the next attempt starts: exponential in the counted restarts, with jitter that never changes."""
    exponent = max(0, restarts - 1) if counted else 0
    delay: timedelta = min(first_delay * 2 ** min(exponent, 16), LONGEST_DELAY)
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4]) / 2**32
    return ended + delay * (1 + JITTER * fraction)

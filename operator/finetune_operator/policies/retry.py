"""Whether a failure counts, whether and when another attempt follows it, and how that is told.

Pure. The reconciler asks once when an attempt ends; the answer goes into status, so that a restarted operator reads it
there instead of deciding again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass
from finetune_api.spec import FailurePolicy, OnOutOfMemory
from finetune_operator.policies.classification import Failure

LONGEST_DELAY = timedelta(minutes=5)
# Attempts of many jobs that one outage ended must not come back in the same second.
JITTER = 0.2


@dataclass(frozen=True)
class Verdict:
    """What follows a failure. `explanation` is for people: whether another attempt is made, and why (not)."""

    restarts: bool
    counted: bool
    halves_micro_batch: bool
    explanation: str


def judge(
    failure: Failure, stage: Stage, policy: FailurePolicy, *, restarts: int, saved_new_checkpoint: bool
) -> Verdict:
    """Decide what follows. `restarts` are those counted before this failure."""
    counted = is_counted(failure, saved_new_checkpoint=saved_new_checkpoint)
    halves = _backs_off(failure, stage, policy)
    if failure.failure_class.ends_job and not halves:
        return Verdict(False, counted, False, _why_final(failure.failure_class, stage))
    if counted and restarts >= policy.max_restarts:
        told = f"Not restarted: spec.failurePolicy.maxRestarts ({policy.max_restarts}) is used up."
        return Verdict(False, counted, False, told)
    return Verdict(True, counted, halves, _why_restarted(policy, restarts, counted=counted, halves=halves))


def is_counted(failure: Failure, *, saved_new_checkpoint: bool) -> bool:
    """Whether the failure counts against failurePolicy.maxRestarts.

    A disruption is nobody's fault, but it is only free where the run got further meanwhile: so nothing loops for ever.
    """
    return not (failure.disrupted and saved_new_checkpoint)


def _backs_off(failure: Failure, stage: Stage, policy: FailurePolicy) -> bool:
    """Only training has a micro-batch to halve."""
    return (
        failure.failure_class is FailureClass.OUT_OF_MEMORY
        and stage is Stage.TRAIN
        and policy.on_out_of_memory is OnOutOfMemory.BACKOFF
    )


def _why_final(failure_class: FailureClass, stage: Stage) -> str:
    if failure_class is FailureClass.OUT_OF_MEMORY and stage is Stage.TRAIN:
        return "Not restarted: spec.failurePolicy.onOutOfMemory is Fail."
    return f"Not restarted: {failure_class} would happen again."


def _why_restarted(policy: FailurePolicy, restarts: int, *, counted: bool, halves: bool) -> str:
    if not counted:
        return "Restarted, uncounted: the run was disrupted after it had saved a new checkpoint."
    how = " with micro-batches of half the size" if halves else ""
    return (
        f"Restarted{how}: restart {restarts + 1} of {policy.max_restarts} (spec.failurePolicy.maxRestarts)."
    )


def next_start(
    ended: datetime, *, restarts: int, counted: bool, first_delay: timedelta, identity: str
) -> datetime:
    """When the next attempt starts: exponential in the counted restarts, with jitter that never changes."""
    exponent = max(0, restarts - 1) if counted else 0
    delay: timedelta = min(first_delay * 2 ** min(exponent, 16), LONGEST_DELAY)
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4]) / 2**32
    return ended + delay * (1 + JITTER * fraction)

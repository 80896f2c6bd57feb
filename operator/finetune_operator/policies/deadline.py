"""Time limits of the whole job: how long it may wait for pods, and how long its pods may run.

Waiting is counted while a pod ought to start and does not; never while the job is suspended or queued. Running is the
sum over all attempts, from started containers to their end.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from finetune_api.reasons import Reason
from finetune_api.spec import FailurePolicy
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_operator.policies.stop import Stop
from finetune_operator.times import has_passed, parse_time, seconds_until


def running_seconds(attempt: Attempt, until: datetime) -> int:
    """Whole seconds that the attempt's pods have run up to a point in time."""
    if attempt.running_since is None:
        return 0
    return max(0, math.floor((until - parse_time(attempt.running_since)).total_seconds()))


def active_seconds_left(policy: FailurePolicy, status: FineTuneJobStatus) -> int | None:
    """What is left for the next attempt, in seconds; None without a limit."""
    if policy.active_deadline_seconds is None:
        return None
    return max(0, policy.active_deadline_seconds - status.active_seconds)


def active_deadline(policy: FailurePolicy, status: FineTuneJobStatus, attempt: Attempt) -> datetime | None:
    """When the attempt under way will have used up what is left."""
    left = active_seconds_left(policy, status)
    if left is None or attempt.running_since is None:
        return None
    return parse_time(attempt.running_since) + timedelta(seconds=left)


def decide_active_stop(
    policy: FailurePolicy, status: FineTuneJobStatus, attempt: Attempt, now: datetime
) -> Stop | None:
    """Stop an attempt when the job has run for as long as it may."""
    deadline = active_deadline(policy, status, attempt)
    return Stop(Reason.ACTIVE_DEADLINE_EXCEEDED, explain_active(policy)) if _is_due(deadline, now) else None


def explain_active(policy: FailurePolicy) -> str:
    """Say that the running time is used up."""
    return (
        f"The job's pods ran for {policy.active_deadline_seconds} s, which is all that "
        "spec.failurePolicy.activeDeadlineSeconds allows."
    )


def pending_deadline(policy: FailurePolicy, waiting_since: str | None) -> datetime | None:
    """By when a pod must have started; None without a limit, or where the job does not wait."""
    if policy.pending_deadline_seconds is None or waiting_since is None:
        return None
    return parse_time(waiting_since) + timedelta(seconds=policy.pending_deadline_seconds)


def decide_pending_stop(
    policy: FailurePolicy, waiting_since: str | None, explanation: str, now: datetime
) -> Stop | None:
    """Stop an attempt that has waited for too long, and say what it waited for."""
    deadline = pending_deadline(policy, waiting_since)
    if not _is_due(deadline, now):
        return None
    return Stop(
        Reason.PENDING_DEADLINE_EXCEEDED,
        f"The job waited {policy.pending_deadline_seconds} s for a pod to start "
        f"(spec.failurePolicy.pendingDeadlineSeconds). {explanation}".strip(),
    )


def earliest_wake(now: datetime, *deadlines: datetime | None) -> float | None:
    """Seconds until the first of these points in time."""
    return min((seconds_until(each, now) for each in deadlines if each is not None), default=None)


def _is_due(deadline: datetime | None, now: datetime) -> bool:
    return deadline is not None and has_passed(deadline, now)

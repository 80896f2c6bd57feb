"""How long the pods of a multi-node attempt may hold nodes while they wait for one another.

Two gangs that got half their nodes each would wait for ever; each gives its nodes back and tries again after a pause
whose length differs from job to job.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from finetune_api.reasons import Reason
from finetune_operator.gang import Gang
from finetune_operator.policies.stop import Stop

FIRST_DELAY = timedelta(seconds=10)
LONGEST_DELAY = timedelta(minutes=10)


def start_deadline(gang: Gang, timeout_seconds: int) -> datetime | None:
    """By when all pods must run; None where nothing is held back from others."""
    if gang.size == 1 or gang.is_suspended or gang.started_at is not None or gang.first_place is None:
        return None
    return gang.first_place + timedelta(seconds=timeout_seconds)


def decide_gang_stop(gang: Gang, timeout_seconds: int, now: datetime) -> Stop | None:
    """Stop an attempt whose pods did not all start in time."""
    deadline = start_deadline(gang, timeout_seconds)
    if deadline is None or now < deadline:
        return None
    started = sum(pod.started is not None for pod in gang.pods)
    return Stop(
        Reason.GANG_INCOMPLETE,
        f"{started} of {gang.size} pods ran {timeout_seconds} s after the first of them had a node "
        "(spec.failurePolicy.gangStartTimeoutSeconds); they give their nodes back.",
    )


def next_start(ended: datetime, *, incomplete_gangs: int, identity: str) -> datetime:
    """When to try again: exponential, and spread over a range as long as the pause itself."""
    delay: timedelta = min(FIRST_DELAY * 2 ** min(max(0, incomplete_gangs - 1), 16), LONGEST_DELAY)
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4]) / 2**32
    return ended + delay * (1 + fraction)

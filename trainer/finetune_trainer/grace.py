"""The pod's grace period, as the operator told it, and how much of it is for saving. Torch-free."""

from __future__ import annotations

import os

from finetune_api import names

# What the launcher keeps to say how it ended before the kubelet kills it; of a short grace, half.
LAST_WORDS_SECONDS = 5.0


def grace_seconds() -> float | None:
    """What the pod has from SIGTERM on; None where it was not told."""
    grace = os.environ.get(names.ENV_GRACE_SECONDS, "")
    return float(grace) if grace.isdecimal() else None


def seconds_to_save_within(grace: float) -> float:
    """How long the ranks may take to save after SIGTERM."""
    return max(grace - LAST_WORDS_SECONDS, grace / 2)

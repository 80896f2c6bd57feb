"""Exit codes of the trainer's processes: what the operator decides on when a pod has ended."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Below 20: trying again cannot help. From 20 on: it can."""

    DONE = 0
    USER_ERROR = 10
    DATA_ERROR = 11
    OUT_OF_MEMORY = 12
    STORAGE_DENIED = 13
    NON_FINITE_LOSS = 14
    STORAGE_UNAVAILABLE = 20
    STALLED = 21
    PREEMPTED = 22

"""Points at which a test kills the operator: between two writes, where a crash could leave half of an attempt.

Without the environment variable they do nothing. With `FINETUNE_CRASH_POINT=<name>[:<count>]` the process kills itself
when it comes to that point for the count-th time, as an out-of-memory killer would: nothing is finished or flushed.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Literal, get_args

VARIABLE = "FINETUNE_CRASH_POINT"

CrashPoint = Literal[
    "before-config-map",
    "after-config-map",
    "before-service",
    "after-service",
    "before-job",
    "after-job",
    "before-status",
    "after-status",
    "before-event",
    "after-event",
    "before-delete",
    "after-delete",
    "before-finalizer",
    "after-finalizer",
]
CRASH_POINTS: tuple[CrashPoint, ...] = get_args(CrashPoint)


class CrashPlan:
    """Where this process dies, if anywhere."""

    def __init__(self, text: str | None, die: Callable[[], None]) -> None:
        name, _, count = (text or "").partition(":")
        if name and (name not in CRASH_POINTS or not re.fullmatch("[1-9][0-9]*", count or "1")):
            raise ValueError(
                f"{VARIABLE}={text!r}: name one of {', '.join(CRASH_POINTS)}, with `:<count>` or without."
            )
        self._name = name
        self._left = int(count or "1")
        self._die = die

    def reach(self, name: CrashPoint) -> None:
        """Die if this is the point and the time."""
        if name != self._name:
            return
        self._left -= 1
        if self._left == 0:
            self._die()


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


reach = CrashPlan(os.environ.get(VARIABLE), _kill_this_process).reach

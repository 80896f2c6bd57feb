"""A process of the pod ends when its launcher does: what it leaves behind would still write to the run. Torch-free."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_launcher(launcher: int | None) -> None:
    """Be killed when the launcher, by its pid, is gone; end at once where it is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the kernel was told.
    if launcher is not None and os.getppid() != launcher:
        sys.exit("the launcher is gone")

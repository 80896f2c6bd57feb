"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_SECONDS = 60.0
_POLL_SECONDS = 0.005


def wait_until(holds: Callable[[], object], what: str, *, seconds: float = DEADLINE_SECONDS) -> None:
    """Look until it holds. Raises AssertionError that says what did not happen."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(_POLL_SECONDS)

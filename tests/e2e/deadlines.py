"""Waiting for something to become true: with a deadline, and with the last that was seen in the error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")
# Set when nobody wants to know any more: what waits in other threads gives up at once.
abandoned = threading.Event()


def wait_until(
    look: Callable[[], Seen],
    holds: Callable[[Seen], bool],
    what: str,
    timeout_seconds: float,
    every_seconds: float = 0.25,
) -> Seen:
    """Look until it holds; return what was seen then."""
    deadline = time.monotonic() + timeout_seconds
    while not holds(seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_seconds:g} s. {_show(seen)}")
        if abandoned.wait(every_seconds):
            raise AssertionError(f"{what}: abandoned, because the run has ended. {_show(seen)}")
    return seen


def _show(seen: object) -> str:
    return json.dumps(seen, indent=1, default=str, ensure_ascii=False)

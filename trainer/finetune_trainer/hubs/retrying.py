"""How long a hub is waited for: failures that heal are tried again with growing waits, for some minutes in all."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from finetune_trainer.errors import StorageUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")
_JITTER = 0.25


@dataclass(frozen=True)
class Patience:
    """How long is waited in all while nothing arrives, and how the waits grow."""

    total_seconds: float = 300.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 30.0


class TryAgain(Exception):
    """A request failed in a way that heals: `why` for people, `wait_seconds` if the hub said how long."""

    def __init__(self, why: str, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wait_seconds = wait_seconds


class Attempts:
    """Counts failures since something last arrived, and waits after each."""

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience = patience
        self._what = what
        self._failures = 0
        self._began = time.monotonic()

    def start_over(self) -> None:
        """Something arrived: all patience is back."""
        self._failures = 0
        self._began = time.monotonic()

    def wait(self, failure: TryAgain) -> None:
        """Wait before the next attempt. Raises StorageUnavailable when patience is at its end."""
        self._failures += 1
        seconds = self._wait_seconds(failure)
        if time.monotonic() - self._began + seconds > self._patience.total_seconds:
            raise StorageUnavailable(
                f"Could not {self._what}: {failure.why}, also when tried again ({self._failures} times). The stage is "
                "tried again later; if this repeats, check that the pods may reach the hub."
            ) from failure
        logger.warning("could not %s: %s; trying again in %.1f s", self._what, failure.why, seconds)
        time.sleep(seconds)

    def _wait_seconds(self, failure: TryAgain) -> float:
        if failure.wait_seconds is not None:
            return max(0.0, failure.wait_seconds)
        growing = self._patience.first_wait_seconds * 2.0 ** min(self._failures - 1, 20)
        # Many jobs that met the same outage must not come back in the same second.
        spread = 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311 (no secret)
        return min(growing, self._patience.longest_wait_seconds) * spread


def persist(patience: Patience, what: str, action: Callable[[], T]) -> T:
    """Do it, again after failures that heal. Raises StorageUnavailable when patience is at its end."""
    attempts = Attempts(patience, what)
    while True:
        try:
            return action()
        except TryAgain as failure:
            attempts.wait(failure)

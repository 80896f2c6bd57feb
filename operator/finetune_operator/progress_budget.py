"""How many writes of mere figures the API server is asked for, in all, and whose turn it is. Pure but for the clock.

Time is divided into slots, `per_second` of them. A job that may not write yet is given the next slot that nobody
has, and is told when it begins: first come, first served, and at most one slot a job. A slot that is not used is
lost, so nobody ever waits for somebody who does not come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable

# A job that has not come for its slot so long after it began has been written meanwhile, or is gone.
FORGOTTEN_AFTER_SECONDS = 60.0
# Adding up times rounds: who comes so little early came when it was told to.
_ON_TIME_SECONDS = 0.001


class ProgressBudget:
    """At most `per_second` writes in the long run, and at most max(burst, per_second) within any second.

    `burst`: how many may write at once after a quiet while.
    """

    def __init__(
        self,
        per_second: float,
        burst: int = 5,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_second <= 0 or burst < 1:
            raise ValueError(f"per_second={per_second} and burst={burst} must allow at least one write")
        self._interval = 1 / per_second
        self._lead = (burst - 1) * self._interval
        self._monotonic = monotonic
        # Where the slots begin that nobody has.
        self._frontier = monotonic() - self._lead
        self._slots: dict[Hashable, float] = {}
        # Slots alone bound the rate only while jobs are on time: after a pause of the process many come at once.
        self._window = max(1.0, self._interval)
        self._taken: deque[float] = deque(maxlen=max(burst, int(per_second)))

    def reserve(self, key: Hashable) -> float:
        """Seconds until this job may write; 0 means now, and its slot is used up."""
        now = self._monotonic()
        self._drop_forgotten(now)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._next_slot(now)
        opens = self._window_opens()
        if slot > now + _ON_TIME_SECONDS or opens > now:
            return max(slot, opens) - now
        del self._slots[key]
        self._taken.append(now)
        return 0.0

    def forget(self, key: Hashable) -> None:
        """Give back the slot of a job that has gone, or whose figures were written with something else."""
        self._slots.pop(key, None)

    def __len__(self) -> int:
        """Number of jobs that wait for their slot."""
        return len(self._slots)

    def _next_slot(self, now: float) -> float:
        slot = max(self._frontier, now - self._lead)
        self._frontier = slot + self._interval
        return slot

    def _window_opens(self) -> float:
        """When fewer than the most writes within a second lie behind."""
        is_full = len(self._taken) == self._taken.maxlen
        return self._taken[0] + self._window if is_full else float("-inf")

    def _drop_forgotten(self, now: float) -> None:
        # Slots were given out in the order of time, and dicts keep that order.
        while self._slots:
            key, slot = next(iter(self._slots.items()))
            if slot > now - FORGOTTEN_AFTER_SECONDS:
                return
            del self._slots[key]

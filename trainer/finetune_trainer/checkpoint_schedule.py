"""Decides after which steps a checkpoint is taken: every so many steps or minutes, at the end, when told to go.

A save that is due while the one before is still on its way to the store waits for it, and training does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api.spec import Checkpoints


@dataclass(frozen=True)
class StepEnd:
    """What all ranks know, equally, when a step ends."""

    step: int
    is_last: bool = False
    told_to_go: bool = False
    # By rank 0's word: everyMinutes have passed; and no save is on its way, or none gets there.
    waited_long: bool = False
    may_save: bool = True


class CheckpointSchedule:
    """One rank's view, from what all know. Minutes are counted by rank 0 alone, whose word travels with the loss."""

    def __init__(self, settings: Checkpoints, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._saved_at = clock()
        self.postponed_since: int | None = None

    def has_waited_long(self) -> bool:
        """Whether everyMinutes have passed since the last checkpoint, or since this attempt began."""
        minutes = self._settings.every_minutes
        return minutes is not None and self._clock() - self._saved_at >= 60 * minutes

    def decide(self, end: StepEnd) -> bool:
        """Whether this step ends with a checkpoint. A save that has to wait is made up for as soon as it can be."""
        if end.is_last or (end.told_to_go and self._settings.on_preemption):
            return True
        if not (self._is_due(end) or self.postponed_since is not None):
            return False
        if not end.may_save:
            self.postponed_since = self.postponed_since or end.step
            return False
        return True

    def note_saved(self) -> None:
        """Count from now on."""
        self._saved_at = self._clock()
        self.postponed_since = None

    def _is_due(self, end: StepEnd) -> bool:
        if self._settings.every_minutes is not None:
            return end.waited_long
        return end.step % self._settings.every_steps == 0

"""Decides after which steps a checkpoint is taken: every so many steps or minutes, and when the pod is told to go."""

from __future__ import annotations

import time
from collections.abc import Callable

from finetune_api.spec import Checkpoints


class CheckpointSchedule:
    """One rank's view. All ranks must agree: minutes are counted by rank 0 alone, whose word travels with the loss."""

    def __init__(self, settings: Checkpoints, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._saved_at = clock()

    def has_waited_long(self) -> bool:
        """Whether everyMinutes have passed since the last checkpoint, or since this attempt began."""
        minutes = self._settings.every_minutes
        return minutes is not None and self._clock() - self._saved_at >= 60 * minutes

    def is_due(self, step: int, *, waited_long: bool, told_to_go: bool) -> bool:
        """Whether this step ends with a checkpoint."""
        if told_to_go and self._settings.on_preemption:
            return True
        if self._settings.every_minutes is not None:
            return waited_long
        return step % self._settings.every_steps == 0

    def note_saved(self) -> None:
        """Count the minutes from now on."""
        self._saved_at = self._clock()

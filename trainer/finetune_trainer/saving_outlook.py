"""How saving goes, for people and the operator: what a stop would take, and what is not as it should be. On rank 0."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from finetune_api.progress import CheckpointReport, Notice
from finetune_api.spec import Checkpoints
from finetune_trainer.checkpoint_schedule import CheckpointSchedule
from finetune_trainer.notices import SavingState, decide_notices
from finetune_trainer.spool import UploadReport

_RECENT = 20


class SavingOutlook:
    """Is told of steps and commits; asked with every report."""

    def __init__(
        self,
        settings: Checkpoints,
        schedule: CheckpointSchedule,
        upload_report: Callable[[], UploadReport],
        *,
        resumed_from: CheckpointReport | None,
        passed_over: tuple[str, ...],
        grace_seconds: float | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._schedule = schedule
        self._upload_report = upload_report
        self._committed_step = resumed_from.step if resumed_from else None
        self._passed_over = passed_over
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._saves: deque[float] = deque(maxlen=_RECENT)

    def note_step(self, seconds: float) -> None:
        """Take the duration of a step."""
        self._steps.append(seconds)

    def note_checkpoint(self, checkpoint: CheckpointReport) -> None:
        """Take a commit."""
        self._committed_step = checkpoint.step
        if checkpoint.save_seconds is not None:
            self._saves.append(checkpoint.save_seconds)

    @property
    def stop_seconds(self) -> float | None:
        """What a stop takes: the longest step and the longest save seen lately; None before the first save."""
        return max(self._steps, default=0.0) + max(self._saves) if self._saves else None

    def notices(self) -> tuple[Notice, ...]:
        """What people should know now."""
        report = self._upload_report()
        waiting_since = report.waiting_since
        state = SavingState(
            committed_step=self._committed_step,
            postponed_since=self._schedule.postponed_since,
            outage_seconds=None if waiting_since is None else self._clock() - waiting_since,
            outage_message=report.message,
            stop_seconds=self.stop_seconds,
            grace_seconds=self._grace_seconds,
            passed_over=self._passed_over,
        )
        return decide_notices(state, self._settings)

"""What metrics.jsonl says, told to the trackers of spec.tracking. On rank 0, directly after MetricsCallback."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.step_figures import StepMeter
from finetune_trainer.tracker_sessions import TrackerSession, open_tracker
from finetune_trainer.tracker_worker import TrackerWorker
from finetune_trainer.trackers import TrackedRun, TrackerPlan

logger = logging.getLogger(__name__)

# How long the end of training waits for slow trackers, all together; and a checkpoint for files.
CLOSE_SECONDS = 30.0
SETTLE_SECONDS = 10.0


class TrackingCallback(TrainerCallback):  # type: ignore[misc]
    """Follows the file of metrics: after a restart it holds the steps before the checkpoint, which a tracker may lack.

    A pod that is killed takes along what its trackers' libraries had not sent yet.
    """

    def __init__(
        self,
        plans: Sequence[TrackerPlan],
        run: TrackedRun,
        metrics: Path,
        meter: StepMeter,
        open_session: Callable[[TrackerPlan, TrackedRun], TrackerSession] = open_tracker,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._meter = meter
        self._close_seconds = close_seconds
        self._read_bytes = 0
        self._is_closed = False
        self._file_workers = [_worker(plan, run, open_session) for plan in plans if plan.writes_files]
        self._server_workers = [_worker(plan, run, open_session) for plan in plans if not plan.writes_files]

    @property
    def _workers(self) -> list[TrackerWorker]:
        return [*self._file_workers, *self._server_workers]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Open the trackers, and hand over the steps of earlier attempts."""
        for worker in self._workers:
            worker.start()
            logger.info("tracking to %s as run %s", worker.name, self._run.run_id)
        self._hand_over()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Hand over the step's line."""
        self._hand_over()

    def settle(self) -> None:
        """Wait until the files that are to be published hold everything up to the newest step."""
        for worker in self._file_workers:
            if not worker.settle(SETTLE_SECONDS):
                logger.warning("tracking.%s is behind: its files lack the newest steps", worker.name)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the trackers; a run that was told to go has not ended."""
        self.close(is_done=not self._meter.figures.stop_requested)

    def close(self, *, is_done: bool) -> None:
        """End the trackers' runs. Only the first call counts, so it may follow any failure."""
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + self._close_seconds
        for worker in self._workers:
            worker.end(is_done=is_done)
        for worker in self._workers:
            worker.wait(deadline - time.monotonic())

    def _hand_over(self) -> None:
        for step, figures in self._new_lines():
            for worker in self._workers:
                worker.log(step, figures)

    def _new_lines(self) -> Iterator[tuple[int, dict[str, float]]]:
        if not self._metrics.exists():
            return
        with self._metrics.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                self._read_bytes += len(line)
                values = json.loads(line)
                yield (
                    int(values.pop("step")),
                    {name: value for name, value in values.items() if _is_number(value)},
                )


def _worker(
    plan: TrackerPlan, run: TrackedRun, open_session: Callable[[TrackerPlan, TrackedRun], TrackerSession]
) -> TrackerWorker:
    return TrackerWorker(plan.name, lambda: open_session(plan, run))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Opens the trackers of spec.tracking for a run, and publishes what they write to files. On rank 0 only."""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from finetune_api.job_file import JobFile
from finetune_trainer.callbacks.tracking import TrackingCallback
from finetune_trainer.errors import StageError
from finetune_trainer.event_files import publish_event_files
from finetune_trainer.step_figures import StepMeter
from finetune_trainer.storage import ObjectStore
from finetune_trainer.tracked_settings import Setting, describe_settings
from finetune_trainer.trackers import EventFolder, TrackedRun, decide_event_folders, decide_trackers
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)

# A tracker's files are not worth waiting for.
_UPLOAD_ATTEMPTS = 2


@dataclass(frozen=True)
class RunTracking:
    """The trackers of a run, and where their files go."""

    callback: TrackingCallback
    folders: Sequence[EventFolder]

    def publish(self) -> None:
        """Put what trackers wrote into the store: beside a checkpoint, and at the end."""
        if not self.folders:
            return
        self.callback.settle()
        for folder in self.folders:
            store = ObjectStore.open(folder.store, max_attempts=_UPLOAD_ATTEMPTS)
            publish_event_files(store, folder.uri, folder.folder)


def open_tracking(
    job: JobFile, work: WorkDirectory, meter: StepMeter, *, first_step: int, resolved: dict[str, Setting]
) -> RunTracking | None:
    """Open them; None where the job names none. `resolved` is what became of the settings."""
    environment: dict[str, Setting] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "image": job.trainer_image,
    }
    run = TrackedRun(
        name=job.name,
        run_id=job.layout.run_id,
        attempt=job.attempt,
        first_step=first_step,
        settings=describe_settings(job.spec, resolved=resolved, environment=environment),
    )
    plans = decide_trackers(job.spec.tracking, run, work.tracking)
    if not plans:
        return None
    folders = decide_event_folders(job.spec.tracking, job.layout, job.spec.output.store, work.tracking)
    return RunTracking(TrackingCallback(plans, run, work.metrics, meter), folders)


def after_commit(tracking: RunTracking | None) -> Callable[[object], None]:
    """What follows a committed checkpoint: beside training, which waits for no tracker's store."""
    running: list[threading.Thread] = []

    def publish() -> None:
        try:
            if tracking is not None:
                tracking.publish()
        except StageError as error:
            logger.warning("the trackers' files were not published: %s", error.message)

    def start(_: object) -> None:
        if tracking is None or (running and running[0].is_alive()):
            return
        running[:] = [threading.Thread(target=publish, name="tracking", daemon=True)]
        running[0].start()

    return start

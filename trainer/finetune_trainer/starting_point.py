"""Decides where an attempt starts: the run's own newest checkpoint, else that of resumeFrom.run, else step 0."""

from __future__ import annotations

import logging
import shutil

from finetune_api.job_file import JobFile
from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoints import CheckpointManifest, CheckpointSearch, restore_newest_checkpoint
from finetune_trainer.earlier_run import layout_of_run, no_checkpoint_error
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)


def restore_starting_point(
    job: JobFile, work: WorkDirectory, store: ObjectStore
) -> CheckpointManifest | None:
    """Bring the checkpoint to go on from onto the disk, and with it the metrics up to its step. None: from step 0.

    Raises UserError where the checkpoint of resumeFrom.run is gone: such a run never begins at step 0.
    """
    search = restore_newest_checkpoint(store, job.layout, work.resume)
    earlier = job.spec.resume_from
    if search.manifest is None and earlier is not None:
        _log_passed_over(search)
        search = restore_newest_checkpoint(store, layout_of_run(job.layout, earlier.run), work.resume)
        if search.manifest is None:
            raise no_checkpoint_error(layout_of_run(job.layout, earlier.run), search)
    _lay_out_metrics(work, search.manifest)
    _log_choice(job, search)
    return search.manifest


def checkpoint_report(job: JobFile, manifest: CheckpointManifest) -> CheckpointReport:
    """A checkpoint as progress reports name it."""
    layout = layout_of_run(job.layout, manifest.run)
    return CheckpointReport(
        step=manifest.step, uri=layout.checkpoint_uri(manifest.step), time=manifest.created
    )


def _lay_out_metrics(work: WorkDirectory, manifest: CheckpointManifest | None) -> None:
    work.metrics.unlink(missing_ok=True)
    if manifest is None:
        work.metrics.touch()
    else:
        shutil.copyfile(work.resume / work.metrics.name, work.metrics)


def _log_choice(job: JobFile, search: CheckpointSearch) -> None:
    passed_over = f"; passed over: {'; '.join(search.passed_over)}" if search.passed_over else ""
    manifest = search.manifest
    if manifest is None:
        logger.info("starting from step 0 (no valid checkpoint%s)", passed_over)
        return
    whose = "" if manifest.run == job.layout.run_id else f" of run {manifest.run}, as resumeFrom says"
    logger.info("resuming from step %d (newest valid checkpoint%s%s)", manifest.step, whose, passed_over)


def _log_passed_over(search: CheckpointSearch) -> None:
    for sentence in search.passed_over:
        logger.warning("own checkpoint passed over: %s", sentence)

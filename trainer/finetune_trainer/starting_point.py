"""Decides where an attempt starts: the run's own newest checkpoint, else that of resumeFrom.run, else step 0."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from types import MappingProxyType

from finetune_api.job_file import JobFile
from finetune_api.layout import RunLayout
from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoint_files import decide_needed
from finetune_trainer.checkpoints import (
    NEVER_COMMITTED,
    CheckpointManifest,
    CheckpointSearch,
    Place,
    place_of,
    restore_newest_checkpoint,
)
from finetune_trainer.claims import note_start
from finetune_trainer.earlier_run import layout_of_run, no_checkpoint_error
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import RunFile, config_digest_of
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import StartingPoint, WorkDirectory

logger = logging.getLogger(__name__)


def restore_starting_point(
    job: JobFile,
    work: WorkDirectory,
    store: ObjectStore,
    run_file: RunFile,
    incarnation: int,
    *,
    ranks: Collection[int],
    world_size: int,
    unusable: Mapping[Place, str] = MappingProxyType({}),
) -> StartingPoint:
    """Bring the checkpoint to go on from onto the disk, and with it the metrics up to its step.

    Raises UserError where the checkpoint of resumeFrom.run is gone: such a run never begins at step 0; and where the
    run's own is that of another training, because its data or its model have been replaced.

    `ranks` of the pod, of `world_size`: their shares are fetched, where they go on as they were.
    `unusable`: checkpoints that have proved so, and why.
    """

    def restore(layout: RunLayout) -> CheckpointSearch:
        return restore_newest_checkpoint(
            store,
            layout,
            work.resume,
            wanted=lambda manifest: decide_needed(
                (manifest.world_size, manifest.split), ranks, world_size, manifest.split
            ),
            unusable=unusable,
        )

    search = restore(job.layout)
    if search.manifest is not None:
        refuse_other_training(search.manifest, run_file)
    earlier = job.spec.resume_from
    if search.manifest is None and earlier is not None:
        _log_passed_over(search)
        search = restore(layout_of_run(job.layout, earlier.run))
        if search.manifest is None:
            raise no_checkpoint_error(layout_of_run(job.layout, earlier.run), search)
    _lay_out_metrics(work, search.manifest)
    _log_choice(job, search)
    note_start(store, job.layout, incarnation, own_step(job, search.manifest))
    return StartingPoint(
        incarnation=incarnation,
        checkpoint=search.manifest,
        passed_over=tuple(each for each in search.passed_over if not each.endswith(NEVER_COMMITTED)),
    )


def own_step(job: JobFile, manifest: CheckpointManifest | None) -> int:
    """The step of this run's own checkpoints that is gone on from: what an earlier run saved is not among them."""
    return manifest.step if manifest is not None and manifest.run == job.layout.run_id else 0


def refuse_other_training(manifest: CheckpointManifest, run_file: RunFile) -> None:
    """Raise UserError that says what has been replaced since the checkpoint was taken."""
    pairs = {
        "base model": (manifest.model_digest, run_file.model.digest),
        "data (rows, tokenizer, dataset settings)": (manifest.dataset_digest, run_file.dataset.digest),
        "method, optimizer, seed and batch size": (manifest.config_digest, config_digest_of(run_file)),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise UserError(
                f"The checkpoint of step {manifest.step} belongs to another training: its {what} have digest "
                f"{theirs[:12]}, this run's {ours[:12]}. Put back what was replaced, or delete and re-apply the "
                "FineTuneJob to start a new run."
            )


def checkpoint_report(job: JobFile, manifest: CheckpointManifest) -> CheckpointReport:
    """A checkpoint as progress reports name it."""
    layout = layout_of_run(job.layout, manifest.run)
    return CheckpointReport(
        step=manifest.step,
        uri=place_of(layout, manifest).uri,
        time=manifest.created,
        size_bytes=manifest.size_bytes,
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

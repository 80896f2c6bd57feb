"""One rank's part in saving: copy its share while all wait, hand files to the uploader, hear what became of them.

Nothing here speaks to the store, so nothing waits for it between two collectives of a step.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter

from finetune_api.progress import CheckpointReport
from finetune_api.spec import Checkpoints
from finetune_trainer import errors
from finetune_trainer.cgroup import available_memory_bytes
from finetune_trainer.checkpoint_files import OPTIMIZER, PARAMETERS, rank_file_name
from finetune_trainer.checkpoints import CheckpointFacts
from finetune_trainer.disk_errors import DISK_REMEDY, is_of_local_disk
from finetune_trainer.early_stopping import EarlyStoppingRule
from finetune_trainer.errors import StageError, StorageUnavailable
from finetune_trainer.gang import Gang
from finetune_trainer.heartbeat import Heart, Phase
from finetune_trainer.snapshot import LiveState, save_random_state, save_snapshot
from finetune_trainer.snapshot_buffer import SnapshotBuffer
from finetune_trainer.snapshot_memory import ENV_SNAPSHOT_MEMORY, fits_in_memory, memory_paths
from finetune_trainer.spool import SaveOrder, Spool, UploadReport, UploadState
from finetune_trainer.state_files import Fragment, is_of_kind, plan_state_file
from finetune_trainer.step_figures import Saving
from finetune_trainer.tuned_model import TunedModel
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.02
_BEAT_SECONDS = 5.0
# All ranks have just taken the same step together.
_MEETING = timedelta(seconds=5)
# Of a store that does not answer at the end of a run, whose GPUs wait for it.
OUTAGE_PATIENCE_SECONDS = 3600.0
_FILES = TypeAdapter(dict[str, str])
_NOTES_SUFFIX = ".files"
_SAVING = {
    UploadState.IDLE: Saving.NONE,
    UploadState.UPLOADING: Saving.MOVING,
    UploadState.WAITING: Saving.STUCK,
    # Which all ranks hear of apart.
    UploadState.FAILED: Saving.NONE,
}


@dataclass(frozen=True)
class RunIdentity:
    """What a checkpoint's manifest says about the run beside its figures."""

    attempt: int
    incarnation: int
    model_digest: str
    dataset_digest: str
    config_digest: str
    versions: dict[str, str]


class CheckpointSaver:
    """Of one rank. The first rank of each pod also places the pod's orders."""

    def __init__(
        self,
        gang: Gang,
        work: WorkDirectory,
        heart: Heart,
        tuned: TunedModel,
        live: Callable[[], LiveState],
        *,
        rule: EarlyStoppingRule | None,
        identity: RunIdentity,
        settings: Checkpoints,
        nodes: int,
        node: int,
    ) -> None:
        self._gang = gang
        self._work = work
        self._spool: Spool = work.spool
        self._heart = heart
        self._tuned = tuned
        self._live = live
        self._rule = rule
        self._identity = identity
        self._settings = settings
        self._nodes, self._node = nodes, node
        self._buffers: dict[str, SnapshotBuffer] = {}
        self._order = self._spool.report().order

    # --- what the uploader says --------------------------------------------------------------------------------

    @property
    def _speaks_for_pod(self) -> bool:
        return self._gang.local_rank == 0

    def report(self) -> UploadReport:
        """What became of the newest order."""
        report = self._spool.report()
        # It may not have looked since the order was placed.
        return (
            report
            if report.order == self._order
            else UploadReport(order=self._order, state=UploadState.UPLOADING)
        )

    def saving(self) -> Saving:
        """What becomes of the newest order."""
        return _SAVING[self.report().state]

    def has_failed(self) -> bool:
        """Whether this pod's uploader has given up."""
        return self._speaks_for_pod and self.report().state is UploadState.FAILED

    def agree_on_failure(self, step: int) -> None:
        """Raise on every rank why an uploader has given up. Every rank calls this."""
        self._gang.do_together(f"checkpoint/{step}/failed", self._raise_failure)

    def _raise_failure(self) -> None:
        report = self.report()
        if self._speaks_for_pod and report.state is UploadState.FAILED:
            raise error_of(report)

    # --- saving ------------------------------------------------------------------------------------------------

    def lay_out(self) -> None:
        """Give the buffers their size as soon as it is known. Raises StorageUnavailable for a full disk."""
        fragments = self._live().engine.state.fragments()
        self._buffers = self._choose_buffers(fragments)
        for kind, buffer in self._buffers.items():
            buffer.lay_out(_of_kind(fragments, kind))

    def save(self, facts: CheckpointFacts, *, replaces: bool) -> None:
        """Copy the state and have it uploaded. `replaces`: another one may be on its way. Every rank calls this.

        Raises StageError on all ranks where one of them could not copy its share.
        """
        began = time.time()
        topic, folder = f"checkpoint/{facts.step}", self._work.snapshots / f"{facts.step:08d}"
        if replaces:
            # No rank fills a buffer again before its pod's order is withdrawn. None is while a rank is missing: what is
            # on its way may still get there in the time that the pod has left.
            self._gang.meet(_MEETING)
            self._gang.do_together(f"{topic}/withdraw", self._withdraw)
        self._gang.do_together(f"{topic}/copy", on_local_disk(lambda: self._copy(facts.step, folder)))
        if self._speaks_for_pod:
            self._place_order(facts, folder, began)
        logger.info("copied the state after step %d in %.0f ms", facts.step, 1000 * (time.time() - began))

    def wait(self, topic: str, *, patience_seconds: float, meanwhile: Callable[[], None]) -> None:
        """Wait until the newest state is committed. Raises on all ranks what any uploader gave up for.

        `meanwhile` is called now and then.
        """

        def wait_for_pod() -> None:
            if self._speaks_for_pod:
                self._wait_for_pod(patience_seconds, meanwhile)

        self._heart.enter(Phase.SAVING)
        self._gang.do_together(topic, wait_for_pod)

    def committed(self) -> CheckpointReport | None:
        """The newest checkpoint that this attempt has committed."""
        return self._spool.report().committed

    def _withdraw(self) -> None:
        if self._speaks_for_pod:
            self._spool.withdraw()

    def _copy(self, step: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        live = self._live()
        fragments = live.engine.state.fragments()
        if not self._buffers:
            self._buffers = self._choose_buffers(fragments)
        rank, files = self._gang.rank, {}
        for kind, buffer in self._buffers.items():
            buffer.fill(_of_kind(fragments, kind))
            files[rank_file_name(kind, rank)] = str(buffer.path)
        save_random_state(folder, self._gang)
        if self._gang.is_leader:
            self._tuned.save_method_state(folder)
            save_snapshot(folder, step, live, self._gang, self._rule.state if self._rule else None)
            shutil.copyfile(self._work.metrics, folder / self._work.metrics.name)
        (folder / f"{rank:05d}{_NOTES_SUFFIX}").write_bytes(_FILES.dump_json(files))

    def _place_order(self, facts: CheckpointFacts, folder: Path, step_ended: float) -> None:
        files: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix == _NOTES_SUFFIX:
                files |= _FILES.validate_json(path.read_bytes())
            else:
                files[path.name] = str(path)
        self._order = self._order + 1
        self._spool.place(
            SaveOrder(
                number=self._order,
                files=files,
                facts=facts,
                node=self._node,
                nodes=self._nodes,
                keep_last=self._settings.keep_last,
                keep_best=self._settings.keep_best,
                step_ended=step_ended,
            )
        )
        for other in self._work.snapshots.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _wait_for_pod(self, patience_seconds: float, meanwhile: Callable[[], None]) -> None:
        beaten_at = time.monotonic()
        while (report := self.report()).state is not UploadState.IDLE:
            if report.state is UploadState.FAILED:
                raise error_of(report)
            if report.waiting_since is not None and time.time() - report.waiting_since > patience_seconds:
                raise StorageUnavailable(report.message)
            if time.monotonic() - beaten_at > _BEAT_SECONDS:
                beaten_at = time.monotonic()
                self._heart.enter(Phase.SAVING)
                meanwhile()
            time.sleep(_POLL_SECONDS)

    def _choose_buffers(self, fragments: list[Fragment]) -> dict[str, SnapshotBuffer]:
        kinds = (PARAMETERS, OPTIMIZER)
        sizes = {kind: plan_state_file(_of_kind(fragments, kind)).size_bytes for kind in kinds}
        in_memory = memory_paths(os.environ.get(ENV_SNAPSHOT_MEMORY))
        ranks, available = len(self._gang.ranks_of_pod), available_memory_bytes()
        total_bytes = sum(sizes.values())
        if in_memory and fits_in_memory(total_bytes, available, ranks):
            return {kind: SnapshotBuffer(in_memory[kind]) for kind in kinds}
        if in_memory:
            logger.warning(
                "snapshots of %.1f GiB go through the pod's disk, because %.1f GiB of its memory are free for %d "
                "rank(s): saving holds training up for longer. Raise spec.resources.memory",
                total_bytes / 1024**3,
                available / 1024**3,
                ranks,
            )
        self._work.snapshots.mkdir(parents=True, exist_ok=True)
        folder = self._work.root / "snapshot-buffers"
        folder.mkdir(exist_ok=True)
        return {kind: SnapshotBuffer(folder / rank_file_name(kind, self._gang.rank)) for kind in kinds}


def error_of(report: UploadReport) -> StageError:
    """What the uploader gave up for, as this process raises it."""
    kind = getattr(errors, report.error, None)
    if isinstance(kind, type) and issubclass(kind, StageError):
        return kind(report.message)
    return StorageUnavailable(f"The checkpoint could not be uploaded: {report.message}")


def on_local_disk(action: Callable[[], None]) -> Callable[[], None]:
    """Say what a full or broken disk means for the run."""

    def guarded() -> None:
        try:
            action()
        except Exception as error:
            if not (isinstance(error, OSError) or is_of_local_disk(error)):
                raise
            raise StorageUnavailable(
                f"The checkpoint could not be written to the pod's own disk: {error}. {DISK_REMEDY}"
            ) from error

    return guarded


def _of_kind(fragments: list[Fragment], kind: str) -> list[Fragment]:
    return [each for each in fragments if is_of_kind(each, kind)]

"""Brings snapshots into the store while training goes on: a torch-free process beside the ranks, one a pod.

`python -m finetune_trainer.uploader --job PATH`, started by the launcher before anything touches a GPU. It uploads what
its pod's ranks have filled; the first pod's also waits for the other pods' parts, commits, and removes what the new
checkpoint makes superfluous. A store that is away is tried again and again: the snapshot waits in its buffer.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetune_api.layout import RunLayout
from finetune_api.progress import CheckpointReport
from finetune_trainer.checkpoint_pruning import prune_checkpoints
from finetune_trainer.checkpoints import (
    CheckpointManifest,
    Place,
    Withdrawn,
    commit_checkpoint,
    load_committed,
    read_parts,
    upload_files,
    write_part,
)
from finetune_trainer.claims import ensure_not_superseded
from finetune_trainer.errors import ObjectDamaged, StageError, StorageUnavailable
from finetune_trainer.file_entries import CheckpointFile
from finetune_trainer.job import load_job
from finetune_trainer.logs import configure_logging
from finetune_trainer.parent_death import die_with_launcher
from finetune_trainer.retention import Retention
from finetune_trainer.run_metrics import METRICS_NAME, publish_metrics
from finetune_trainer.spool import SaveOrder, Spool, UploadState
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger("finetune_trainer.uploader")

_POLL_SECONDS = 0.02
_PARTS_POLL_SECONDS = 0.5
# Other pods fill their buffers at the same step, and may have a slower way to the store.
_PARTS_PATIENCE_SECONDS = 1800.0
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
# Of one request. It is told soon that a store is away; the order is tried again in any case.
_MOST_ATTEMPTS = 4
_NICENESS = 10


class Uploader:
    """Commits one order after the other; a newer one takes the place of the one under way."""

    def __init__(
        self,
        store: ObjectStore,
        layout: RunLayout,
        spool: Spool,
        *,
        pause_seconds: Callable[[int], float] = lambda attempt: decide_pause(attempt),
    ) -> None:
        self.store = store
        self.layout = layout
        self.pause_seconds = pause_seconds
        self._spool = spool
        self._report = spool.report()
        self._lock = threading.Lock()
        self._broken: OSError | None = None

    def run(self) -> None:
        """Serve until the spool is closed and nothing is under way. Raises OSError where nothing can be reported."""
        task: _Task | None = None
        while True:
            is_closed, order = self._spool.is_closed, self._spool.order()
            if task is not None and (order is None or order.number != task.order.number):
                task.withdrawn.set()
            is_new = order is not None and (task is None or order.number != task.order.number)
            if order is not None and is_new and not self._is_done(order):
                task = _Task(self, order)
                task.start()
            # A request that hangs is not waited for where nobody wants what it sends.
            if is_closed and (task is None or task.withdrawn.is_set() or not task.is_alive()):
                return
            if self._broken is not None:
                raise self._broken
            time.sleep(_POLL_SECONDS)

    def stands(self, order: SaveOrder) -> bool:
        """Whether the files of an order are still those that it was placed for."""
        current = self._spool.order()
        return current is not None and current.number == order.number

    @property
    def outage_began(self) -> float | None:
        """time.time() since when the store does not answer; None where it does."""
        return self._report.waiting_since

    def tell(self, order: SaveOrder, **news: object) -> None:
        """Report on an order, unless there is news of a newer one."""
        with self._lock:
            if order.number >= self._report.order:
                self._report = self._report.model_copy(update={"order": order.number, **news})
                try:
                    self._spool.write_report(self._report)
                except OSError as error:
                    # Nobody would ever hear of the order: another process has to take it up, or the launcher gives up.
                    self._broken = error
                    raise

    def _is_done(self, order: SaveOrder) -> bool:
        # An uploader that died left its order undone.
        report = self._report
        is_settled = report.state in (UploadState.IDLE, UploadState.FAILED)
        return order.number < report.order or (order.number == report.order and is_settled)


class _Task(threading.Thread):
    """One order. A thread, so that a request which hangs does not keep the next order waiting."""

    def __init__(self, uploader: Uploader, order: SaveOrder) -> None:
        super().__init__(name=f"order {order.number}", daemon=True)
        self.order = order
        self.withdrawn = threading.Event()
        self._uploader = uploader
        self._store, self._layout = uploader.store, uploader.layout
        self._place = Place(uploader.layout, order.facts.step, order.facts.incarnation)
        self._entries: tuple[CheckpointFile, ...] | None = None
        self._manifest: CheckpointManifest | None = None

    def run(self) -> None:
        """Save, however long it takes; give up only where trying again is of no use."""
        tell, step = partial(self._uploader.tell, self.order), self.order.facts.step
        # A newer state takes the place of one that does not get there: the store has been away all the while.
        waiting_since = self._uploader.outage_began
        tell(state=UploadState.UPLOADING, error="")
        for attempt in itertools.count():
            try:
                self._save()
                tell(state=UploadState.IDLE, message="", waiting_since=None)
                return
            except Exception as error:
                # Files that change while they are sent fail in many ways.
                if isinstance(error, Withdrawn) or not self._uploader.stands(self.order):
                    logger.info("step %d is not saved: a newer state is", step)
                    return
                if not isinstance(error, StorageUnavailable):
                    logger.exception("step %d cannot be saved", step)
                    tell(state=UploadState.FAILED, message=_message_of(error), error=type(error).__name__)
                    return
                if isinstance(error, ObjectDamaged):
                    self._entries = None
                waiting_since = waiting_since or time.time()
                logger.warning("step %d waits for the store: %s", step, error.message)
                tell(state=UploadState.WAITING, message=error.message, waiting_since=waiting_since)
            if self.withdrawn.wait(self._uploader.pause_seconds(attempt)):
                return

    def _save(self) -> None:
        order = self.order
        if self._manifest is None:
            # Of an uploader that died before it could say so: files that may change any moment do not go over it.
            self._manifest = load_committed(self._store, self._place)
            if self._manifest is None:
                self._upload()
            if self._manifest is not None and order.node == 0:
                self._announce(self._manifest)
        if order.node == 0:
            self._tidy()

    def _upload(self) -> None:
        """Bring this pod's part into the store; in the first pod also commit, when the others have brought theirs."""
        order = self.order
        if self._entries is None:
            ensure_not_superseded(self._store, self._layout, order.facts.incarnation)
            files = {name: Path(path) for name, path in order.files.items()}
            entries = upload_files(self._store, self._place, files, self.withdrawn.is_set)
            # Asked at the spool itself: what is only looked at now and then may have been withdrawn long ago.
            if not self._uploader.stands(order):
                raise Withdrawn
            self._entries = entries
        if order.node > 0:
            write_part(self._store, self._place, order.node, self._entries)
        else:
            every = [*self._entries, *self._wait_for_parts()]
            self._manifest = commit_checkpoint(self._store, self._layout, order.facts, every)

    def _wait_for_parts(self) -> tuple[CheckpointFile, ...]:
        deadline = time.monotonic() + _PARTS_PATIENCE_SECONDS
        while (found := read_parts(self._store, self._place, self.order.nodes)) is None:
            if self.withdrawn.wait(_PARTS_POLL_SECONDS):
                raise Withdrawn
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"Not all pods have uploaded their part of {self._place.uri}. Look into the logs of the others."
                )
        return found

    def _announce(self, manifest: CheckpointManifest) -> None:
        # A clock that was set back meanwhile is no reason to fail.
        seconds = max(0.0, time.time() - self.order.step_ended)
        logger.info(
            "checkpoint of step %d committed at %s in %.1f s", manifest.step, self._place.uri, seconds
        )
        self._uploader.tell(
            self.order,
            committed=CheckpointReport(
                step=manifest.step,
                uri=self._place.uri,
                time=manifest.created,
                size_bytes=manifest.size_bytes,
                save_seconds=seconds,
            ),
        )

    def _tidy(self) -> None:
        order, incarnation = self.order, self.order.facts.incarnation
        metrics = order.files.get(METRICS_NAME)
        if metrics is not None:
            # A store that was away may answer an older order after the newer one is saved.
            stands = partial(self._uploader.stands, order)
            publish_metrics(self._store, self._layout, Path(metrics), incarnation, stands)
        prune_checkpoints(self._store, self._layout, Retention(order.keep_last, order.keep_best), incarnation)


def _message_of(error: Exception) -> str:
    return error.message if isinstance(error, StageError) else f"{type(error).__name__}: {error}"


def decide_pause(attempt: int) -> float:
    """Seconds to wait before trying again: longer each time, never the same for two pods."""
    longest: float = min(_LONGEST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS * 2 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1)  # noqa: S311


def main(arguments: list[str] | None = None) -> int:
    """Serve until the launcher closes the spool."""
    # The launcher is told to go, and decides what is still uploaded.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Training goes first: hashing takes what is left of the CPUs.
    os.nice(_NICENESS)
    parser = argparse.ArgumentParser(prog="finetune_trainer.uploader", description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--launcher", type=int, help="pid of the process that started this one")
    options = parser.parse_args(arguments)
    die_with_launcher(options.launcher)
    configure_logging()
    job, work = load_job(options.job), WorkDirectory.from_environment()
    store = ObjectStore.open(job.spec.output.store, max_attempts=_MOST_ATTEMPTS)
    Uploader(store, job.layout, work.spool).run()
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:
        logger.exception("the uploader ends")
    logging.shutdown()
    # A request that hangs is not waited for.
    os._exit(code)

"""The train stage's parent process, PID 1 of the pod, torch-free: fetch, start the ranks, listen, say how it ended.

torchrun is not used: it exits with 1 whatever a worker's code was, and kills workers 30 s after SIGTERM. A gang
restarts as a whole, so its elastic rendezvous is not needed either.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetune_api.job_file import JobFile
from finetune_api.reasons import Reason
from finetune_api.termination import TerminationMessage, TrainedFacts
from finetune_trainer.adapter_source import adapter_store
from finetune_trainer.base_model import base_model_store
from finetune_trainer.cgroup import oom_kills
from finetune_trainer.claims import claim_incarnation
from finetune_trainer.conclusion import conclude
from finetune_trainer.data.prepared import download_prepared, split_file_name
from finetune_trainer.data.rows import Split
from finetune_trainer.errors import Preempted, RankLost, StageError, Stalled
from finetune_trainer.fetching import fetch_adapter, fetch_base_model
from finetune_trainer.grace import grace_seconds, seconds_to_save_within
from finetune_trainer.heartbeat import Watchdog
from finetune_trainer.parallelism import needs_process_group
from finetune_trainer.placement import Placement, decide_placement
from finetune_trainer.rank_processes import RankEnd, RankProcesses, process_arguments
from finetune_trainer.run_file import RunFile, load_run_file
from finetune_trainer.snapshot_memory import SnapshotMemory
from finetune_trainer.starting_point import restore_starting_point
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trained import load_trained_facts
from finetune_trainer.uploader_process import UploaderProcess
from finetune_trainer.work_directory import HandOver, RankResult, WorkDirectory

logger = logging.getLogger(__name__)

# How long a state that was handed over may still be uploaded after its ranks have ended, unless the pod must go sooner.
# Of several pods one may be gone, whose part never comes.
_DRAIN_SECONDS, _DRAIN_SECONDS_OF_SEVERAL = 60.0, 10.0


class Relay:
    """What SIGTERM means right now: leave, or pass it on to the ranks."""

    def __init__(self) -> None:
        self.heard_at: float | None = None
        self.ranks: RankProcesses | None = None

    def on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:
        """Pass it on; without ranks there is nothing to save."""
        self.heard_at = self.heard_at or time.monotonic()
        if self.ranks is None:
            raise Preempted(
                "The pod was told to go before training began. The next attempt starts from the same place."
            )
        self.ranks.terminate()


def main(job: JobFile, job_path: Path) -> TerminationMessage:
    """Run this pod's part of one attempt of training. Raises what the most telling rank raised."""
    relay = Relay()
    signal.signal(signal.SIGTERM, relay.on_sigterm)
    placement = decide_placement(job.spec.parallelism)
    try:
        return _done(train(job, job_path, relay, placement), placement)
    except (StageError, RankLost) as error:
        error.saved = saved_facts(WorkDirectory.from_environment())
        if placement.world_size == 1:
            error.rank = None  # which one it was is only worth saying where there are several
        raise


def train(job: JobFile, job_path: Path, relay: Relay, placement: Placement) -> TrainedFacts:
    """Run the ranks of this pod, unless all is done already."""
    work, store = WorkDirectory.from_environment(), ObjectStore.open(job.spec.output.store)
    if (facts := load_trained_facts(store, job.layout)) is not None:
        logger.info("training was finished by an earlier attempt: %s is committed", job.layout.trained_uri)
        return facts
    kills_before = oom_kills()
    ends = run_ranks(job, job_path, work, store, relay, placement)
    return conclude(
        ends,
        load_results(work, placement.ranks),
        told_to_go=relay.heard_at is not None,
        oom_killed=oom_kills() > kills_before,
        halvings=job.memory_backoff,
    )


def run_ranks(
    job: JobFile,
    job_path: Path,
    work: WorkDirectory,
    store: ObjectStore,
    relay: Relay,
    placement: Placement,
) -> list[RankEnd]:
    """Start one process a GPU, or a single one; bring what they need while they import torch; wait for all."""
    work.clear_messages()
    memory = SnapshotMemory(placement.ranks)
    uploader = UploaderProcess(job_path, work.spool, memory)
    ranks = RankProcesses(
        process_arguments(job_path),
        placement,
        save_seconds=seconds_to_save(),
        needs_group=needs_process_group(job.spec.parallelism, placement.world_size),
        is_deterministic=job.spec.training.deterministic,
        memory=memory,
    )
    uploader.ensure_running()
    ranks.start()
    try:
        lay_out(job, work, store, placement)
        relay.ranks = ranks
        return watch_ranks(ranks, uploader, work, placement, job.spec.failure_policy.stall_timeout_seconds)
    except BaseException:
        ranks.kill()
        raise
    finally:
        uploader.finish(seconds_to_drain(relay, placement))


def lay_out(job: JobFile, work: WorkDirectory, store: ObjectStore, placement: Placement) -> None:
    """Bring rows and base model onto the disk; in the first pod also become the run's writer and bring the checkpoint.

    The other pods learn from it where the attempt starts, and fetch that very checkpoint themselves.
    """
    run_file = load_run_file(store, job.layout)
    incarnation = claim_incarnation(store, job.layout) if placement.is_first_node else None
    fetch_base_model(ObjectStore.open(base_model_store(job.spec)), run_file.model, work.model)
    if run_file.adapter is not None:
        fetch_adapter(ObjectStore.open(adapter_store(job.spec)), run_file.adapter, work.earlier_adapter)
    download_prepared(store, run_file.dataset.prepared_uri, work.data, splits_of(run_file))
    start = None
    if incarnation is not None:
        start = restore_starting_point(
            job,
            work,
            store,
            run_file,
            incarnation,
            ranks=placement.ranks,
            world_size=placement.world_size,
        )
    work.write_hand_over(HandOver(run_file=run_file, start=start))


def splits_of(run_file: RunFile) -> list[str]:
    """The files of rows that training reads."""
    wanted = [Split.TRAIN] if run_file.evaluation_steps is None else [Split.TRAIN, Split.VALIDATION]
    return [split_file_name(split) for split in wanted]


def watch_ranks(
    ranks: RankProcesses,
    uploader: UploaderProcess,
    work: WorkDirectory,
    placement: Placement,
    stall_timeout_seconds: float,
) -> list[RankEnd]:
    """Wait for the ranks' end. Raises Stalled, with their stacks in the log, when they no longer move."""
    files = {rank: work.heartbeat(rank) for rank in placement.ranks}
    watchdog = Watchdog(files, stall_timeout_seconds)

    def look() -> None:
        uploader.ensure_running()
        watchdog.check(ranks.idle_states)

    try:
        return ranks.wait(look)
    except Stalled as error:
        logger.error("%s The stacks of all processes follow.", error.message.partition(". ")[0] + ".")
        ranks.show_stacks()
        raise


def saved_facts(work: WorkDirectory) -> TrainedFacts | None:
    """The newest checkpoint that this attempt committed: the first pod's alone know any. Reports may get lost."""
    committed = work.spool.report().committed
    return None if committed is None else TrainedFacts(step=committed.step, checkpoint_uri=committed.uri)


def seconds_to_drain(relay: Relay, placement: Placement) -> float:
    """How long a snapshot may still be uploaded when no rank is left."""
    grace = seconds_to_save()
    longest = _DRAIN_SECONDS if placement.nodes == 1 else _DRAIN_SECONDS_OF_SEVERAL
    if relay.heard_at is None or grace is None:
        return longest
    return min(longest, max(0.0, relay.heard_at + grace - time.monotonic()))


def seconds_to_save() -> float | None:
    """How long the ranks may take to save after SIGTERM; None where the pod was not told its grace."""
    grace = grace_seconds()
    return None if grace is None else seconds_to_save_within(grace)


def load_results(work: WorkDirectory, ranks: Iterable[int]) -> list[RankResult]:
    """Read what the ranks left behind; one that was killed left nothing."""
    results = []
    for rank in ranks:
        try:
            results.append(RankResult.model_validate_json(work.rank_result(rank).read_bytes()))
        except (OSError, ValidationError):
            logger.info("rank %d left no result", rank)
    return results


def _done(facts: TrainedFacts, placement: Placement) -> TerminationMessage:
    return TerminationMessage(
        reason=Reason.TRAINED,
        message=f"Training is done: {facts.step} steps.",
        step=facts.step,
        # One pod speaks for all: the others do not know the checkpoints.
        trained=facts if placement.is_first_node else None,
    )

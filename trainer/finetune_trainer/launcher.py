"""The train stage's parent process, PID 1 of the pod, torch-free: fetch, start the ranks, listen, say how it ended.

torchrun is not used: it exits with 1 whatever a worker's code was, and kills workers 30 s after SIGTERM. A gang
restarts as a whole, so its elastic rendezvous is not needed either.
"""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from finetune_api.job_file import JobFile
from finetune_api.progress import CheckpointReport
from finetune_api.reasons import FAILURE_CLASS_OF_EXIT_CODE, Reason
from finetune_api.termination import TerminationMessage, TrainedFacts
from finetune_trainer.cgroup import oom_kills
from finetune_trainer.checkpoints import CheckpointManifest, claim_incarnation, restore_newest_checkpoint
from finetune_trainer.data.prepared import download_prepared
from finetune_trainer.errors import (
    DataError,
    NonFiniteLoss,
    OutOfMemory,
    Preempted,
    StageError,
    Stalled,
    StorageDenied,
    StorageUnavailable,
    UserError,
)
from finetune_trainer.fetching import fetch_base_model
from finetune_trainer.rank_processes import RankEnd, RankProcesses, process_arguments
from finetune_trainer.run_file import load_run_file
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trained import load_trained_facts
from finetune_trainer.work_directory import HandOver, RankResult, WorkDirectory

logger = logging.getLogger(__name__)


_ERRORS: dict[int, type[StageError]] = {
    int(kind.exit_code): kind
    for kind in (
        UserError,
        DataError,
        OutOfMemory,
        StorageDenied,
        NonFiniteLoss,
        StorageUnavailable,
        Stalled,
        Preempted,
    )
}


class RankLost(Exception):
    """A rank ended in a way that nobody understands; another attempt may do better."""


class Relay:
    """What SIGTERM means right now: leave, or pass it on to the ranks."""

    def __init__(self) -> None:
        self.was_heard = False
        self.ranks: RankProcesses | None = None

    def on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:
        """Pass it on; without ranks there is nothing to save."""
        self.was_heard = True
        if self.ranks is None:
            raise Preempted(
                "The pod was told to go before training began. The next attempt starts from the same place."
            )
        self.ranks.terminate()


def main(job: JobFile, job_path: Path) -> TerminationMessage:
    """Run one attempt of training. Raises what the most telling rank raised."""
    relay = Relay()
    signal.signal(signal.SIGTERM, relay.on_sigterm)
    work, store = WorkDirectory.from_environment(), ObjectStore.open(job.spec.output.store)
    if (facts := load_trained_facts(store, job.layout)) is not None:
        logger.info("training was finished by an earlier attempt: %s is committed", job.layout.trained_uri)
        return _done(facts)
    kills_before = oom_kills()
    ends = run_ranks(job, job_path, work, store, relay)
    facts = conclude(
        ends, load_results(work, len(ends)), told_to_go=relay.was_heard, oom_killed=oom_kills() > kills_before
    )
    return _done(facts)


def run_ranks(
    job: JobFile, job_path: Path, work: WorkDirectory, store: ObjectStore, relay: Relay
) -> list[RankEnd]:
    """Start one process a GPU, or a single one; bring what they need while they import torch; wait for all."""
    work.clear_messages()
    ranks = RankProcesses(process_arguments(job_path), max(1, job.spec.parallelism.gpus_per_node))
    ranks.start()
    try:
        lay_out(job, work, store)
        relay.ranks = ranks
    except BaseException:
        ranks.kill()
        raise
    return ranks.wait()


def lay_out(job: JobFile, work: WorkDirectory, store: ObjectStore) -> None:
    """Become the run's writer; bring rows, base model and the newest checkpoint onto the disk."""
    run_file = load_run_file(store, job.layout)
    incarnation = claim_incarnation(store, job.layout)
    model_store = ObjectStore.open(job.spec.model.store) if job.spec.model.store else store
    fetch_base_model(model_store, run_file.model, work.model)
    download_prepared(store, run_file.dataset.prepared_uri, work.data)
    resumed_from = restore_checkpoint(job, work, store)
    hand_over = HandOver(run_file=run_file, incarnation=incarnation, resumed_from=resumed_from)
    work.write_hand_over(hand_over)


def restore_checkpoint(job: JobFile, work: WorkDirectory, store: ObjectStore) -> CheckpointReport | None:
    """Bring the newest checkpoint that proves intact onto the disk, and with it the metrics up to its step."""
    search = restore_newest_checkpoint(store, job.layout, work.resume)
    passed_over = f"; passed over: {'; '.join(search.passed_over)}" if search.passed_over else ""
    work.metrics.unlink(missing_ok=True)
    if search.manifest is None:
        logger.info("starting from step 0 (no valid checkpoint%s)", passed_over)
        work.metrics.touch()
        return None
    logger.info("resuming from step %d (newest valid checkpoint%s)", search.manifest.step, passed_over)
    shutil.copyfile(work.resume / work.metrics.name, work.metrics)
    return _checkpoint_report(job, search.manifest)


def load_results(work: WorkDirectory, world_size: int) -> list[RankResult]:
    """Read what the ranks left behind; one that was killed left nothing."""
    results = []
    for rank in range(world_size):
        try:
            results.append(RankResult.model_validate_json(work.rank_result(rank).read_bytes()))
        except (OSError, ValidationError):
            logger.info("rank %d left no result", rank)
    return results


def conclude(
    ends: Sequence[RankEnd], results: Sequence[RankResult], *, told_to_go: bool, oom_killed: bool
) -> TrainedFacts:
    """Decide how the attempt ended. Raises the root cause: the most specific class, then the earliest end."""
    if all(end.code == 0 for end in ends):
        facts = [result.trained for result in results if result.rank == 0]
        assert facts and facts[0] is not None, "a rank that ends with 0 has left its result"
        return facts[0]
    understood = [result for result in results if result.exit_code in FAILURE_CLASS_OF_EXIT_CODE]
    if understood:
        raise _as_error(min(understood, key=lambda result: (result.exit_code, result.ended)))
    if oom_killed:
        raise OutOfMemory(
            "The kernel killed a training process because the pod's memory was used up. Raise spec.resources.memory "
            "or lower spec.training.microBatchTokens."
        )
    if told_to_go:
        raise Preempted(
            "The pod was told to go and ended before it could save. The next attempt goes on from the newest "
            "checkpoint."
        )
    raise _lost(ends, results)


def _as_error(result: RankResult) -> StageError:
    return _ERRORS[result.exit_code](result.message, step=result.step)


def _lost(ends: Sequence[RankEnd], results: Sequence[RankResult]) -> RankLost:
    # A rank that died of a signal pulled the others down, whose complaints about lost connections say nothing.
    for end in ends:
        if end.code < 0 and not end.was_ended_by_us:
            return RankLost(f"rank {end.rank} was killed by {signal.Signals(-end.code).name}.")
    if results:
        first = min(results, key=lambda result: result.ended)
        return RankLost(f"rank {first.rank}: {first.message}")
    return RankLost(f"rank {ends[0].rank} ended with code {ends[0].code} and said nothing.")


def _checkpoint_report(job: JobFile, manifest: CheckpointManifest) -> CheckpointReport:
    return CheckpointReport(
        step=manifest.step, uri=job.layout.checkpoint_uri(manifest.step), time=manifest.created
    )


def _done(facts: TrainedFacts) -> TerminationMessage:
    return TerminationMessage(
        reason=Reason.TRAINED,
        message=f"Training is done: {facts.step} steps.",
        step=facts.step,
        trained=facts,
    )

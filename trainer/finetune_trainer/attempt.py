"""One rank joins the attempt: it meets the others, learns from rank 0 where to start, and gets the checkpoint."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from datetime import timedelta

import torch

from finetune_api.job_file import JobFile
from finetune_api.progress import CheckpointReport
from finetune_api.spec import Strategy
from finetune_trainer.checkpoint_files import Split, decide_needed
from finetune_trainer.checkpoints import CheckpointManifest, Place, download_checkpoint, place_of
from finetune_trainer.earlier_run import layout_of_run
from finetune_trainer.errors import CheckpointCorrupt
from finetune_trainer.gang import Gang, join_gang
from finetune_trainer.heartbeat import Heart, Phase
from finetune_trainer.logs import quiet_libraries
from finetune_trainer.memory_estimate import estimate_memory
from finetune_trainer.micro_batch_bound import MicroBatchBound, decide_micro_batch_bound
from finetune_trainer.model import ComputePrecision, decide_precision
from finetune_trainer.parallelism import ParallelPlan, decide_plan, needs_process_group
from finetune_trainer.run_file import RunFile
from finetune_trainer.snapshot import TrainerSnapshot, load_snapshot
from finetune_trainer.starting_point import checkpoint_report, restore_starting_point
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import HandOver, StartingPoint, WorkDirectory

logger = logging.getLogger(__name__)

# The operator gives up a gang whose pods do not all run in time; here is added what their ranks need to load torch.
_LOADING_MARGIN = timedelta(minutes=5)


@dataclass(frozen=True)
class Attempt:
    """What the steps of `train` share."""

    job: JobFile
    work: WorkDirectory
    run_file: RunFile
    start: StartingPoint
    snapshot: TrainerSnapshot | None
    gang: Gang
    device_bytes: int | None
    plan: ParallelPlan
    precision: ComputePrecision
    micro_batch_bound: MicroBatchBound
    store: ObjectStore
    heart: Heart

    @property
    def is_memory_tight(self) -> bool:
        """Whether weights, gradients and moments leave less than half of the device to activations."""
        return self.device_bytes is not None and self.plan.needed_bytes > self.device_bytes // 2

    @property
    def resumed_from(self) -> CheckpointReport | None:
        """The checkpoint that this attempt goes on from."""
        return checkpoint_report(self.job, self.start.checkpoint) if self.start.checkpoint else None


def join_attempt(job: JobFile, work: WorkDirectory) -> Attempt:
    """Meet the other ranks, read what the launcher settled, and learn from rank 0 where to start."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.use_deterministic_algorithms(job.spec.training.deterministic)
    quiet_libraries()
    gang_start = timedelta(seconds=job.spec.failure_policy.gang_start_timeout_seconds)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    gang = join_gang(
        gang_start + _LOADING_MARGIN,
        needs_group=needs_process_group(job.spec.parallelism, world_size),
    )
    heart = Heart(work.heartbeat(gang.rank))
    hand_over = work.wait_for_hand_over()
    heart.enter(Phase.LOADING)
    store = ObjectStore.open(job.spec.output.store)
    device_bytes = smallest_device_bytes(gang)
    plan = plan_parallelism(job, hand_over.run_file, gang.world_size, device_bytes)
    start = agree_on_start(job, work, store, gang, hand_over, plan.split)
    heart.enter(Phase.LOADING)
    return Attempt(
        job=job,
        work=work,
        run_file=hand_over.run_file,
        start=start,
        snapshot=load_snapshot(work.resume) if start.checkpoint else None,
        gang=gang,
        device_bytes=device_bytes,
        plan=plan,
        precision=decide_precision(job.spec.training.precision, gang.device.type, job.spec.method.type),
        micro_batch_bound=decide_micro_batch_bound(job.spec.training, gang.device.type, job.memory_backoff),
        store=store,
        heart=heart,
    )


def plan_parallelism(
    job: JobFile, run_file: RunFile, world_size: int, device_bytes: int | None
) -> ParallelPlan:
    """Decide how ranks share the work, from what the model takes and what the smallest device has."""
    spec, facts = job.spec, run_file

    def estimate_bytes(strategy: Strategy) -> int:
        return estimate_memory(
            facts.model.parameter_count,
            facts.method.trainable_count,
            spec.method,
            spec.training.precision,
            world_size,
            strategy,
            optimizer=spec.training.optimizer,
            quantized_count=facts.method.quantized_count,
        ).total

    plan = decide_plan(spec, world_size, device_bytes, estimate_bytes)
    logger.info("strategy %s: %s", plan.name, plan.reason)
    return plan


def smallest_device_bytes(gang: Gang) -> int | None:
    """What the smallest device of all ranks has in all: each must come to the same decisions.

    None for CPUs, whose pods share their memory between ranks.
    """
    if gang.device.type != "cuda":
        return None
    return gang.least(torch.cuda.get_device_properties(gang.device).total_memory)


def agree_on_start(
    job: JobFile, work: WorkDirectory, store: ObjectStore, gang: Gang, hand_over: HandOver, split: Split
) -> StartingPoint:
    """Learn from rank 0 which checkpoint the gang goes on from, and fetch what this pod needs of it.

    Where it proves damaged in any pod, rank 0 chooses the one before.
    """
    chosen = hand_over.start
    unusable: dict[Place, str] = {}
    while True:
        topic = f"start/{len(unusable)}"
        told = gang.hear_leader(topic, chosen.model_dump_json() if chosen else None)
        start = StartingPoint.model_validate_json(told)
        checkpoint = start.checkpoint
        if checkpoint is None:
            return start
        try:
            gang.do_together(f"{topic}/files", lambda: fetch_share(job, work, store, gang, checkpoint, split))  # noqa: B023
            return start
        except CheckpointCorrupt as error:
            unusable[place_of(layout_of_run(job.layout, checkpoint.run), checkpoint)] = error.message
        if gang.is_leader:
            chosen = restore_starting_point(
                job,
                work,
                store,
                hand_over.run_file,
                start.incarnation,
                ranks=gang.ranks_of_pod,
                world_size=gang.world_size,
                unusable=unusable,
            )


def fetch_share(
    job: JobFile,
    work: WorkDirectory,
    store: ObjectStore,
    gang: Gang,
    checkpoint: CheckpointManifest,
    split: Split,
) -> None:
    """Download what the ranks of this pod need, once a pod; in the first one the launcher has done nearly all of it."""
    if gang.local_rank != 0:
        return
    is_needed = decide_needed(
        (checkpoint.world_size, checkpoint.split), gang.ranks_of_pod, gang.world_size, split
    )
    if not gang.is_leader:
        logger.info("fetching the checkpoint of step %d, which rank 0 goes on from", checkpoint.step)
        shutil.rmtree(work.resume, ignore_errors=True)
    download_checkpoint(
        store,
        layout_of_run(job.layout, checkpoint.run),
        checkpoint,
        work.resume,
        wanted=lambda name: is_needed(name) and not (work.resume / name).exists(),
    )

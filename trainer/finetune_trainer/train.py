"""The train stage of one rank, top to bottom. The launcher has brought model, rows and checkpoint onto the disk."""

from __future__ import annotations

import logging
from collections.abc import Callable

from peft import PeftModel
from transformers import TrainerCallback, set_seed

from finetune_api.job_file import JobFile
from finetune_api.progress import CheckpointReport, EffectiveReport
from finetune_api.spec import Checkpoints
from finetune_api.termination import TrainedFacts
from finetune_trainer.adapters import add_adapter, restore_adapter, save_adapter
from finetune_trainer.attempt import Attempt, join_attempt
from finetune_trainer.callbacks.checkpointing import (
    CheckpointCallback,
    CheckpointSink,
    ResumeCallback,
    RunIdentity,
    on_local_disk,
)
from finetune_trainer.callbacks.heartbeat import HeartbeatCallback
from finetune_trainer.callbacks.metrics import MetricsCallback
from finetune_trainer.callbacks.preemption import PreemptionCallback
from finetune_trainer.callbacks.progress import ProgressCallback
from finetune_trainer.checkpoint_schedule import CheckpointSchedule
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.rows import Split
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.errors import Preempted
from finetune_trainer.gang import leave_gang
from finetune_trainer.heartbeat import Phase
from finetune_trainer.memory_errors import naming_micro_batch
from finetune_trainer.model import load_base_model
from finetune_trainer.progress_reporter import ProgressEndpoint, ProgressReporter
from finetune_trainer.run_metrics import publish_metrics
from finetune_trainer.stop_request import StopRequest
from finetune_trainer.trained import commit_trained
from finetune_trainer.training import FineTuneTrainer, StepMeter, training_arguments
from finetune_trainer.work_directory import WorkDirectory

logger = logging.getLogger(__name__)

# How far ahead the effective gradient accumulation is looked up for the report.
_STEPS_LOOKED_AT = 100


def train(job: JobFile, work: WorkDirectory, stop: StopRequest) -> TrainedFacts:
    """Train from the launcher's checkpoint to the end of the run, and commit the adapter. Raises StageErrors."""
    attempt = join_attempt(job, work)
    model = load_model(attempt)
    batches = plan_batches(attempt)
    meter, checkpoints = StepMeter(), NewestCheckpoint(attempt.resumed_from)
    if len(batches) > 0:
        run_steps(attempt, model, batches, meter, checkpoints, stop)
    facts = commit_result(attempt, model, meter, checkpoints)
    leave_gang(attempt.gang)
    return facts


class NewestCheckpoint:
    """The newest committed checkpoint, and those who want to hear of the next."""

    def __init__(self, report: CheckpointReport | None) -> None:
        self.report = report
        self.listeners: list[Callable[[CheckpointReport], None]] = []

    def note(self, report: CheckpointReport) -> None:
        """Take a new one."""
        self.report = report
        for listener in self.listeners:
            listener(report)


def load_model(attempt: Attempt) -> PeftModel:
    """Load the base, add the adapter: the same on every rank, from the seed or from the checkpoint."""
    spec, work = attempt.job.spec, attempt.work
    base = load_base_model(work.model, attempt.precision.weights, attempt.gang.device)
    set_seed(spec.training.seed)
    facts = attempt.run_file.model
    model = add_adapter(base, spec.method.lora, facts.target_modules, spec.model.source)
    if attempt.snapshot is not None:
        restore_adapter(model, work.resume)
    trainable, total = model.get_nb_trainable_parameters()
    logger.info(
        "training %s of %s parameters (LoRA rank %d on %s), weights %s on %s",
        f"{trainable:,}",
        f"{total:,}",
        spec.method.lora.rank,
        ", ".join(facts.target_modules),
        str(attempt.precision.weights).removeprefix("torch."),
        attempt.gang.device,
    )
    return model


def plan_batches(attempt: Attempt) -> StepBatches:
    """Lay out what is left of the run."""
    training, gang, bound = attempt.job.spec.training, attempt.gang, attempt.micro_batch_bound
    rows = PreparedRows(attempt.work.data / split_file_name(Split.TRAIN))
    if bound.halvings:
        logger.info("%s, because earlier attempts ran out of memory", bound.describe())
    return StepBatches(
        rows=rows,
        order=order_rows(rows.weights, training.global_batch_size, training.seed),
        first_step=attempt.snapshot.step if attempt.snapshot else 0,
        total_steps=attempt.run_file.total_steps,
        rank=gang.rank,
        world_size=gang.world_size,
        micro_batch_tokens=bound.tokens,
    )


def run_steps(
    attempt: Attempt,
    model: PeftModel,
    batches: StepBatches,
    meter: StepMeter,
    checkpoints: NewestCheckpoint,
    stop: StopRequest,
) -> None:
    """Run the optimizer steps. Raises Preempted after saving when the pod is told to go."""
    reporter = ProgressReporter(ProgressEndpoint.from_environment() if attempt.gang.is_leader else None)
    schedule = CheckpointSchedule(attempt.job.spec.checkpoints)
    trainer = FineTuneTrainer(
        model=model,
        args=training_arguments(
            attempt.job.spec.training,
            attempt.gang,
            total_steps=batches.total_steps,
            warmup_steps=attempt.run_file.warmup_steps,
            autocast_bf16=attempt.precision.autocast_bf16,
            directory=attempt.work.root / "trainer",
        ),
        batches=batches,
        gang=attempt.gang,
        meter=meter,
        should_stop=stop.is_made,
        should_save=lambda: attempt.gang.is_leader and schedule.has_waited_long(),
        callbacks=build_callbacks(attempt, batches, meter, checkpoints, schedule, reporter),
    )
    try:
        ensure_not_stopped(attempt, stop)
        longest_row_tokens = attempt.run_file.dataset.longest_row_tokens
        with naming_micro_batch(
            attempt.micro_batch_bound, longest_row_tokens, lambda: int(trainer.state.global_step)
        ):
            trainer.train()
    finally:
        reporter.close()
    if meter.figures.step < batches.total_steps:
        raise preempted(meter.figures.step, batches.total_steps, attempt.job.spec.checkpoints)


def preempted(step: int, total_steps: int, settings: Checkpoints) -> Preempted:
    """Say what is left of a run that was told to go."""
    told = f"The pod was told to go after step {step} of {total_steps}"
    if settings.on_preemption:
        return Preempted(f"{told}, which is saved; the next attempt goes on from there.", step=step)
    return Preempted(
        f"{told}; the next attempt goes on from the newest checkpoint, because checkpoints.onPreemption is false.",
        step=step,
    )


def build_callbacks(
    attempt: Attempt,
    batches: StepBatches,
    meter: StepMeter,
    checkpoints: NewestCheckpoint,
    schedule: CheckpointSchedule,
    reporter: ProgressReporter,
) -> list[TrainerCallback]:
    """What happens beside the mathematics, in this order."""
    job, work, gang = attempt.job, attempt.work, attempt.gang
    facts = attempt.run_file
    identity = RunIdentity(
        attempt=job.attempt,
        incarnation=attempt.start.incarnation,
        model_digest=facts.model.digest,
        dataset_digest=facts.dataset.digest,
    )
    callbacks: list[TrainerCallback] = [
        ResumeCallback(work.resume, attempt.snapshot, gang, job.spec.training.seed),
        PreemptionCallback(meter),
        CheckpointCallback(
            CheckpointSink(attempt.store, job.layout, identity, job.spec.checkpoints.keep_last),
            gang,
            meter,
            attempt.heart,
            schedule=schedule,
            directory=work.checkpoint,
            metrics=work.metrics,
            on_commit=checkpoints.note,
        ),
    ]
    if gang.is_leader:
        progress = ProgressCallback(
            reporter,
            meter,
            effective=effective_settings(batches),
            logging_steps=job.spec.training.logging_steps,
            resumed_from=checkpoints.report,
        )
        checkpoints.listeners.append(progress.note_checkpoint)
        callbacks.insert(0, MetricsCallback(work.metrics, meter, job.attempt))
        callbacks.append(progress)
    return [*callbacks, HeartbeatCallback(attempt.heart)]


def effective_settings(batches: StepBatches) -> EffectiveReport:
    """What really runs; the accumulation is the largest of the next steps."""
    steps = range(batches.first_step, min(batches.total_steps, batches.first_step + _STEPS_LOOKED_AT))
    return EffectiveReport(
        micro_batch_tokens=batches.micro_batch_tokens,
        gradient_accumulation=max(batches.micro_batches_of_step(step) for step in steps),
        world_size=batches.world_size,
        strategy="DDP" if batches.world_size > 1 else "None",
    )


def ensure_not_stopped(attempt: Attempt, stop: StopRequest) -> None:
    """Raise Preempted on every rank if any was told to go while it was still loading."""
    (requests,) = attempt.gang.total(float(stop.is_made()))
    if requests > 0:
        raise Preempted(
            "The pod was told to go before its first step. The next attempt starts from the same place.",
            step=attempt.snapshot.step if attempt.snapshot else 0,
        )


def commit_result(
    attempt: Attempt, model: PeftModel, meter: StepMeter, checkpoints: NewestCheckpoint
) -> TrainedFacts:
    """Put the trained adapter into the store and declare training done."""
    work, layout = attempt.work, attempt.job.layout
    facts = TrainedFacts(
        step=attempt.run_file.total_steps,
        loss=meter.newest.loss if meter.newest else None,
        checkpoint_uri=checkpoints.report.uri if checkpoints.report else None,
    )

    def commit() -> None:
        publish_metrics(attempt.store, layout, work.metrics, attempt.start.incarnation)
        commit_trained(attempt.store, layout, work.trained, facts, attempt.start.incarnation)

    attempt.heart.enter(Phase.COMMITTING)
    attempt.gang.let_leader("trained/files", on_local_disk(lambda: save_adapter(model, work.trained)))
    attempt.gang.let_leader("trained/commit", commit)
    return facts

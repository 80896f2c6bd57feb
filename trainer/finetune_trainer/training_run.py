"""One attempt's share of a run: the trainer over its steps, what happens beside the mathematics, the result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version

from transformers import TrainerCallback

from finetune_api.progress import CheckpointReport, EffectiveReport
from finetune_api.spec import Checkpoints, Task
from finetune_api.termination import TrainedFacts
from finetune_trainer.attempt import Attempt
from finetune_trainer.callbacks.adalora import AdaLoRACallback
from finetune_trainer.callbacks.checkpointing import CheckpointCallback, ResumeCallback
from finetune_trainer.callbacks.evaluation import EvaluationCallback
from finetune_trainer.callbacks.heartbeat import HeartbeatCallback
from finetune_trainer.callbacks.metrics import MetricsCallback
from finetune_trainer.callbacks.preemption import PreemptionCallback
from finetune_trainer.callbacks.progress import ProgressCallback
from finetune_trainer.checkpoint_saver import CheckpointSaver, RunIdentity, on_local_disk
from finetune_trainer.checkpoint_schedule import CheckpointSchedule
from finetune_trainer.data.prepared import PreparedRows, split_file_name
from finetune_trainer.data.rows import Split
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.early_stopping import EarlyStoppingRule, EarlyStoppingState
from finetune_trainer.engines import build_engine
from finetune_trainer.engines.replicated import ReplicatedState
from finetune_trainer.errors import Preempted
from finetune_trainer.grace import grace_seconds
from finetune_trainer.heartbeat import Phase
from finetune_trainer.measuring import lay_out_evaluation, measure
from finetune_trainer.memory_errors import naming_micro_batch
from finetune_trainer.progress_reporter import ProgressEndpoint, ProgressReporter
from finetune_trainer.run_file import config_digest_of
from finetune_trainer.run_metrics import publish_metrics
from finetune_trainer.saving_outlook import SavingOutlook
from finetune_trainer.schedules import plan_schedule
from finetune_trainer.snapshot import LiveState
from finetune_trainer.step_figures import EvaluationFigures, StepMeter, StepSignals, name_sources
from finetune_trainer.stop_request import StopRequest
from finetune_trainer.tracking import RunTracking, after_commit, open_tracking
from finetune_trainer.trained import commit_trained
from finetune_trainer.training import FineTuneTrainer, training_arguments
from finetune_trainer.tuned_model import TunedModel

logger = logging.getLogger(__name__)

# How far ahead the effective gradient accumulation is looked up for the report.
_STEPS_LOOKED_AT = 100
# Whose releases a checkpoint names: another one may compute other last digits.
_COMPUTING_PACKAGES = ("torch", "transformers", "peft", "accelerate")


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


class TrainingRun:
    """One attempt's share of a run: its trainer, and what happens beside the mathematics."""

    def __init__(self, attempt: Attempt, tuned: TunedModel, batches: StepBatches) -> None:
        self._attempt = attempt
        self._tuned = tuned
        self._batches = batches
        self._meter = StepMeter()
        self._checkpoints = NewestCheckpoint(attempt.resumed_from)
        self._schedule = CheckpointSchedule(attempt.job.spec.checkpoints)
        self._rule = early_stopping_rule(attempt)
        self._identity = identify(attempt)
        self._saver = self._build_saver()
        self._stop: StopRequest | None = None
        self._progress: ProgressCallback | None = None
        self._tracking = self._open_tracking()
        endpoint = ProgressEndpoint.from_environment() if attempt.gang.is_leader else None
        self._reporter = ProgressReporter(endpoint)
        self._trainer = self._build_trainer()

    @property
    def has_steps_left(self) -> bool:
        """Whether there is something to train: a run that ended early goes no further."""
        return len(self._batches) > 0 and not (self._rule is not None and self._rule.state.has_ended)

    def take_steps(self, stop: StopRequest) -> None:
        """Run the optimizer steps. Raises Preempted after saving when the pod is told to go."""
        attempt, trainer = self._attempt, self._trainer
        self._stop = stop
        for callback in self._build_callbacks():
            trainer.add_callback(callback)
        ensure_not_stopped(attempt, stop)
        longest_row_tokens = attempt.run_file.dataset.longest_row_tokens
        with naming_micro_batch(
            attempt.micro_batch_bound, longest_row_tokens, lambda: int(trainer.state.global_step)
        ):
            trainer.train()
        if self._meter.figures.stop_requested and not self._is_done:
            raise preempted(self._meter.figures.step, self._batches.total_steps, attempt.job.spec.checkpoints)

    def commit_result(self) -> TrainedFacts:
        """Put what was trained into the store and declare training done."""
        attempt, work, layout = self._attempt, self._attempt.work, self._attempt.job.layout
        newest = self._meter.newest
        facts = TrainedFacts(
            step=newest.step if newest else self._batches.first_step,
            loss=newest.loss if newest else None,
            checkpoint_uri=self._checkpoints.report.uri if self._checkpoints.report else None,
        )

        # Without steps nothing was laid out over the processes.
        state = self._trainer.engine.state if newest else ReplicatedState(self._tuned.model)

        def save() -> None:
            self._tuned.save_result(work.trained, state, is_leader=attempt.gang.is_leader)

        def commit() -> None:
            publish_metrics(attempt.store, layout, work.metrics, attempt.start.incarnation)
            if self._tracking is not None:
                self._tracking.publish()
            commit_trained(attempt.store, layout, work.trained, facts, attempt.start.incarnation)

        attempt.heart.enter(Phase.COMMITTING)
        attempt.gang.do_together("trained/files", on_local_disk(save))
        attempt.gang.let_leader("trained/commit", commit)
        return facts

    def close(self) -> None:
        """Send what still waits to operator and trackers."""
        if self._tracking is not None:
            self._tracking.callback.close(is_done=False)
        self._reporter.close()

    @property
    def _is_done(self) -> bool:
        has_ended_early = self._rule is not None and self._rule.state.has_ended
        return has_ended_early or self._meter.figures.step >= self._batches.total_steps

    def _build_trainer(self) -> FineTuneTrainer:
        attempt, facts = self._attempt, self._attempt.run_file
        spec = attempt.job.spec
        schedule = plan_schedule(
            spec.training.scheduler, warmup_steps=facts.warmup_steps, decay_steps=facts.decay_steps
        )
        allocation = self._tuned.allocation
        return FineTuneTrainer(
            model=self._tuned.model,
            args=training_arguments(
                spec.training,
                attempt.gang,
                total_steps=self._batches.total_steps,
                schedule=schedule,
                precision=attempt.precision,
                directory=attempt.work.root / "trainer",
            ),
            batches=self._batches,
            gang=attempt.gang,
            meter=self._meter,
            build_engine=partial(
                build_engine,
                attempt.plan,
                spec.training,
                spec.parallelism.deepspeed,
                attempt.precision,
                attempt.gang,
            ),
            source_names=name_sources([source.source or "inline" for source in spec.dataset.train]),
            penalty=allocation.penalty if allocation is not None else None,
            signals=self._signals,
        )

    def _signals(self) -> StepSignals:
        told_to_go = self._stop is not None and self._stop.is_made()
        if not self._attempt.gang.is_leader:
            return StepSignals(stop_requested=told_to_go, save_failed=self._saver.has_failed())
        return StepSignals(
            stop_requested=told_to_go,
            save_requested=self._schedule.has_waited_long(),
            saving=self._saver.saving(),
            save_failed=self._saver.has_failed(),
        )

    def _build_saver(self) -> CheckpointSaver:
        attempt, gang = self._attempt, self._attempt.gang
        ranks_per_node = gang.world_size // attempt.job.spec.parallelism.nodes
        return CheckpointSaver(
            gang,
            attempt.work,
            attempt.heart,
            self._tuned,
            self._live_state,
            rule=self._rule,
            identity=self._identity,
            settings=attempt.job.spec.checkpoints,
            nodes=attempt.job.spec.parallelism.nodes,
            node=gang.rank // ranks_per_node,
        )

    def _build_callbacks(self) -> Sequence[TrainerCallback]:
        """What happens beside the mathematics, in this order: decide, write down, save, tell."""
        attempt, work, spec = self._attempt, self._attempt.work, self._attempt.job.spec
        callbacks: list[TrainerCallback] = [
            ResumeCallback(
                work.resume,
                attempt.snapshot,
                attempt.gang,
                self._live_state,
                seed=spec.training.seed,
                rule=self._rule,
            ),
            PreemptionCallback(self._meter),
        ]
        if self._tuned.allocation is not None:
            callbacks.append(AdaLoRACallback(self._tuned.allocation))
        if attempt.run_file.evaluation_steps is not None:
            callbacks.append(self._evaluation_callback(attempt.run_file.evaluation_steps))
        if attempt.gang.is_leader:
            callbacks.append(MetricsCallback(work.metrics, self._meter, attempt.job.attempt))
            callbacks += [self._tracking.callback] if self._tracking is not None else []
        callbacks.append(self._checkpoint_callback())
        if attempt.gang.is_leader:
            callbacks.append(self._progress_callback())
        return [*callbacks, HeartbeatCallback(attempt.heart)]

    def _checkpoint_callback(self) -> CheckpointCallback:
        attempt = self._attempt
        self._checkpoints.listeners.append(after_commit(self._tracking))
        return CheckpointCallback(
            self._saver,
            self._schedule,
            self._meter,
            attempt.heart,
            world_size=attempt.gang.world_size,
            split=attempt.plan.split,
            identity=self._identity,
            rule=self._rule,
            on_commit=self._checkpoints.note,
            on_wait=lambda: self._progress.repeat() if self._progress is not None else None,
        )

    def _evaluation_callback(self, every_steps: int) -> EvaluationCallback:
        attempt, spec = self._attempt, self._attempt.job.spec
        batches = lay_out_evaluation(
            PreparedRows(attempt.work.data / split_file_name(Split.VALIDATION)),
            attempt.gang,
            micro_batch_tokens=self._batches.micro_batch_tokens,
            task=spec.task,
            is_packed=self._batches.is_packed,
        )
        class_count = len(spec.labels or ()) if spec.task is Task.SEQUENCE_CLASSIFICATION else 0

        def evaluate(step: int) -> EvaluationFigures:
            model = self._trainer.model_wrapped
            return measure(model, batches, attempt.gang, step=step, class_count=class_count)

        return EvaluationCallback(
            evaluate, self._meter, attempt.heart, every_steps=every_steps, rule=self._rule
        )

    def _progress_callback(self) -> ProgressCallback:
        progress = ProgressCallback(
            self._reporter,
            self._meter,
            effective=effective_settings(self._attempt, self._batches),
            logging_steps=self._attempt.job.spec.training.logging_steps,
            resumed_from=self._checkpoints.report,
            outlook=SavingOutlook(
                self._attempt.job.spec.checkpoints,
                self._schedule,
                self._saver.report,
                resumed_from=self._checkpoints.report,
                passed_over=self._attempt.start.passed_over,
                grace_seconds=grace_seconds(),
            ),
        )
        self._checkpoints.listeners.append(progress.note_checkpoint)
        self._progress = progress
        return progress

    def _live_state(self) -> LiveState:
        return LiveState(self._trainer.engine, self._trainer.lr_scheduler)

    def _open_tracking(self) -> RunTracking | None:
        if not self._attempt.gang.is_leader:
            return None
        effective = effective_settings(self._attempt, self._batches) if len(self._batches) > 0 else None
        return open_tracking(
            self._attempt.job,
            self._attempt.work,
            self._meter,
            first_step=self._batches.first_step,
            resolved=effective.model_dump(by_alias=True) if effective is not None else {},
        )


def identify(attempt: Attempt) -> RunIdentity:
    """What this attempt's checkpoints say of the run."""
    facts = attempt.run_file
    return RunIdentity(
        attempt=attempt.job.attempt,
        incarnation=attempt.start.incarnation,
        model_digest=facts.model.digest,
        dataset_digest=facts.dataset.digest,
        config_digest=config_digest_of(facts),
        versions={package: version(package) for package in _COMPUTING_PACKAGES},
    )


def early_stopping_rule(attempt: Attempt) -> EarlyStoppingRule | None:
    """The rule by which the run may end early, where the checkpoint has it."""
    settings, snapshot = attempt.job.spec.training.early_stopping, attempt.snapshot
    if settings is None:
        return None
    state = snapshot.early_stopping if snapshot is not None else None
    return EarlyStoppingRule(settings, state or EarlyStoppingState())


def preempted(step: int, total_steps: int, settings: Checkpoints) -> Preempted:
    """Say what is left of a run that was told to go."""
    told = f"The pod was told to go after step {step} of {total_steps}"
    if settings.on_preemption:
        return Preempted(f"{told}, which is saved; the next attempt goes on from there.", step=step)
    return Preempted(
        f"{told}; the next attempt goes on from the newest checkpoint, because checkpoints.onPreemption is false.",
        step=step,
    )


def effective_settings(attempt: Attempt, batches: StepBatches) -> EffectiveReport:
    """What really runs; the accumulation is the largest of the next steps."""
    steps = range(batches.first_step, min(batches.total_steps, batches.first_step + _STEPS_LOOKED_AT))
    return EffectiveReport(
        micro_batch_tokens=batches.micro_batch_tokens,
        gradient_accumulation=max(batches.micro_batches_of_step(step) for step in steps),
        world_size=batches.world_size,
        strategy=attempt.plan.name,
    )


def ensure_not_stopped(attempt: Attempt, stop: StopRequest) -> None:
    """Raise Preempted on every rank if any was told to go while it was still loading."""
    (requests,) = attempt.gang.total(float(stop.is_made()))
    if requests > 0:
        raise Preempted(
            "The pod was told to go before its first step. The next attempt starts from the same place.",
            step=attempt.snapshot.step if attempt.snapshot else 0,
        )

"""One rank of a cell: what train.py does between the launcher's hand-over and the store, with the same functions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import TrainerCallback

from finetune_api.spec import Task
from finetune_trainer.callbacks.adalora import AdaLoRACallback
from finetune_trainer.callbacks.checkpointing import ResumeCallback
from finetune_trainer.callbacks.evaluation import EvaluationCallback
from finetune_trainer.checkpoint_files import decide_needed
from finetune_trainer.data.batches import order_rows
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.early_stopping import EarlyStoppingRule
from finetune_trainer.engines import build_engine
from finetune_trainer.gang import Gang, join_gang, leave_gang
from finetune_trainer.heartbeat import Heart
from finetune_trainer.losses import replace_forward
from finetune_trainer.measuring import lay_out_evaluation, measure
from finetune_trainer.model import decide_precision, packs_rows
from finetune_trainer.model_loading import ModelRecipe, load_tuned_model
from finetune_trainer.parallelism import ParallelPlan, decide_plan, needs_process_group
from finetune_trainer.schedules import plan_schedule
from finetune_trainer.snapshot import (
    LiveState,
    load_snapshot,
    save_random_state,
    save_snapshot,
)
from finetune_trainer.state_files import save_state
from finetune_trainer.step_figures import StepMeter, name_sources
from finetune_trainer.training import FineTuneTrainer, training_arguments
from finetune_trainer.tuned_model import TunedModel
from tests.matrix.runner import Cell, Outcome


def train_rank(cell: Cell, rank: int) -> Outcome:
    """Train, save folder/trained, and return the figures."""
    torch.set_num_threads(1)
    spec = cell.spec
    gang = join_gang(
        timedelta(seconds=60), needs_group=needs_process_group(spec.parallelism, cell.world_size)
    )
    if cell.fetches_shares:
        cell = replace(cell, checkpoint=_fetch_share(cell, gang))
    tuned = _load(cell, gang)
    batches = _batches(cell, gang)
    meter = StepMeter()
    trainer = _trainer(cell, gang, tuned, batches, meter)
    live = lambda: LiveState(trainer.engine, trainer.lr_scheduler)  # noqa: E731
    rule = EarlyStoppingRule(spec.training.early_stopping) if spec.training.early_stopping else None
    snapshot = load_snapshot(cell.checkpoint) if cell.checkpoint else None
    recorder = _Recorder(meter)
    directory = cell.checkpoint or cell.folder
    resume = ResumeCallback(directory, snapshot, gang, live, seed=spec.training.seed, rule=rule)
    callbacks: list[TrainerCallback] = [resume]
    if tuned.allocation is not None:
        callbacks.append(AdaLoRACallback(tuned.allocation))
    if cell.evaluation_rows is not None:
        callbacks.append(_evaluation(cell, gang, trainer, batches, meter, rule, rank))
    callbacks.append(recorder)
    if cell.save_after is not None:
        callbacks.append(_SaveAfter(cell, gang, tuned, live, rule))
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    tuned.save_result(cell.folder / "trained", trainer.engine.state, is_leader=gang.is_leader)
    leave_gang(gang)
    return recorder.outcome


def _fetch_share(cell: Cell, gang: Gang) -> Path:
    assert cell.checkpoint is not None
    split = _plan(cell, gang).split
    is_needed = decide_needed((gang.world_size, split), [gang.rank], gang.world_size, split)
    folder = cell.folder / f"share-{gang.rank}"
    folder.mkdir()
    for path in cell.checkpoint.iterdir():
        if is_needed(path.name):
            shutil.copyfile(path, folder / path.name)
    return folder


def _load(cell: Cell, gang: Gang) -> TunedModel:
    spec = cell.spec
    tuned = load_tuned_model(
        ModelRecipe(
            spec=spec,
            facts=cell.facts,
            base=cell.model,
            plan=_plan(cell, gang),
            precision=decide_precision(spec.training.precision, gang.device.type, spec.method.type),
            device=gang.device,
            total_steps=cell.steps,
            earlier_adapter=cell.earlier_adapter,
            checkpoint=cell.checkpoint,
        )
    )
    if cell.chunk_positions is not None:
        base = tuned.model.get_base_model() if isinstance(tuned.model, PeftModel) else tuned.model
        replace_forward(base, spec.task, cell.chunk_positions)
    return tuned


def _plan(cell: Cell, gang: Gang) -> ParallelPlan:
    return decide_plan(cell.spec, gang.world_size, None, lambda _: 0)


def _batches(cell: Cell, gang: Gang) -> StepBatches:
    spec, rows = cell.spec, PreparedRows(cell.rows)
    return StepBatches(
        rows=rows,
        order=order_rows(rows.weights, spec.training.global_batch_size, spec.training.seed),
        first_step=load_snapshot(cell.checkpoint).step if cell.checkpoint else 0,
        total_steps=cell.steps,
        rank=gang.rank,
        world_size=gang.world_size,
        micro_batch_tokens=cell.micro_batch_tokens,
        task=spec.task,
        is_packed=packs_rows(spec.method, spec.training.packing),
    )


def _trainer(
    cell: Cell, gang: Gang, tuned: TunedModel, batches: StepBatches, meter: StepMeter
) -> FineTuneTrainer:
    spec = cell.spec
    precision = decide_precision(spec.training.precision, gang.device.type, spec.method.type)
    plan = _plan(cell, gang)
    schedule = plan_schedule(
        spec.training.scheduler, warmup_steps=cell.warmup_steps, decay_steps=cell.decay_steps
    )
    arguments = training_arguments(
        spec.training,
        gang,
        total_steps=cell.steps,
        schedule=schedule,
        precision=precision,
        directory=cell.folder / "trainer",
    )
    allocation = tuned.allocation
    trainer = FineTuneTrainer(
        model=tuned.model,
        args=arguments,
        batches=batches,
        gang=gang,
        meter=meter,
        build_engine=partial(build_engine, plan, spec.training, spec.parallelism.deepspeed, precision, gang),
        source_names=name_sources([str(number) for number in range(batches.rows.source_count)]),
        penalty=allocation.penalty if allocation is not None else None,
    )
    if precision.autocast is torch.float16:
        # accelerate 1.15 leaves autocast and loss scaling out on CPUs, without a word: accelerator.py, `native_amp`.
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    return trainer


def _evaluation(
    cell: Cell,
    gang: Gang,
    trainer: FineTuneTrainer,
    batches: StepBatches,
    meter: StepMeter,
    rule: EarlyStoppingRule | None,
    rank: int,
) -> EvaluationCallback:
    assert cell.evaluation_rows is not None and cell.evaluation_steps is not None
    held_out = lay_out_evaluation(
        PreparedRows(cell.evaluation_rows),
        gang,
        micro_batch_tokens=cell.micro_batch_tokens,
        task=cell.spec.task,
        is_packed=batches.is_packed,
    )
    is_classifying = cell.spec.task is Task.SEQUENCE_CLASSIFICATION
    class_count = len(cell.spec.labels or ()) if is_classifying else 0
    return EvaluationCallback(
        lambda step: measure(trainer.model_wrapped, held_out, gang, step=step, class_count=class_count),
        meter,
        Heart(cell.folder / f"heart-{rank}.json"),
        every_steps=cell.evaluation_steps,
        rule=rule,
    )


class _Recorder(TrainerCallback):  # type: ignore[misc]
    def __init__(self, meter: StepMeter) -> None:
        self._meter = meter
        self.outcome = Outcome([], [], [])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        figures = self._meter.figures
        self.outcome.losses.append(figures.loss)
        self.outcome.norms.append(figures.grad_norm)
        self.outcome.rates.append(figures.learning_rate)
        self.outcome.loss_by_source.append(figures.loss_by_source)
        if (evaluation := self._meter.evaluation_of_step) is not None:
            self.outcome.evaluations.append({"step": evaluation.step, **evaluation.as_metrics()})


class _SaveAfter(TrainerCallback):  # type: ignore[misc]
    """A checkpoint as CheckpointCallback writes it, without the store."""

    def __init__(
        self, cell: Cell, gang: Gang, tuned: TunedModel, live: Any, rule: EarlyStoppingRule | None
    ) -> None:
        self._cell, self._gang, self._tuned, self._live, self._rule = cell, gang, tuned, live, rule

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != self._cell.save_after:
            return
        gang, directory = self._gang, self._cell.folder / "checkpoint"
        directory.mkdir(parents=True, exist_ok=True)
        save_random_state(directory, gang)
        live = self._live()
        save_state(directory, live.engine.state.fragments(), gang.rank)
        if gang.is_leader:
            self._tuned.save_method_state(directory)
            save_snapshot(directory, state.global_step, live, gang, self._rule.state if self._rule else None)

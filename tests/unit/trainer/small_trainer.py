"""A trainer over a tiny model in the test's own process: the train stage's parts without launcher, store and ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import TrainerCallback

from finetune_api.spec import FineTuneJobSpec, Optimizer
from finetune_trainer.callbacks.adalora import AdaLoRACallback
from finetune_trainer.callbacks.checkpointing import ResumeCallback
from finetune_trainer.callbacks.metrics import MetricsCallback
from finetune_trainer.callbacks.preemption import PreemptionCallback
from finetune_trainer.data.batches import DataOrder
from finetune_trainer.data.prepared import (
    SCHEMA,
    PreparedRows,
    PreparedRowsWriter,
    TokenizedRow,
    tokenized_columns,
)
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.engines import build_engine
from finetune_trainer.gang import Gang
from finetune_trainer.model import ComputePrecision, decide_precision, packs_rows
from finetune_trainer.model_loading import ModelRecipe, load_tuned_model
from finetune_trainer.parallelism import ParallelPlan, decide_plan
from finetune_trainer.run_file import MethodFacts
from finetune_trainer.schedules import plan_schedule
from finetune_trainer.snapshot import (
    LiveState,
    load_snapshot,
    save_random_state,
    save_snapshot,
)
from finetune_trainer.state_files import save_state
from finetune_trainer.step_figures import StepFigures, StepMeter, StepSignals
from finetune_trainer.training import FineTuneTrainer, training_arguments
from finetune_trainer.tuned_model import TunedModel
from tests.builders.rows import make_rows, write_prepared_rows
from tests.builders.tiny_models import write_model
from tests.matrix.runner import make_spec

CPU = torch.device("cpu")
ALONE = Gang(rank=0, local_rank=0, world_size=1, device=CPU, store=None)
LORA: dict[str, Any] = {"type": "LoRA", "lora": {"rank": 4}}
FULL: dict[str, Any] = {"type": "Full"}
LORA_FACTS = MethodFacts(target_modules=("q_proj", "up_proj"))
LENGTHS = tuple(10 + 3 * number for number in range(20))
STEPS = 6
BATCH = 8
# Fields of a spec that stand beside its blocks.
_BESIDE_BLOCKS = ("task", "labels")


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Keeps the figures of every step."""

    def __init__(self, meter: StepMeter) -> None:
        self.meter = meter
        self.figures: list[StepFigures] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep them."""
        self.figures.append(self.meter.figures)


class SmallTrainer:
    """A run of one process: six steps over twenty rows, unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        method: dict[str, Any] | None = None,
        facts: MethodFacts = LORA_FACTS,
        *,
        rows: PreparedRows | None = None,
        steps: int = STEPS,
        warmup_steps: int = 2,
        decay_steps: int = 0,
        micro_batch_tokens: int = 64,
        precision: ComputePrecision | None = None,
        checkpoint: Path | None = None,
        source_names: Sequence[str] = (),
        signals: Callable[[], StepSignals] = StepSignals,
        **changes: Any,
    ) -> None:
        """`changes` as in make_manifest; those without a block are settings of `training`."""
        self.spec = _spec(method or LORA, changes)
        training = self.spec.training
        self.precision = precision or decide_precision(training.precision, "cpu", self.spec.method.type)
        if not (folder / "base").exists():
            write_model(folder / "base")
        self.tuned = load_tuned(
            folder / "base", self.spec, facts, steps=steps, precision=self.precision, checkpoint=checkpoint
        )
        self.model = self.tuned.model
        self.batches = StepBatches(
            rows or write_prepared_rows(folder / "rows", LENGTHS),
            DataOrder(len(rows) if rows is not None else len(LENGTHS), BATCH, 0),
            first_step=load_snapshot(checkpoint).step if checkpoint else 0,
            total_steps=steps,
            rank=0,
            world_size=1,
            micro_batch_tokens=micro_batch_tokens,
            task=self.spec.task,
            is_packed=packs_rows(self.spec.method, training.packing),
        )
        self.meter = StepMeter()
        self.recorder = Recorder(self.meter)
        self.metrics = folder / "metrics.jsonl"
        schedule = plan_schedule(training.scheduler, warmup_steps=warmup_steps, decay_steps=decay_steps)
        allocation = self.tuned.allocation
        self.trainer = FineTuneTrainer(
            model=self.model,
            args=training_arguments(
                training,
                ALONE,
                total_steps=steps,
                schedule=schedule,
                precision=self.precision,
                directory=folder / "trainer",
            ),
            batches=self.batches,
            gang=ALONE,
            meter=self.meter,
            build_engine=partial(
                build_engine,
                _plan(self.spec),
                training,
                None,
                self.precision,
                ALONE,
            ),
            source_names=source_names,
            penalty=allocation.penalty if allocation is not None else None,
            signals=signals,
        )
        self._add_callbacks(checkpoint)

    @property
    def live(self) -> LiveState:
        """What a checkpoint is taken of."""
        return LiveState(self.trainer.engine, self.trainer.lr_scheduler)

    def train(self) -> list[StepFigures]:
        """Take all steps; the figures of each."""
        self.trainer.train()
        return self.recorder.figures

    def prepare(self, steps: int = STEPS) -> None:
        """Make optimizer and schedule as the loop does before its first step."""
        self.trainer._prepare_for_training(steps, self.trainer.get_train_dataloader(), None)

    def trained(self) -> dict[str, torch.Tensor]:
        """What is trained, as it is now."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    def save(self, folder: Path) -> Path:
        """What a checkpoint holds, in the order in which it is taken; the folder."""
        folder.mkdir(exist_ok=True)
        save_random_state(folder, ALONE)
        save_state(folder, self.trainer.engine.state.fragments(), ALONE.rank)
        self.tuned.save_method_state(folder)
        save_snapshot(folder, int(self.trainer.state.global_step), self.live, ALONE, None)
        return folder

    def _add_callbacks(self, checkpoint: Path | None) -> None:
        snapshot = load_snapshot(checkpoint) if checkpoint else None
        seed = self.spec.training.seed
        callbacks: list[TrainerCallback] = [
            ResumeCallback(checkpoint or Path(), snapshot, ALONE, lambda: self.live, seed=seed, rule=None),
            PreemptionCallback(self.meter),
            MetricsCallback(self.metrics, self.meter, attempt=1),
        ]
        if self.tuned.allocation is not None:
            callbacks.append(AdaLoRACallback(self.tuned.allocation))
        callbacks.append(self.recorder)
        for callback in callbacks:
            self.trainer.add_callback(callback)


def load_tuned(
    base: Path,
    spec: FineTuneJobSpec,
    facts: MethodFacts = LORA_FACTS,
    *,
    steps: int = STEPS,
    precision: ComputePrecision | None = None,
    checkpoint: Path | None = None,
) -> TunedModel:
    """The base with what the method adds, as train.py's load_model makes it."""
    # Models this small are slower with threads that wait for one another.
    torch.set_num_threads(1)
    return load_tuned_model(
        ModelRecipe(
            spec=spec,
            facts=facts,
            base=base,
            plan=_plan(spec),
            precision=precision or decide_precision(spec.training.precision, "cpu", spec.method.type),
            device=CPU,
            total_steps=steps,
            checkpoint=checkpoint,
        )
    )


def stopping_after(steps: int) -> Callable[[], StepSignals]:
    """Signals of a rank that is told to go in that step."""
    numbers = itertools.count(1)
    return lambda: StepSignals(stop_requested=next(numbers) >= steps)


def write_rows_of_sources(
    path: Path, lengths: Sequence[int], *, sources: int = 1, classes: int | None = None, seed: int = 0
) -> PreparedRows:
    """Rows of several sources in turn; with `classes` each has one of so many."""
    draw = random.Random(seed)
    rows = [
        TokenizedRow(row.input_ids, row.learned, None if classes is None else draw.randrange(classes))
        for row in make_rows(lengths, seed=seed)
    ]
    columns = [
        *tokenized_columns(rows),
        pa.array([number % sources for number in range(len(rows))], pa.int16()),
        pa.array(range(1, len(rows) + 1), pa.int64()),
        pa.array([1.0] * len(rows), pa.float32()),
    ]
    with PreparedRowsWriter(path) as writer:
        writer.add(pa.record_batch(columns, schema=SCHEMA))
    return PreparedRows(path)


def disturb(model: torch.nn.Module, *, seed: int = 1, spread: float = 0.05) -> None:
    """Move what is trained away from where it began, so that an adapter does something."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(spread * torch.randn_like(parameter))


def _plan(spec: FineTuneJobSpec) -> ParallelPlan:
    return decide_plan(spec, 1, None, lambda _: 0)


def _spec(method: dict[str, Any], changes: dict[str, Any]) -> FineTuneJobSpec:
    settings = {
        "maxSteps": STEPS,
        "globalBatchSize": BATCH,
        "learningRate": 1e-2,
        "maxGradNorm": 0.5,
        "weightDecay": 0.1,
        "optimizer": Optimizer.ADAM_W.value,
    }
    wanted = {f"training__{name}": value for name, value in settings.items()}
    own = {
        name if "__" in name or name in _BESIDE_BLOCKS else f"training__{name}": each
        for name, each in changes.items()
    }
    return make_spec(method=method, **{**wanted, **own})

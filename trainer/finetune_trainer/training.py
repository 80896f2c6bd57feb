"""transformers.Trainer as the engine: its loop, optimizer and schedule, with our batches, loss and stop rule.

One item of our batches is a whole optimizer step, so `training_step` walks through its micro-batches itself and a
step may have as many as it needs. Trainer's own saving, resuming and logging stay off: callbacks do that. How
processes share the work is the business of `engines/`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from finetune_api.spec import Optimizer, Training
from finetune_trainer.data.step_batches import StepBatch, StepBatches
from finetune_trainer.engines import Engine
from finetune_trainer.errors import NonFiniteLoss
from finetune_trainer.gang import Gang
from finetune_trainer.losses import LossOutput
from finetune_trainer.model import ComputePrecision
from finetune_trainer.schedules import SchedulePlan
from finetune_trainer.step_figures import Saving, StepFigures, StepMeter, StepSignals, loss_by_source

_OPTIMIZERS = {
    Optimizer.ADAM_W: "adamw_torch_fused",
    Optimizer.ADAM_W_8BIT: "adamw_bnb_8bit",
    Optimizer.PAGED_ADAM_W_8BIT: "paged_adamw_8bit",
}
# fp16's loss scale halves with each gradient that is not finite: more in a row than bits cannot be the scale.
_MOST_OVERFLOWS = 24
Penalty = Callable[[], torch.Tensor]


class _Arguments(TrainingArguments):  # type: ignore[misc] # transformers is not typed for mypy
    """Trainer leaves the model where it is: on the CPU while it is split up."""

    @property
    def place_model_on_device(self) -> bool:
        return False


def training_arguments(
    training: Training,
    gang: Gang,
    *,
    total_steps: int,
    schedule: SchedulePlan,
    precision: ComputePrecision,
    directory: Path,
) -> TrainingArguments:
    """What Trainer does for us, and everything it shall leave alone."""
    on_gpu = gang.device.type == "cuda"
    return _Arguments(
        output_dir=str(directory),
        use_cpu=not on_gpu,
        bf16=precision.autocast is torch.bfloat16,
        fp16=precision.autocast is torch.float16,
        max_steps=total_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=schedule.name,
        lr_scheduler_kwargs=dict(schedule.settings),
        warmup_steps=schedule.warmup_steps,
        optim=_OPTIMIZERS[training.optimizer],
        adam_beta1=training.adam_betas[0],
        adam_beta2=training.adam_betas[1],
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        seed=training.seed,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_backend=("nccl" if on_gpu else "gloo") if gang.world_size > 1 else None,
        # DDP regroups its buckets after the first backward pass, which changes the order of sums after a resume. It
        # does not when it looks for unused parameters: pytorch, reducer.cpp, should_rebuild_buckets().
        ddp_find_unused_parameters=True,
    )


class FineTuneTrainer(Trainer):  # type: ignore[misc] # transformers is not typed for mypy
    """Runs the steps of `batches`, from its first to its last."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        batches: StepBatches,
        gang: Gang,
        meter: StepMeter,
        build_engine: Callable[..., Engine],
        *,
        source_names: Sequence[str] = (),
        penalty: Penalty | None = None,
        signals: Callable[[], StepSignals] = StepSignals,
    ) -> None:
        """`penalty` is added to each step's loss, and shown in no figure. `build_engine` is given the accelerator.

        `signals`: what this rank has to tell the others, asked for once a step.
        """
        super().__init__(model=model, args=args)
        self.remove_callback(PrinterCallback)
        self.add_callback(_FinishStep(self))
        self.engine = build_engine(accelerator=self.accelerator)
        self._batches = batches
        self._gang = gang
        self._meter = meter
        self._source_names = source_names
        self._penalty = penalty
        self._signals = signals
        self._began = time.monotonic()
        self._overflows = 0

    # --- our batches -----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[StepBatch]:
        """Our batches as they are: accelerate must not shard them again."""
        return self._batches  # type: ignore[return-value] # Trainer iterates it and asks its length, no more

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[StepBatch]
    ) -> tuple[int, int, int, int, int, int, int]:
        """Tell the loop that what is left of the run is one pass over our batches."""
        steps, rows = len(self._batches), self._batches.order.row_count
        return 1, steps, rows, rows, 1, steps, args.max_steps

    def get_batch_samples(
        self, epoch_iterator: Iterator[StepBatch], num_batches: int, device: torch.device
    ) -> tuple[list[StepBatch], int]:
        """Take one step, whose learned tokens over all ranks are known without asking them."""
        self._began = time.monotonic()
        step = next(epoch_iterator)
        return [step], step.learned_tokens

    def floating_point_ops(self, inputs: StepBatch) -> int:
        """Not counted: Trainer's estimate knows neither packing nor frozen weights."""
        return 0

    # --- our engine ------------------------------------------------------------------------------------------

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[StepBatch], resume_from_checkpoint: None
    ) -> tuple[nn.Module, DataLoader[StepBatch]]:
        """Lay model and optimizer out over the processes, as the engine does it."""
        self.model_wrapped, self.optimizer = self.engine.prepare(self.model, self.create_optimizer)
        self.create_scheduler(max_steps, optimizer=self.engine.schedules)
        handler = self.callback_handler
        handler.model, handler.optimizer, handler.lr_scheduler = self.model, self.optimizer, self.lr_scheduler
        handler.train_dataloader = train_dataloader
        return self.model_wrapped, train_dataloader

    def _clip_grad_norm(self, model: nn.Module) -> float | None:
        """Clip; stop before a gradient that is not finite reaches the weights."""
        norm = self.engine.clip(self.args.max_grad_norm)
        if norm is not None:
            self._note_norm(norm)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float | None:
        """Known since it was clipped, or known after the step."""
        return grad_norm

    # --- our loss --------------------------------------------------------------------------------------------

    def training_step(
        self,
        model: nn.Module,
        inputs: StepBatch,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute the gradient of the step's loss: the sum over learned tokens / learned tokens of all ranks."""
        model.train()
        learned_tokens = max(1, inputs.learned_tokens)
        # Gradients are averaged over ranks where the sum is wanted.
        scale = self._gang.world_size / learned_tokens
        tally = _Tally(len(self._source_names), self.args.device)
        for index, rows in enumerate(inputs.micro_batches):
            is_last = index == len(inputs.micro_batches) - 1
            rows = rows.to(self.args.device)
            with self.engine.accumulate(is_last=is_last):
                outputs: LossOutput = model(**rows.model_inputs())
                loss = outputs["summed_loss"] * scale
                if is_last and self._penalty is not None:
                    loss = loss + self._penalty()
                self.engine.backward(loss)
            tally.add(outputs, rows.learned.sources)
        return self._note(inputs, tally, learned_tokens)

    def _note(self, inputs: StepBatch, tally: _Tally, learned_tokens: int) -> torch.Tensor:
        total, stop, save, saving, save_failed, *by_source = self._gang.total(
            *tally.summed(), *self._signals().as_numbers(), *tally.by_source()
        )
        step, loss = self.state.global_step + 1, total / learned_tokens
        _ensure_finite("loss", loss, step)
        self._meter.newest = StepFigures(
            step=step,
            epoch=step / self._batches.steps_per_epoch,
            loss=loss,
            learning_rate=float(self.lr_scheduler.get_last_lr()[0]),
            grad_norm=math.nan,
            tokens=inputs.tokens,
            learned_tokens=inputs.learned_tokens,
            seconds=math.nan,
            stop_requested=stop > 0,
            save_requested=save > 0,
            saving=Saving(int(saving)),
            save_failed=save_failed > 0,
            loss_by_source=loss_by_source(self._source_names, by_source),
        )
        return torch.tensor(loss, device=self.args.device)

    def _note_norm(self, norm: float) -> None:
        """Note the gradient's norm before clipping. Where fp16 scales the loss, some are not finite and left out."""
        figures = self._meter.figures
        self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
        if not self.args.fp16 or self._overflows > _MOST_OVERFLOWS:
            _ensure_finite("gradient", norm, figures.step)
        self._meter.newest = replace(figures, grad_norm=norm if math.isfinite(norm) else 0.0)

    def finish_step(self) -> None:
        """Complete the step's figures when it has been taken."""
        if (norm := self.engine.applied_norm()) is not None:
            self._note_norm(norm)
        seconds = time.monotonic() - self._began
        self._meter.newest = replace(self._meter.figures, seconds=seconds)


class _FinishStep(TrainerCallback):  # type: ignore[misc]
    """The first of the callbacks: those after it read the figures."""

    def __init__(self, trainer: FineTuneTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Complete the figures."""
        self._trainer.finish_step()


class _Tally:
    """Adds up a step's losses on the device, so that the host waits for it once a step."""

    def __init__(self, source_count: int, device: torch.device) -> None:
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        # Sum and number of positions of each source; one alone has the step's own loss.
        self._by_source = torch.zeros(
            2, source_count if source_count > 1 else 0, dtype=torch.float64, device=device
        )

    def add(self, outputs: LossOutput, sources: torch.Tensor) -> None:
        """Add a micro-batch."""
        losses = outputs["position_losses"].to(self._total.dtype)
        self._total += losses.sum()
        if self._by_source.numel():
            self._by_source[0].index_add_(0, sources, losses)
            self._by_source[1].index_add_(0, sources, torch.ones_like(losses))

    def summed(self) -> tuple[float]:
        """The sum over all positions."""
        return (float(self._total),)

    def by_source(self) -> list[float]:
        """Sums of all sources, then their numbers of positions."""
        values: list[float] = self._by_source.flatten().tolist()
        return values


def _ensure_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise NonFiniteLoss(
            f"The {what} of step {step} is {value}: training has diverged. Lower spec.training.learningRate or "
            "maxGradNorm, add warm-up steps, or look for broken rows in the data report.",
            step=step - 1,
        )

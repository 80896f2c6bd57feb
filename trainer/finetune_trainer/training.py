"""transformers.Trainer as the engine: its loop, optimizer and schedule, with our batches, loss and stop rule.

One item of our batches is a whole optimizer step, so `training_step` walks through its micro-batches itself and a
step may have as many as it needs. Trainer's own saving, resuming and logging stay off: callbacks do that.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from finetune_api.spec import Scheduler, Training
from finetune_trainer.data.step_batches import PackedRows, StepBatch, StepBatches
from finetune_trainer.errors import NonFiniteLoss
from finetune_trainer.gang import Gang

_SCHEDULERS = {
    Scheduler.COSINE: "cosine",
    Scheduler.LINEAR: "linear",
    Scheduler.CONSTANT: "constant_with_warmup",
}


@dataclass(frozen=True)
class StepFigures:
    """What is known of the optimizer step that just ended, over all ranks. The loss is per learned token."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    learned_tokens: int
    seconds: float
    stop_requested: bool
    save_requested: bool


class StepMeter:
    """Where the trainer leaves the newest step's figures for the callbacks."""

    def __init__(self) -> None:
        self.newest: StepFigures | None = None

    @property
    def figures(self) -> StepFigures:
        """The newest step's figures. There is one whenever a callback's on_step_end runs."""
        assert self.newest is not None
        return self.newest


def training_arguments(
    training: Training,
    gang: Gang,
    *,
    total_steps: int,
    warmup_steps: int,
    autocast_bf16: bool,
    directory: Path,
) -> TrainingArguments:
    """What Trainer does for us, and everything it shall leave alone."""
    on_gpu = gang.device.type == "cuda"
    return TrainingArguments(
        output_dir=str(directory),
        use_cpu=not on_gpu,
        bf16=autocast_bf16,
        max_steps=total_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULERS[training.scheduler],
        warmup_steps=warmup_steps,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
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
        should_stop: Callable[[], bool],
        should_save: Callable[[], bool],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(model=model, args=args, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self._batches = batches
        self._gang = gang
        self._meter = meter
        self._should_stop = should_stop
        self._should_save = should_save
        self._began = time.monotonic()

    # --- our batches -----------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[StepBatch]:
        """Our batches as they are: accelerate must not shard them again."""
        return self._batches  # type: ignore[return-value] # Trainer iterates it and asks its length, no more

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader[StepBatch]
    ) -> tuple[int, int, int, int, int, int, int]:
        """Tell the loop that what is left of the run is one pass over our batches."""
        steps, rows = len(self._batches), self._batches.order.row_count
        return 1, steps, rows, rows, self._batches.order.global_batch_size, steps, args.max_steps

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

    # --- our loss --------------------------------------------------------------------------------------------

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: StepBatch,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Compute the gradient of the step's loss: the sum over learned tokens / learned tokens of all ranks."""
        model.train()
        learned_tokens = max(1, inputs.learned_tokens)
        # DDP averages gradients over ranks where the sum is wanted.
        scale = self._gang.world_size / learned_tokens
        share = 0.0
        for index, rows in enumerate(inputs.micro_batches):
            is_last = index == len(inputs.micro_batches) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                loss = self._summed_loss(model, rows)
                self.accelerator.backward(loss * scale)
            share += loss.item()
        total, stop, save = self._gang.total(share, float(self._should_stop()), float(self._should_save()))
        self._note(inputs, total / learned_tokens, stop_requested=stop > 0, save_requested=save > 0)
        return torch.tensor(total / learned_tokens, device=self.args.device)

    def _summed_loss(self, model: torch.nn.Module, rows: PackedRows) -> torch.Tensor:
        rows = rows.to(self.args.device)
        outputs = model(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids,
            document_lengths=rows.document_lengths,
            prediction_positions=rows.prediction_positions,
            targets=rows.targets,
        )
        loss: torch.Tensor = outputs["loss"]
        return loss

    def _note(self, inputs: StepBatch, loss: float, *, stop_requested: bool, save_requested: bool) -> None:
        step = self.state.global_step + 1
        _ensure_finite("loss", loss, step)
        self._meter.newest = StepFigures(
            step=step,
            epoch=step / self._batches.order.steps_per_epoch,
            loss=loss,
            learning_rate=float(self.lr_scheduler.get_last_lr()[0]),
            grad_norm=math.nan,
            tokens=inputs.tokens,
            learned_tokens=inputs.learned_tokens,
            seconds=math.nan,
            stop_requested=stop_requested,
            save_requested=save_requested,
        )

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:  # noqa: ANN401 (Trainer's own)
        """Note the norm before clipping; stop before a gradient that is not finite reaches the weights."""
        norm = super()._get_grad_norm(model, grad_norm)
        figures = self._meter.figures
        _ensure_finite("gradient", float(norm), figures.step)
        self._meter.newest = replace(figures, grad_norm=float(norm), seconds=time.monotonic() - self._began)
        return norm


def _ensure_finite(what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise NonFiniteLoss(
            f"The {what} of step {step} is {value}: training has diverged. Lower spec.training.learningRate or "
            "maxGradNorm, add warm-up steps, or look for broken rows in the data report.",
            step=step - 1,
        )

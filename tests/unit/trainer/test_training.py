"""Trainer with our batches, loss and schedule: the mathematics of a step, and how it stops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, get_scheduler

from finetune_api.spec import LoRA, Precision, Scheduler, Training
from finetune_trainer.adapters import add_adapter
from finetune_trainer.callbacks.checkpointing import ResumeCallback
from finetune_trainer.callbacks.metrics import MetricsCallback, MetricsLine
from finetune_trainer.callbacks.preemption import PreemptionCallback
from finetune_trainer.data.batches import DataOrder
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.errors import NonFiniteLoss
from finetune_trainer.gang import Gang
from finetune_trainer.model import decide_precision, load_base_model
from finetune_trainer.placement import Placement
from finetune_trainer.rank_processes import rank_environment
from finetune_trainer.snapshot import (
    LiveState,
    encode_random_state,
    load_snapshot,
    restore_optimizer,
    restore_random_state,
    save_random_states,
    save_shared_state,
)
from finetune_trainer.training import FineTuneTrainer, StepFigures, StepMeter, training_arguments
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import write_model

CPU = torch.device("cpu")
ALONE = Gang(rank=0, local_rank=0, world_size=1, device=CPU, store=None)


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Keeps the figures of every step."""

    def __init__(self, meter: StepMeter) -> None:
        self.meter = meter
        self.figures: list[StepFigures] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.figures.append(self.meter.figures)


class Cell:
    """A trainer over a tiny model and twenty rows."""

    def __init__(
        self,
        folder: Path,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        should_save: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> None:
        self.training = Training(
            **{
                "max_steps": 6,
                "global_batch_size": 8,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "max_grad_norm": 0.5,
                "weight_decay": 0.1,
                **settings,
            }
        )
        if not (folder / "base").exists():
            write_model(folder / "base")
        torch.manual_seed(0)
        self.model = add_adapter(
            load_base_model(folder / "base", torch.float32, CPU),
            LoRA(rank=4),
            ["q_proj", "up_proj"],
            "s3://m/b",
        )
        rows = write_prepared_rows(folder / "rows", [10 + 3 * number for number in range(20)])
        self.batches = StepBatches(rows, DataOrder(20, 8, 0), 0, 6, 0, 1, micro_batch_tokens=64)
        self.meter = StepMeter()
        self.recorder = Recorder(self.meter)
        self.metrics = folder / "metrics.jsonl"
        self.trainer = FineTuneTrainer(
            model=self.model,
            args=training_arguments(
                self.training,
                ALONE,
                total_steps=6,
                warmup_steps=self.training.warmup_steps or 0,
                autocast_bf16=False,
                directory=folder / "trainer",
            ),
            batches=self.batches,
            gang=ALONE,
            meter=self.meter,
            should_stop=should_stop,
            should_save=should_save,
            callbacks=[
                ResumeCallback(folder / "resume", None, ALONE, seed=0),
                MetricsCallback(self.metrics, self.meter, attempt=1),
                PreemptionCallback(self.meter),
                self.recorder,
            ],
        )

    def trained(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


def train_by_hand(cell: Cell, scheduler_name: str) -> list[float]:
    """The loop of a text book: whole steps at once, torch's own parts."""
    parameters = [parameter for parameter in cell.model.parameters() if parameter.requires_grad]
    settings = cell.training
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.adam_betas[0], settings.adam_betas[1]),
        eps=1e-8,
    )
    schedule = get_scheduler(scheduler_name, optimizer, num_warmup_steps=2, num_training_steps=6)
    losses = []
    for step in range(6):
        batch = StepBatches(cell.batches.rows, cell.batches.order, 0, 6, 0, 1, 100_000).step_batch(step)
        (rows,) = batch.micro_batches
        loss = cell.model(**vars(rows)).loss / batch.learned_tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (Scheduler.COSINE, "cosine"),
        (Scheduler.LINEAR, "linear"),
        (Scheduler.CONSTANT, "constant_with_warmup"),
    ],
)
def test_steps_are_those_of_a_plain_loop_over_whole_batches(
    scheduler: Scheduler, name: str, tmp_path: Path
) -> None:
    cell, reference = Cell(tmp_path, scheduler=scheduler), Cell(tmp_path, scheduler=scheduler)
    wanted = train_by_hand(reference, name)
    cell.trainer.train()
    assert [figures.loss for figures in cell.recorder.figures] == pytest.approx(wanted, rel=1e-5)
    for parameter, value in cell.trained().items():
        torch.testing.assert_close(value, reference.trained()[parameter], rtol=1e-3, atol=1e-5)


def test_the_jobs_own_betas_are_those_of_the_optimizer(tmp_path: Path) -> None:
    cell, reference = (Cell(tmp_path, adam_betas=[0.5, 0.7]) for _ in range(2))
    wanted = train_by_hand(reference, "cosine")
    cell.trainer.train()
    assert [figures.loss for figures in cell.recorder.figures] == pytest.approx(wanted, rel=1e-5)


def test_every_step_is_recorded_with_what_it_used(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    cell.trainer.train()
    lines = [MetricsLine.model_validate_json(line) for line in cell.metrics.read_text().splitlines()]
    assert [line.step for line in lines] == [1, 2, 3, 4, 5, 6]
    # 20 rows in batches of 8: the third step ends the first epoch.
    assert [line.epoch for line in lines] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-6)
    assert [line.learning_rate for line in lines[:3]] == pytest.approx([0.0, 0.005, 0.01])
    assert sum(line.tokens for line in lines[:3]) == sum(10 + 3 * number for number in range(20))
    assert all(line.seconds > 0 and line.grad_norm > 0 for line in lines)


def test_only_the_adapter_is_trained_and_in_fp32(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in cell.model.named_parameters()}
    cell.trainer.train()
    for name, parameter in cell.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert torch.equal(parameter, before[name]) == ("lora_" not in name)
    assert {value.dtype for value in cell.trained().values()} == {torch.float32}


def test_loss_that_is_not_a_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    with torch.no_grad():
        next(p for n, p in cell.model.named_parameters() if "embed_tokens" in n)[5] = math.nan
    before = cell.trained()
    with pytest.raises(
        NonFiniteLoss, match=r"The loss of step 1 is nan.*spec\.training\.learningRate"
    ) as caught:
        cell.trainer.train()
    assert caught.value.step == 0
    assert all(torch.equal(value, before[name]) for name, value in cell.trained().items())


def test_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    weight = next(p for n, p in cell.model.named_parameters() if "lora_B" in n)
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLoss, match="The gradient of step 1"):
        cell.trainer.train()


def test_stop_is_heard_at_the_end_of_a_step(tmp_path: Path) -> None:
    answers = iter([False, False, False, True])
    cell = Cell(tmp_path, should_stop=lambda: next(answers))
    cell.trainer.train()
    assert [figures.stop_requested for figures in cell.recorder.figures] == [False, False, False, True]


def test_a_wish_to_save_is_heard_at_the_end_of_a_step(tmp_path: Path) -> None:
    answers = iter([False, True, False, False, False, False])
    cell = Cell(tmp_path, should_save=lambda: next(answers))
    cell.trainer.train()
    assert [figures.save_requested for figures in cell.recorder.figures] == [False, True, *[False] * 4]


def test_the_pods_kubeflow_variables_bring_no_second_reporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers adds its own to every Trainer as soon as the URL is set, whatever report_to says."""
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "https://operator/v1alpha1/progress")
    for name, value in rank_environment(0, Placement(0, 1, 1), 0).items():
        monkeypatch.setenv(name, value)
    handlers = Cell(tmp_path).trainer.callback_handler.callbacks
    assert [type(handler).__name__ for handler in handlers if "Kubeflow" in type(handler).__name__] == []


def test_a_checkpoint_of_another_schedule_goes_on_with_this_jobs_own(tmp_path: Path) -> None:
    """As after resumeFrom, with another learning rate: step 6 of this schedule, not the rate that was saved."""
    earlier = Cell(tmp_path)
    earlier.trainer.train()
    live = LiveState(earlier.model, earlier.trainer.optimizer, earlier.trainer.lr_scheduler)
    save_shared_state(tmp_path, 6, live, ALONE)
    later = Cell(tmp_path, learning_rate=4e-3, scheduler=Scheduler.CONSTANT)
    later.trainer.create_optimizer_and_scheduler(12)
    resumed = LiveState(later.model, later.trainer.optimizer, later.trainer.lr_scheduler)
    restore_optimizer(tmp_path, load_snapshot(tmp_path), resumed)
    assert resumed.optimizer.param_groups[0]["lr"] == pytest.approx(4e-3)
    assert resumed.scheduler.get_last_lr() == pytest.approx([4e-3] * len(resumed.scheduler.base_lrs))
    assert resumed.scheduler.last_epoch == 6


def test_snapshot_holds_no_frozen_weight(tmp_path: Path) -> None:
    cell = Cell(tmp_path)
    cell.trainer.train()
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    live = LiveState(cell.model, cell.trainer.optimizer, cell.trainer.lr_scheduler)
    save_shared_state(folder, 6, live, ALONE)
    save_random_states(folder, [encode_random_state(ALONE)])
    trained_bytes = sum(value.nbytes for value in cell.trained().values())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * trained_bytes + 32_000
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert load_snapshot(folder).step == 6


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    import random

    import numpy as np

    cell = Cell(tmp_path)
    cell.trainer.train()
    live = LiveState(cell.model, cell.trainer.optimizer, cell.trainer.lr_scheduler)
    save_shared_state(tmp_path, 6, live, ALONE)
    save_random_states(tmp_path, [encode_random_state(ALONE)])

    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.rand())

    expected = draw()
    draw()
    assert restore_random_state(tmp_path, ALONE, load_snapshot(tmp_path))
    assert draw() == expected
    two = Gang(rank=1, local_rank=1, world_size=2, device=CPU, store=None)
    assert not restore_random_state(tmp_path, two, load_snapshot(tmp_path))


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [
        (Precision.AUTO, "cuda", torch.bfloat16),
        (Precision.AUTO, "cpu", torch.float32),
        (Precision.BF16, "cpu", torch.bfloat16),
        (Precision.FP32, "cuda", torch.float32),
    ],
)
def test_precision(wanted: Precision, device: str, expected: torch.dtype) -> None:
    precision = decide_precision(wanted, device)
    assert precision.weights is expected
    assert precision.autocast_bf16 == (expected is torch.bfloat16)

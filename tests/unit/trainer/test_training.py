"""Trainer with our batches, loss and schedule: the mathematics of a step, and how it stops."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from finetune_api.exit_codes import ExitCode
from finetune_trainer.callbacks.metrics import MetricsLine
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.errors import NonFiniteLoss
from finetune_trainer.gang import Gang
from finetune_trainer.model import ComputePrecision
from finetune_trainer.placement import Placement
from finetune_trainer.rank_processes import rank_environment
from finetune_trainer.snapshot import (
    load_snapshot,
    restore_random_state,
    restore_training,
)
from finetune_trainer.step_figures import Saving, StepSignals
from finetune_trainer.training import _MOST_OVERFLOWS
from tests.unit.trainer.small_trainer import ALONE, CPU, FULL, LENGTHS, SmallTrainer, stopping_after


def train_by_hand(cell: SmallTrainer, scheduler_name: str) -> list[float]:
    """The loop of a text book: whole steps at once, torch's own parts."""
    parameters = [parameter for parameter in cell.model.parameters() if parameter.requires_grad]
    settings = cell.spec.training
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
        loss = cell.model(**rows.model_inputs())["summed_loss"] / batch.learned_tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [("Cosine", "cosine"), ("Linear", "linear"), ("Constant", "constant_with_warmup")],
)
def test_steps_are_those_of_a_plain_loop_over_whole_batches(
    scheduler: str, name: str, tmp_path: Path
) -> None:
    cell, reference = (SmallTrainer(tmp_path, scheduler=scheduler) for _ in range(2))
    wanted = train_by_hand(reference, name)
    cell.trainer.train()
    assert [figures.loss for figures in cell.recorder.figures] == pytest.approx(wanted, rel=1e-5)
    for parameter, value in cell.trained().items():
        torch.testing.assert_close(value, reference.trained()[parameter], rtol=1e-3, atol=1e-5)


def test_the_jobs_own_betas_are_those_of_the_optimizer(tmp_path: Path) -> None:
    cell, reference = (SmallTrainer(tmp_path, adamBetas=[0.5, 0.7]) for _ in range(2))
    wanted = train_by_hand(reference, "cosine")
    cell.trainer.train()
    assert [figures.loss for figures in cell.recorder.figures] == pytest.approx(wanted, rel=1e-5)


def test_every_step_is_recorded_with_what_it_used(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    cell.trainer.train()
    lines = [MetricsLine.model_validate_json(line) for line in cell.metrics.read_text().splitlines()]
    assert [line.step for line in lines] == [1, 2, 3, 4, 5, 6]
    # 20 rows in batches of 8: the third step ends the first epoch.
    assert [line.epoch for line in lines] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2], abs=1e-6)
    assert [line.learning_rate for line in lines[:3]] == pytest.approx([0.0, 0.005, 0.01])
    assert sum(line.tokens for line in lines[:3]) == sum(LENGTHS)
    assert all(line.seconds > 0 and line.grad_norm > 0 for line in lines)


def test_only_the_adapter_is_trained_and_in_fp32(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    before = {name: parameter.detach().clone() for name, parameter in cell.model.named_parameters()}
    cell.trainer.train()
    for name, parameter in cell.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        assert torch.equal(parameter, before[name]) == ("lora_" not in name)
    assert {value.dtype for value in cell.trained().values()} == {torch.float32}


def test_full_training_moves_every_parameter(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path, FULL)
    before = {name: parameter.detach().clone() for name, parameter in cell.model.named_parameters()}
    cell.trainer.train()
    assert [name for name, value in cell.model.named_parameters() if torch.equal(value, before[name])] == []
    assert cell.trained().keys() == before.keys()


def test_loss_that_is_not_a_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    with torch.no_grad():
        next(p for n, p in cell.model.named_parameters() if "embed_tokens" in n)[5] = math.nan
    before = cell.trained()
    with pytest.raises(
        NonFiniteLoss, match=r"The loss of step 1 is nan.*spec\.training\.learningRate"
    ) as caught:
        cell.trainer.train()
    assert caught.value.step == 0
    assert caught.value.exit_code is ExitCode.NON_FINITE_LOSS
    assert all(torch.equal(value, before[name]) for name, value in cell.trained().items())


def test_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    weight = next(p for n, p in cell.model.named_parameters() if "lora_B" in n)
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = cell.trained()
    with pytest.raises(NonFiniteLoss, match=r"The gradient of step 1 is .*maxGradNorm") as caught:
        cell.trainer.train()
    assert caught.value.step == 0
    assert caught.value.exit_code is ExitCode.NON_FINITE_LOSS
    assert all(torch.equal(value, before[name]) for name, value in cell.trained().items())


def test_stop_is_heard_at_the_end_of_a_step(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path, signals=stopping_after(4))
    cell.trainer.train()
    assert [figures.stop_requested for figures in cell.recorder.figures] == [False, False, False, True]


def test_what_becomes_of_checkpoints_is_heard_at_the_end_of_a_step(tmp_path: Path) -> None:
    signals = [
        StepSignals(),
        StepSignals(save_requested=True),
        StepSignals(saving=Saving.MOVING),
        StepSignals(saving=Saving.STUCK),
        StepSignals(save_failed=True),
        StepSignals(),
    ]
    answers = iter(signals)
    cell = SmallTrainer(tmp_path, signals=lambda: next(answers))
    cell.trainer.train()
    heard = [
        StepSignals(f.stop_requested, f.save_requested, f.saving, f.save_failed)
        for f in cell.recorder.figures
    ]
    assert heard == signals


def test_the_pods_kubeflow_variables_bring_no_second_reporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers adds its own to every Trainer as soon as the URL is set, whatever report_to says."""
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "https://operator/v1alpha1/progress")
    for name, value in rank_environment(0, Placement(0, 1, 1), 0).items():
        monkeypatch.setenv(name, value)
    handlers = SmallTrainer(tmp_path).trainer.callback_handler.callbacks
    assert [type(handler).__name__ for handler in handlers if "Kubeflow" in type(handler).__name__] == []


def test_a_checkpoint_of_another_schedule_goes_on_with_this_jobs_own(tmp_path: Path) -> None:
    """As after resumeFrom, with another learning rate: step 6 of this schedule, not the rate that was saved."""
    earlier = SmallTrainer(tmp_path)
    earlier.trainer.train()
    checkpoint = earlier.save(tmp_path / "checkpoint")
    later = SmallTrainer(tmp_path, learningRate=4e-3, scheduler="Constant")
    later.prepare(12)
    restore_training(checkpoint, load_snapshot(checkpoint), later.live)
    rates = [group["lr"] for group in later.live.engine.schedules.param_groups]
    assert rates == pytest.approx([4e-3] * len(rates))
    assert later.live.scheduler.get_last_lr() == pytest.approx(rates)
    assert later.live.scheduler.last_epoch == 6


def test_snapshot_holds_no_frozen_weight(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    cell.trainer.train()
    folder = cell.save(tmp_path / "checkpoint")
    trained_bytes = sum(value.nbytes for value in cell.trained().values())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * trained_bytes + 32_000
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert load_snapshot(folder).step == 6


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    cell = SmallTrainer(tmp_path)
    cell.trainer.train()
    checkpoint = cell.save(tmp_path / "checkpoint")

    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.rand())

    expected = draw()
    draw()
    snapshot = load_snapshot(checkpoint)
    assert restore_random_state(checkpoint, ALONE, snapshot)
    assert draw() == expected
    two = Gang(rank=1, local_rank=1, world_size=2, device=CPU, store=None)
    assert not restore_random_state(checkpoint, two, snapshot)


# --- fp16, whose gradients are scaled --------------------------------------------------------------------------

FP16 = ComputePrecision(torch.float16, torch.float16)


def scaled_trainer(folder: Path, **settings: Any) -> SmallTrainer:
    """accelerate scales on GPUs alone; torch's own scaler for CPUs does the same where it would stand."""
    cell = SmallTrainer(folder, precision=FP16, **settings)
    cell.trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    return cell


def overflow_at(cell: SmallTrainer, steps: set[int]) -> None:
    """Make the gradient of some steps infinite, as a loss scale that is too large does."""
    weight = next(p for n, p in cell.model.named_parameters() if "lora_B" in n)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf if cell.trainer.state.global_step + 1 in steps else gradient

    weight.register_hook(spoil)


def test_fp16_leaves_out_a_step_whose_gradient_overflows(tmp_path: Path) -> None:
    cell = scaled_trainer(tmp_path, warmup_steps=0)
    overflow_at(cell, {2, 3})
    seen: list[dict[str, torch.Tensor]] = []
    scales: list[float] = []
    keep = cell.recorder.on_step_end

    def note(*given: Any, **kwargs: Any) -> None:
        keep(*given, **kwargs)
        seen.append(cell.trained())
        scales.append(cell.trainer.engine.loss_scale()["scale"])

    cell.recorder.on_step_end = note  # type: ignore[method-assign]
    figures = cell.train()

    moved = [
        any(not torch.equal(now[name], before[name]) for name in now)
        for before, now in itertools.pairwise(seen)
    ]
    assert moved == [False, False, True, True, True]
    assert scales == [65536.0, 32768.0, 16384.0, 16384.0, 16384.0, 16384.0]
    # What is left out has no norm.
    assert [each.grad_norm > 0 for each in figures] == [True, False, False, True, True, True]
    assert all(math.isfinite(each.loss) for each in figures)


def test_fp16_that_overflows_at_every_loss_scale_has_diverged(tmp_path: Path) -> None:
    steps = _MOST_OVERFLOWS + 10
    cell = scaled_trainer(tmp_path, steps=steps)
    overflow_at(cell, set(range(steps + 1)))
    with pytest.raises(NonFiniteLoss, match=rf"The gradient of step {_MOST_OVERFLOWS + 1} is (inf|nan)"):
        cell.trainer.train()

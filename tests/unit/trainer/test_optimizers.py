"""The optimizers that Trainer makes for us, against their formulas; and how gradients are clipped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders.tiny_models import write_model
from tests.unit.trainer.small_trainer import FULL, LORA, SmallTrainer

RATE, DECAY, BETAS, EPSILON = 1e-2, 0.1, (0.8, 0.95), 1e-8
Tensors = dict[str, torch.Tensor]


def make_cell(folder: Path, method: dict[str, Any] = FULL, **settings: Any) -> SmallTrainer:
    """A trainer before its first step. Qwen2 has biases, and all models have norms."""
    if not (folder / "base").exists():
        write_model(folder / "base", "qwen2")
    cell = SmallTrainer(
        folder,
        method,
        warmup_steps=0,
        **{
            "learningRate": RATE,
            "weightDecay": DECAY,
            "adamBetas": list(BETAS),
            "scheduler": "Constant",
            **settings,
        },
    )
    cell.prepare()
    return cell


def parameters_of(cell: SmallTrainer) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in cell.model.named_parameters() if each.requires_grad}


def draw_gradients(cell: SmallTrainer, steps: int) -> list[Tensors]:
    """Gradients of many sizes: what is tested is what becomes of them."""
    torch.manual_seed(3)
    return [
        {
            name: torch.randn_like(each) * 10.0 ** float(torch.randint(-6, 2, ()))
            for name, each in parameters_of(cell).items()
        }
        for _ in range(steps)
    ]


def take_steps(cell: SmallTrainer, gradients: list[Tensors]) -> None:
    parameters = parameters_of(cell)
    for step in gradients:
        for name, gradient in step.items():
            parameters[name].grad = gradient.clone()
        cell.trainer.optimizer.step()


def decays(name: str) -> bool:
    """Weights of products alone: not what is added, and not the scales of norms."""
    return not (name.endswith(".bias") or "norm" in name)


def by_the_formula(start: Tensors, gradients: list[Tensors]) -> Tensors:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in fp64."""
    found = {}
    for name, value in start.items():
        weight, first, second = value.double(), torch.zeros(()).double(), torch.zeros(()).double()
        for step, gradient in enumerate((each[name].double() for each in gradients), start=1):
            first = BETAS[0] * first + (1 - BETAS[0]) * gradient
            second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
            unbiased_first, unbiased_second = first / (1 - BETAS[0] ** step), second / (1 - BETAS[1] ** step)
            weight = weight * (1 - RATE * DECAY) if decays(name) else weight
            weight = weight - RATE * unbiased_first / (unbiased_second.sqrt() + EPSILON)
        found[name] = weight
    return found


@pytest.mark.parametrize("steps", [1, 4], ids=["one step", "several"])
@pytest.mark.parametrize("method", [FULL, LORA], ids=["all weights", "an adapter"])
def test_adamw_is_the_formula(method: dict[str, Any], steps: int, tmp_path: Path) -> None:
    cell = make_cell(tmp_path, method)
    start, gradients = cell.trained(), draw_gradients(cell, steps)
    take_steps(cell, gradients)
    wanted = by_the_formula(start, gradients)
    for name, value in cell.trained().items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_biases_and_norms_do_not_decay(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    start = cell.trained()
    assert sum(not decays(name) for name in start) > 2
    take_steps(cell, [{name: torch.zeros_like(each) for name, each in start.items()}])
    for name, value in cell.trained().items():
        wanted = start[name] * (1 - RATE * DECAY) if decays(name) else start[name]
        torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0, msg=name)


def test_adamw_is_the_fused_one(tmp_path: Path) -> None:
    optimizer = make_cell(tmp_path).live.engine.schedules
    assert all(group["fused"] for group in optimizer.param_groups)


# --- moments in 8 bits -------------------------------------------------------------------------------------------


# bitsandbytes keeps the moments of smaller tensors in 32 bits.
_SMALLEST_QUANTIZED = 4096


def movement(cell: SmallTrainer, gradients: list[Tensors]) -> Tensors:
    start = cell.trained()
    take_steps(cell, gradients)
    return {name: value - start[name] for name, value in cell.trained().items()}


def test_first_step_of_8_bit_moments_is_exact_and_later_ones_are_near(tmp_path: Path) -> None:
    """Moments are rounded after a step has used them: each block of 256 to the steps of a dynamic 8-bit number."""
    whole, quantized = (make_cell(tmp_path, optimizer=name) for name in ("AdamW", "AdamW8bit"))
    gradients = draw_gradients(whole, 6)
    for first, last, bound in ((0, 1, 1e-5), (1, 6, 0.1)):
        wanted, found = (movement(cell, gradients[first:last]) for cell in (whole, quantized))
        for name, moved in wanted.items():
            deviation = float((found[name] - moved).norm() / moved.norm())
            assert deviation <= bound, (name, deviation)
    # Of embeddings transformers keeps the moments whole: Dettmers et al. 2022, arXiv:2110.02861, section 2.3.
    large = {
        name
        for name, value in wanted.items()
        if value.numel() >= _SMALLEST_QUANTIZED and "embed_tokens" not in name
    }
    state = quantized.trainer.engine.state
    in_8_bits = {each.name for each in state.fragments() if each.tensor.dtype is torch.uint8}
    assert in_8_bits == large
    assert 0 < len(large) < len(wanted)
    assert max(float((found[name] - wanted[name]).norm()) for name in large) > 0


# --- clipping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound_share", "scale"),
    [(0.25, 0.25), (0.99, 0.99), (1.5, 1.0)],
    ids=["far above", "just above", "below"],
)
def test_gradient_is_clipped_by_its_norm_over_all_parameters(
    bound_share: float, scale: float, tmp_path: Path
) -> None:
    cell = make_cell(tmp_path)
    (gradients,) = draw_gradients(cell, 1)
    norm = math.sqrt(sum(float(each.double().square().sum()) for each in gradients.values()))
    parameters = parameters_of(cell)
    for name, gradient in gradients.items():
        parameters[name].grad = gradient.clone()
    assert cell.trainer.engine.clip(bound_share * norm) == pytest.approx(norm, rel=1e-5)
    for name, gradient in gradients.items():
        grad = parameters[name].grad
        assert grad is not None
        torch.testing.assert_close(grad, scale * gradient, rtol=1e-4, atol=0)


def test_norm_that_is_recorded_is_that_before_clipping(tmp_path: Path) -> None:
    loose, tight = (
        SmallTrainer(tmp_path, steps=1, maxGradNorm=bound).train()[0].grad_norm for bound in (1000.0, 0.001)
    )
    assert tight == pytest.approx(loose, rel=1e-6)
    assert tight > 0.001

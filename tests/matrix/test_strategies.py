"""However processes share the work, the same steps are taken: losses are those of one process at the same global batch."""

from __future__ import annotations

from functools import cache

import pytest

from tests.matrix.axes import WAYS, Combination
from tests.matrix.recipes import Kitchen
from tests.matrix.runner import Outcome, run_cell

# fp32: nothing differs but the order of sums, which the optimizer carries on from step to step.
TOLERANCE = 1e-5
# Where activations have 16 bits, a sum in another order may be rounded otherwise.
BF16_TOLERANCE = 1e-3
SHARED = [(way, world_size) for way in WAYS if way != "one process" for world_size in (2, 3)]


@pytest.mark.parametrize("method", ["LoRA", "Full"])
@pytest.mark.parametrize(("way", "world_size"), SHARED)
def test_losses_are_those_of_one_process(method: str, way: str, world_size: int, kitchen: Kitchen) -> None:
    alone = train(kitchen, Combination(method), 1)
    shared = train(kitchen, Combination(method, way), world_size)
    print(f"largest difference {largest_difference(alone, shared):.2g}")
    assert largest_difference(alone, shared) < TOLERANCE
    assert shared.norms == pytest.approx(alone.norms, rel=1e-3)
    assert shared.rates == alone.rates


@pytest.mark.parametrize("way", ["DDP", "ZeRO2", "ZeRO3", "FSDP"])
def test_losses_in_bf16_are_nearly_those_of_one_process(way: str, kitchen: Kitchen) -> None:
    alone = train(kitchen, Combination("LoRA", precision="BF16"), 1)
    shared = train(kitchen, Combination("LoRA", way, "BF16"), 2)
    print(f"largest difference {largest_difference(alone, shared):.2g}")
    assert largest_difference(alone, shared) < BF16_TOLERANCE


@cache
def train(kitchen: Kitchen, combination: Combination, world_size: int) -> Outcome:
    """Train on qwen3."""
    return run_cell(kitchen.run_of(combination, world_size=world_size))


def largest_difference(one: Outcome, other: Outcome) -> float:
    """Of the losses of all steps, relative to the first outcome's."""
    return max(abs(a - b) / a for a, b in zip(one.losses, other.losses, strict=True))

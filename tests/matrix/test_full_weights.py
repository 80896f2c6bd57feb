"""Full moves every weight, also by steps that a 16-bit weight would lose in rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.matrix.axes import Combination
from tests.matrix.recipes import Kitchen
from tests.matrix.results import share_of_changed_elements
from tests.matrix.runner import run_cell

STEPS, LEARNING_RATE = 200, 2e-5


@pytest.mark.parametrize("precision", ["FP32", "BF16"])
def test_two_hundred_small_steps_change_nearly_all_weights(precision: str, kitchen: Kitchen) -> None:
    cell = kitchen.run_of(Combination("Full", precision=precision))
    training = cell.spec.training.model_copy(update={"learning_rate": LEARNING_RATE})
    cell = replace(cell, spec=cell.spec.model_copy(update={"training": training}), steps=STEPS)
    outcome = run_cell(cell)
    assert outcome.losses[-1] < outcome.losses[0]
    share = share_of_changed_elements(cell.model, cell.folder / "trained")
    print(f"{share:.4%} of the numbers changed")
    assert share >= 0.99

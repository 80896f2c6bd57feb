"""Supported cells train: the loss falls, and what is left is the base with what the method may change, no more."""

from __future__ import annotations

import pytest

from tests.matrix.cover import Row
from tests.matrix.everyday import combination_of, everyday_rows
from tests.matrix.recipes import Kitchen, recipe_of
from tests.matrix.results import ensure_figures, ensure_result
from tests.matrix.runner import run_cell


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=" | ".join(map(str, row.values()))) for row in everyday_rows()]
)
def test_a_cell_trains_and_leaves_what_its_method_may_change(row: Row, kitchen: Kitchen) -> None:
    combination = combination_of(row)
    world_size = row["world_size"]
    assert isinstance(world_size, int)
    cell = kitchen.run_of(combination, architecture=str(row["architecture"]), world_size=world_size)
    outcome = run_cell(cell)
    ensure_figures(outcome, recipe_of(combination).fall)
    ensure_result(cell, combination)

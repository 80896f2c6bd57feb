"""Every supported cell, trained: minutes of work, for `make test-matrix`. What each one saw goes into summary.json."""

from __future__ import annotations

import time

import pytest

from tests.matrix.axes import Combination
from tests.matrix.recipes import Kitchen, recipe_of
from tests.matrix.results import ensure_figures, ensure_result
from tests.matrix.runner import run_cell
from tests.matrix.summary import load_cells, note, save_summary, update
from tests.matrix.table import trainable_here

pytestmark = pytest.mark.whole_matrix
CELLS = trainable_here()


@pytest.mark.parametrize(
    "combination", [pytest.param(cell, id=cell.name.replace("·", "|")) for cell in CELLS]
)
def test_a_supported_cell_trains(combination: Combination, kitchen: Kitchen) -> None:
    save_summary(update(load_cells(), combination, None))
    started = time.monotonic()
    cell = kitchen.run_of(combination)
    outcome = run_cell(cell)
    ensure_figures(outcome, recipe_of(combination).fall)
    ensure_result(cell, combination)
    trained = note(combination, outcome.losses, time.monotonic() - started)
    save_summary(update(load_cells(), combination, trained))

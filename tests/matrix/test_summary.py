"""The summary keeps what each cell's last run saw, and nothing of cells that fail or are gone."""

from __future__ import annotations

from dataclasses import replace

from tests.matrix.axes import Combination
from tests.matrix.summary import note, update

FIRST, SECOND = Combination("Full"), Combination("IA3")


def test_new_figures_take_the_place_of_old_ones_in_the_order_of_the_table() -> None:
    old = [note(SECOND, [5.0, 4.0], 1.0), note(FIRST, [5.0, 4.0], 1.0)]
    new = note(SECOND, [5.0, 3.0], 2.0)
    assert update(old, SECOND, new) == [old[1], new]


def test_a_cell_that_fails_is_gone() -> None:
    assert update([note(FIRST, [5.0, 4.0], 1.0)], FIRST, None) == []


def test_a_cell_that_the_table_has_no_more_is_gone() -> None:
    gone = replace(note(FIRST, [5.0, 4.0], 1.0), cell="Full · by hand · FP32")
    assert update([gone], FIRST, None) == []

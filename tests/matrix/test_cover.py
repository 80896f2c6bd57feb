"""The small set of cells that stands for the table: every pair that may occur does, and nothing that may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import pytest

from tests.matrix.cover import Row, cover_pairs, pairs_of
from tests.matrix.everyday import AXES, everyday_rows, is_everyday
from tests.matrix.refusals import is_supported
from tests.matrix.table import matrix

SMALL = {"a": (1, 2, 3), "b": (1, 2, 3), "c": (1, 2, 3)}


def valid_pairs(
    axes: Mapping[str, Sequence[object]], is_valid: Callable[[Row], bool]
) -> set[tuple[object, ...]]:
    rows = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return {pair for row in rows if is_valid(row) for pair in pairs_of(row)}


def covered_pairs(rows: list[Row]) -> set[tuple[object, ...]]:
    return {pair for row in rows for pair in pairs_of(row)}


def anything(row: Row) -> bool:
    return True


def no_twos_together(row: Row) -> bool:
    return list(row.values()).count(2) < 2


@pytest.mark.parametrize("is_valid", [anything, no_twos_together])
def test_every_valid_pair_occurs_in_few_rows(is_valid: Callable[[Row], bool]) -> None:
    rows = cover_pairs(SMALL, is_valid)
    assert covered_pairs(rows) == valid_pairs(SMALL, is_valid)
    assert all(is_valid(row) for row in rows)
    assert len(rows) <= 12


def test_a_pair_that_needs_a_rare_third_value_is_covered() -> None:
    rows = cover_pairs(SMALL, lambda row: row["a"] != 1 or row["b"] != 1 or row["c"] == 3)
    assert {"a": 1, "b": 1, "c": 3} in rows


def test_equal_axes_give_equal_rows() -> None:
    assert cover_pairs(SMALL, anything) == cover_pairs(SMALL, anything)


def test_the_everyday_cells_cover_every_pair_of_the_table() -> None:
    assert covered_pairs(everyday_rows()) == valid_pairs(AXES, is_everyday)


def test_every_method_is_trained_every_day_with_every_strategy_it_supports() -> None:
    trained = {(row["method"], row["way"]) for row in everyday_rows()}
    assert trained == {(cell.method, cell.way) for cell in matrix() if is_supported(cell)}

"""A small set of rows in which every pair of values occurs that may occur: pairwise testing, by a greedy choice. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product

Row = Mapping[str, object]
Pair = tuple[str, object, str, object]


def cover_pairs(axes: Mapping[str, Sequence[object]], is_valid: Callable[[Row], bool]) -> list[Row]:
    """Choose rows until every pair of two axes' values is there that some valid row has. Equal for equal input.

    Each time, the first row in order that has the most pairs which are still missing.
    """
    rows = [row for row in _all_rows(axes) if is_valid(row)]
    numbers = {
        pair: number for number, pair in enumerate(dict.fromkeys(p for row in rows for p in pairs_of(row)))
    }
    masks = [sum(1 << numbers[pair] for pair in pairs_of(row)) for row in rows]
    missing, chosen = (1 << len(numbers)) - 1, []
    while missing:
        best = max(range(len(rows)), key=lambda place: ((masks[place] & missing).bit_count(), -place))
        missing &= ~masks[best]
        chosen.append(rows[best])
    return chosen


def pairs_of(row: Row) -> Iterator[Pair]:
    """Every two values of a row, with their axes."""
    for (axis, value), (other_axis, other_value) in combinations(row.items(), 2):
        yield axis, value, other_axis, other_value


def _all_rows(axes: Mapping[str, Sequence[object]]) -> Iterator[Row]:
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))

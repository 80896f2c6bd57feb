"""The answer of every search for duplicates: which earlier row each row repeats, and the first pairs for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RowNumbers = np.ndarray[tuple[int], np.dtype[np.int64]]
RowMask = np.ndarray[tuple[int], np.dtype[np.bool_]]
# Row → the row it repeats, and their similarity.
Found = dict[int, tuple[int, float]]

PAIRS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class SimilarPair:
    """A row, the earlier row that it repeats, and how similar they are, from 0 to 1."""

    row: int
    repeats: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """For each row the number of the earlier row it repeats, or -1. That earlier row is always one that stays."""

    repeats: RowNumbers
    # The first 20, in the order of the rows.
    pairs: tuple[SimilarPair, ...]

    @property
    def count(self) -> int:
        """How many rows repeat another."""
        return int(np.count_nonzero(self.repeats >= 0))

    @property
    def stay(self) -> RowMask:
        """The rows that repeat none."""
        return self.repeats < 0


def numbered(labels: Sequence[str] | None, rows: int) -> RowNumbers:
    """Labels as numbers; all the same where there are none."""
    if labels is None:
        return np.zeros(rows, dtype=np.int64)
    assert len(labels) == rows
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def duplicates_of(found: Found, rows: int) -> Duplicates:
    """Write what was found as Duplicates of so many rows."""
    repeats = np.full(rows, -1, dtype=np.int64)
    for row, (earlier, _) in found.items():
        repeats[row] = earlier
    first = [SimilarPair(row, *found[row]) for row in sorted(found)[:PAIRS_SHOWN]]
    return Duplicates(repeats, tuple(first))

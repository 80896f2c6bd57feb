"""Evens out classes: how much more often rows of small classes are seen, or which rows of large ones are left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.spec import BalanceMethod

RowMask = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Balanced:
    """What balancing decided."""

    # The rows that stay; None: all of them.
    keep: RowMask | None
    # For each label, in alphabetical order, how often its rows are seen for once that the largest class's rows are.
    weights: Mapping[str, float]


def decide_balance(labels: Sequence[str], max_ratio: float, method: BalanceMethod, seed: int = 0) -> Balanced:
    """Bring the largest class to at most `max_ratio` times the smallest, as training sees them.

    `labels` has one entry for each row. Oversample weighs small classes, and no more than it must; Downsample draws
    the rows of large classes that stay, by `seed`, whatever else the data has.
    """
    rows_by_label = dict(sorted(Counter(labels).items()))
    if method is BalanceMethod.DOWNSAMPLE:
        weights = dict.fromkeys(rows_by_label, 1.0)
        return Balanced(_downsampled(labels, rows_by_label, max_ratio, seed), weights)
    largest = max(rows_by_label.values(), default=0)
    weights = {label: max(1.0, largest / (max_ratio * rows)) for label, rows in rows_by_label.items()}
    return Balanced(None, weights)


def _downsampled(
    labels: Sequence[str], rows_by_label: Mapping[str, int], max_ratio: float, seed: int
) -> RowMask | None:
    smallest = min(rows_by_label.values(), default=0)
    most = math.floor(smallest * max_ratio)
    if all(rows <= most for rows in rows_by_label.values()):
        return None
    keep = np.ones(len(labels), dtype=np.bool_)
    places = _places(labels)
    for number, label in enumerate(rows_by_label):
        rows = places[label]
        # RandomState, not default_rng: numpy promises never to change its streams (NEP 19).
        order = np.random.RandomState([seed, number]).permutation(len(rows))
        keep[rows[order[most:]]] = False
    return keep


def _places(labels: Sequence[str]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    places: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        places.setdefault(label, []).append(row)
    return {label: np.array(rows, dtype=np.int64) for label, rows in places.items()}

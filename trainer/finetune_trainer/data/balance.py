"""Evens out classes: how much more often rows of small classes are seen, or which rows of large ones are left out."""

from __future__ import annotations

import math
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


def decide_balance(
    labels: Sequence[str],
    max_ratio: float,
    method: BalanceMethod,
    seed: int = 0,
    seen: Sequence[float] | None = None,
) -> Balanced:
    """Bring the largest class to at most `max_ratio` times the smallest, as training sees them.

    `labels` has one entry for each row, `seen` how often the row is seen anyway (default: once). Oversample weighs
    small classes, and no more than it must; Downsample draws the rows of large classes that stay, by `seed`, whatever
    else the data has.
    """
    seen_by_label = _sums(labels, seen if seen is not None else [1.0] * len(labels))
    if method is BalanceMethod.DOWNSAMPLE:
        weights = dict.fromkeys(seen_by_label, 1.0)
        return Balanced(_downsampled(labels, seen_by_label, max_ratio, seed), weights)
    largest = max(seen_by_label.values(), default=0)
    weights = {label: max(1.0, largest / (max_ratio * sum_)) for label, sum_ in seen_by_label.items()}
    return Balanced(None, weights)


def _sums(labels: Sequence[str], seen: Sequence[float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for label, times in zip(labels, seen, strict=True):
        sums[label] = sums.get(label, 0.0) + times
    return dict(sorted(sums.items()))


def _downsampled(
    labels: Sequence[str], seen_by_label: Mapping[str, float], max_ratio: float, seed: int
) -> RowMask | None:
    # A little more than the product: it may fall just short of a whole number.
    limit = min(seen_by_label.values(), default=0.0) * max_ratio * (1 + 1e-9)
    if all(seen <= limit for seen in seen_by_label.values()):
        return None
    keep = np.ones(len(labels), dtype=np.bool_)
    places = _places(labels)
    for number, (label, seen) in enumerate(seen_by_label.items()):
        rows = places[label]
        most = len(rows) if seen <= limit else math.floor(len(rows) * limit / seen)
        # RandomState, not default_rng: numpy promises never to change its streams (NEP 19).
        order = np.random.RandomState([seed, number]).permutation(len(rows))
        keep[rows[order[most:]]] = False
    return keep


def _places(labels: Sequence[str]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    places: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        places.setdefault(label, []).append(row)
    return {label: np.array(rows, dtype=np.int64) for label, rows in places.items()}

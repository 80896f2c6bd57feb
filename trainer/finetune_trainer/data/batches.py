"""Which rows form an optimizer step, and how one step's rows are spread over ranks and micro-batches.

The rows of step *s* are a function of (seed, epoch, s) alone; world size and micro-batches only split them. So a
packed run equals an unpacked one, accumulation equals a large batch, and two ranks equal one. Pure, torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from heapq import heapify, heapreplace

import numpy as np

# Indices of the rows that are computed at once. An empty one stands for a dummy token with no loss.
MicroBatch = tuple[int, ...]
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
# Keeps the choice of partly weighted rows apart from the shuffling of epochs.
_PARTIAL_STREAM = 0x5EED


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Which rows an epoch takes where rows have weights: 2 twice, 0.5 every other time, always the same number in all.

    Of a fractional weight each epoch takes the next stretch of the rows in an order of their own, so that after some
    epochs every row was seen as often as its weight says.
    """

    weights: np.ndarray[tuple[int], np.dtype[np.float32]]
    seed: int

    @cached_property
    def _groups(self) -> list[tuple[float, Rows]]:
        return [
            (round(float(weight), 6), np.flatnonzero(self.weights == weight))
            for weight in np.unique(self.weights)
        ]

    @property
    def rows_per_epoch(self) -> int:
        """How many rows an epoch takes, repetitions counted."""
        return sum(int(weight) * len(rows) + _partial(weight, rows) for weight, rows in self._groups)

    def rows_of_epoch(self, epoch: int) -> Rows:
        """The row numbers of an epoch, not yet shuffled."""
        parts = [np.zeros(0, np.int64)]
        for number, (weight, rows) in enumerate(self._groups):
            parts += [rows] * int(weight)
            if taken := _partial(weight, rows):
                order = np.random.RandomState([self.seed, number, _PARTIAL_STREAM]).permutation(rows)
                parts.append(np.take(order, np.arange(epoch * taken, (epoch + 1) * taken), mode="wrap"))
        return np.concatenate(parts)


def _partial(weight: float, rows: Rows) -> int:
    return round((weight - int(weight)) * len(rows))


@dataclass(frozen=True)
class DataOrder:
    """The order in which rows are seen: a permutation per epoch, cut into steps of `global_batch_size` rows."""

    row_count: int
    global_batch_size: int
    seed: int
    weighted: WeightedRows | None = None

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch."""
        return self.row_count if self.weighted is None else self.weighted.rows_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last one may have fewer rows."""
        return -(-self.rows_per_epoch // self.global_batch_size)

    def rows_of_step(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0 over all epochs."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.global_batch_size
        order = _order_of_epoch(self.seed, epoch, self.row_count, self.weighted)
        return [int(row) for row in order[start : start + self.global_batch_size]]


@dataclass(frozen=True)
class StandingOrder:
    """Rows in the order in which they stand, so many at once: how held-out rows are evaluated, whatever the seed."""

    row_count: int
    rows_at_once: int

    @property
    def steps_per_epoch(self) -> int:
        """How often rows are taken until all have been."""
        return -(-self.row_count // self.rows_at_once)

    def rows_of_step(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0."""
        start = step * self.rows_at_once
        return list(range(start, min(self.row_count, start + self.rows_at_once)))


def order_rows(
    weights: np.ndarray[tuple[int], np.dtype[np.float32]], global_batch_size: int, seed: int
) -> DataOrder:
    """The order of rows with these weights; rows that all weigh 1 need no choice."""
    weighted = None if bool(np.all(weights == 1.0)) else WeightedRows(weights, seed)
    return DataOrder(len(weights), global_batch_size, seed, weighted)


def split_step(
    lengths: Sequence[int], world_size: int, micro_batch_tokens: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """Spread the rows of a step (given by their lengths) over ranks: for each rank the same number of micro-batches.

    A micro-batch holds at most `micro_batch_tokens` tokens, unless it is a single longer row. The micro-batches that
    ranks compute at the same time are of similar size, since the slowest rank decides.
    """
    # A bound below the rows' own lengths asks for no more micro-batches than there are rows.
    most = min(len(lengths), _ceil_div(sum(lengths), micro_batch_tokens))
    bin_count = world_size * _ceil_div(most, world_size)
    bins = _balanced_bins(lengths, bin_count)
    while not all(_fits(rows, lengths, micro_batch_tokens) for rows in bins):
        bin_count += world_size
        bins = _balanced_bins(lengths, bin_count)
    bins.sort(key=lambda rows: (-sum(lengths[row] for row in rows), rows))
    return tuple(tuple(bins[rank::world_size]) for rank in range(world_size))


def split_step_padded(
    lengths: Sequence[int], world_size: int, micro_batch_tokens: int
) -> tuple[tuple[MicroBatch, ...], ...]:
    """As split_step, where the rows of a micro-batch are filled up to its longest: padding counts against the bound.

    Rows of similar length come together; ranks that have fewer micro-batches get empty ones.
    """
    bins: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        # The first row of a micro-batch is its longest.
        if bins and (len(bins[-1]) + 1) * lengths[bins[-1][0]] <= micro_batch_tokens:
            bins[-1].append(row)
        else:
            bins.append([row])
    bins += [[] for _ in range(-len(bins) % world_size)]
    return tuple(tuple(tuple(sorted(rows)) for rows in bins[rank::world_size]) for rank in range(world_size))


@lru_cache(maxsize=2)
def _order_of_epoch(seed: int, epoch: int, row_count: int, weighted: WeightedRows | None) -> Rows:
    # RandomState, not default_rng: numpy promises never to change its streams (NEP 19).
    rows = row_count if weighted is None else weighted.rows_of_epoch(epoch)
    return np.random.RandomState([seed, epoch]).permutation(rows)


def _balanced_bins(lengths: Sequence[int], bin_count: int) -> list[MicroBatch]:
    # Longest first into the emptiest bin: within 4/3 of the best balance. Graham 1969, doi:10.1137/0117039.
    bins: list[list[int]] = [[] for _ in range(bin_count)]
    emptiest = [(0, number) for number in range(bin_count)]
    heapify(emptiest)
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        tokens, number = emptiest[0]
        bins[number].append(row)
        heapreplace(emptiest, (tokens + lengths[row], number))
    return [tuple(sorted(rows)) for rows in bins]


def _fits(rows: MicroBatch, lengths: Sequence[int], micro_batch_tokens: int) -> bool:
    return len(rows) <= 1 or sum(lengths[row] for row in rows) <= micro_batch_tokens


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)

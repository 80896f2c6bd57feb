"""Which rows form an optimizer step, and how one step's rows are spread over ranks and micro-batches.

The rows of step *s* are a function of (seed, epoch, s) alone; world size and micro-batches only split them. So a
packed run equals an unpacked one, accumulation equals a large batch, and two ranks equal one. Pure, torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heapreplace

import numpy as np

# Indices of the rows that are computed at once. An empty one stands for a dummy token with no loss.
MicroBatch = tuple[int, ...]


@dataclass(frozen=True)
class DataOrder:
    """The order in which rows are seen: a permutation per epoch, cut into steps of `global_batch_size` rows."""

    row_count: int
    global_batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last one may have fewer rows."""
        return -(-self.row_count // self.global_batch_size)

    def rows_of_step(self, step: int) -> list[int]:
        """Row numbers of a step, counted from 0 over all epochs."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.global_batch_size
        order = _permutation(self.seed, epoch, self.row_count)
        return [int(row) for row in order[start : start + self.global_batch_size]]


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


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, row_count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # RandomState, not default_rng: numpy promises never to change its streams (NEP 19).
    return np.random.RandomState([seed, epoch]).permutation(row_count)


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

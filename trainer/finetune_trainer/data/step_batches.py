"""The steps of a run as tensors: what this rank computes, micro-batch by micro-batch.

An iterable of its own instead of a DataLoader: starting at step k costs nothing, and accelerate, whose sampler
repeats rows to fill up ranks, never shards it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune_trainer.data.batches import DataOrder, MicroBatch, split_step
from finetune_trainer.data.prepared import PreparedRows


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end as one sequence [1, tokens]; positions start again at 0 with every row.

    `document_lengths` tell attention where rows end. `prediction_positions` are the places whose next token is
    learned, `targets` those tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    document_lengths: tuple[int, ...]
    prediction_positions: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> PackedRows:
        """The same rows on another device."""
        return PackedRows(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.document_lengths,
            self.prediction_positions.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one optimizer step, and the step's size over all ranks."""

    micro_batches: tuple[PackedRows, ...]
    tokens: int
    learned_tokens: int


@dataclass(frozen=True)
class StepBatches:
    """Iterates over the steps from `first_step` up to `total_steps` for one rank."""

    rows: PreparedRows
    order: DataOrder
    first_step: int
    total_steps: int
    rank: int
    world_size: int
    micro_batch_tokens: int

    def __len__(self) -> int:
        return self.total_steps - self.first_step

    def __iter__(self) -> Iterator[StepBatch]:
        for step in range(self.first_step, self.total_steps):
            yield self.step_batch(step)

    def step_batch(self, step: int) -> StepBatch:
        """Build one step; every rank knows the size of the whole step without asking the others."""
        rows = self.order.rows_of_step(step)
        return StepBatch(
            micro_batches=tuple(
                pack_rows(self.rows, [rows[index] for index in chosen]) for chosen in self._share(rows)
            ),
            tokens=sum(self.rows.row_length(row) for row in rows),
            learned_tokens=sum(_learned_count(self.rows, row) for row in rows),
        )

    def micro_batches_of_step(self, step: int) -> int:
        """How many micro-batches each rank computes in a step."""
        return len(self._share(self.order.rows_of_step(step)))

    def _share(self, rows: Sequence[int]) -> tuple[MicroBatch, ...]:
        lengths = [self.rows.row_length(row) for row in rows]
        return split_step(lengths, self.world_size, self.micro_batch_tokens)[self.rank]


def pack_rows(rows: PreparedRows, chosen: Sequence[int]) -> PackedRows:
    """Lay the chosen rows end to end; none at all gives a single token that nothing is learned from."""
    if not chosen:
        return _dummy()
    lengths = [rows.row_length(row) for row in chosen]
    input_ids = np.concatenate([np.asarray(rows.row_input_ids(row)) for row in chosen]).astype(np.int64)
    learned = np.concatenate([_learned(rows, row) for row in chosen])
    # Token i is predicted from position i - 1; a row's first token is predicted from nothing.
    learned_at = np.flatnonzero(learned)
    return PackedRows(
        input_ids=torch.from_numpy(input_ids)[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        document_lengths=tuple(lengths),
        prediction_positions=torch.from_numpy(learned_at - 1),
        targets=torch.from_numpy(input_ids[learned_at]),
    )


def _dummy() -> PackedRows:
    nothing = torch.zeros(0, dtype=torch.long)
    token = torch.zeros(1, 1, dtype=torch.long)
    return PackedRows(token, token, (1,), nothing, nothing)


def _learned(rows: PreparedRows, row: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    learned = np.array(rows.row_learned(row), dtype=bool)
    learned[0] = False
    return learned


def _learned_count(rows: PreparedRows, row: int) -> int:
    return int(np.count_nonzero(np.asarray(rows.row_learned(row))[1:]))

"""The steps of a run as tensors: what this rank computes, micro-batch by micro-batch.

An iterable of its own instead of a DataLoader: starting at step k costs nothing, and accelerate, whose sampler
repeats rows to fill up ranks, never shards it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune_api.spec import Task
from finetune_trainer.data.batches import (
    DataOrder,
    MicroBatch,
    StandingOrder,
    split_step,
    split_step_padded,
)
from finetune_trainer.data.prepared import Int64s, PreparedRows


@dataclass(frozen=True)
class LearnedPositions:
    """The places of a micro-batch that something is learned at, int64 [positions] each.

    `indices` count the tokens of the micro-batch row by row, padding included. `targets` are the next tokens, or the
    class of the row. `sources` are the data sources the rows came from.
    """

    indices: torch.Tensor
    targets: torch.Tensor
    sources: torch.Tensor
    # The most that any rank has in this micro-batch: where parameters are sharded, all must compute as many chunks.
    most_of_any_rank: int = 0

    def to(self, device: torch.device) -> LearnedPositions:
        """The same positions on another device."""
        indices, targets, sources = (
            tensor.to(device, non_blocking=True) for tensor in (self.indices, self.targets, self.sources)
        )
        return LearnedPositions(indices, targets, sources, self.most_of_any_rank)


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end as one sequence [1, tokens]; positions start again at 0 with every row.

    `document_lengths` tell attention where rows end.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    document_lengths: tuple[int, ...]
    learned: LearnedPositions

    def to(self, device: torch.device) -> PackedRows:
        """The same rows on another device."""
        return PackedRows(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.document_lengths,
            self.learned.to(device),
        )

    def model_inputs(self) -> dict[str, object]:
        """What the model's forward takes."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "document_lengths": self.document_lengths,
            "learned": self.learned,
            "row_length": self.input_ids.shape[1],
        }


@dataclass(frozen=True)
class PaddedRows:
    """Rows one below the other, each filled up at its end: input_ids and attention_mask [rows, longest]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    learned: LearnedPositions

    def to(self, device: torch.device) -> PaddedRows:
        """The same rows on another device."""
        return PaddedRows(
            self.input_ids.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.learned.to(device),
        )

    def model_inputs(self) -> dict[str, object]:
        """What the model's forward takes."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "learned": self.learned,
            "row_length": self.input_ids.shape[1],
        }


MicroRows = PackedRows | PaddedRows


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of one optimizer step, and the step's size over all ranks."""

    micro_batches: tuple[MicroRows, ...]
    tokens: int
    learned_tokens: int


@dataclass(frozen=True)
class StepBatches:
    """Iterates over the steps from `first_step` up to `total_steps` for one rank."""

    rows: PreparedRows
    order: DataOrder | StandingOrder
    first_step: int
    total_steps: int
    rank: int
    world_size: int
    micro_batch_tokens: int
    task: Task = Task.CAUSAL_LM
    is_packed: bool = True

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row is seen once."""
        return self.order.steps_per_epoch

    def __len__(self) -> int:
        return self.total_steps - self.first_step

    def __iter__(self) -> Iterator[StepBatch]:
        for step in range(self.first_step, self.total_steps):
            yield self.step_batch(step)

    def step_batch(self, step: int) -> StepBatch:
        """Build one step; every rank knows the size of the whole step without asking the others."""
        rows = self.order.rows_of_step(step)
        learned = [learned_count(self.rows, row, self.task) for row in rows]
        lay_out = pack_rows if self.is_packed else pad_rows
        return StepBatch(
            micro_batches=tuple(
                lay_out(
                    self.rows,
                    [rows[index] for index in of_ranks[self.rank]],
                    self.task,
                    most_of_any_rank=max(sum(learned[index] for index in chosen) for chosen in of_ranks),
                )
                for of_ranks in self._at_the_same_time(rows)
            ),
            tokens=sum(self.rows.row_length(row) for row in rows),
            learned_tokens=sum(learned),
        )

    def micro_batches_of_step(self, step: int) -> int:
        """How many micro-batches each rank computes in a step."""
        return len(self._at_the_same_time(self.order.rows_of_step(step)))

    def _at_the_same_time(self, rows: Sequence[int]) -> list[tuple[MicroBatch, ...]]:
        """For each micro-batch, the rows of every rank: places in `rows`."""
        lengths = [self.rows.row_length(row) for row in rows]
        split = split_step if self.is_packed else split_step_padded
        return list(zip(*split(lengths, self.world_size, self.micro_batch_tokens), strict=True))


def pack_rows(
    rows: PreparedRows,
    chosen: Sequence[int],
    task: Task = Task.CAUSAL_LM,
    *,
    most_of_any_rank: int = 0,
) -> PackedRows:
    """Lay the chosen rows end to end; none at all gives a single token that nothing is learned from."""
    if not chosen:
        token = torch.zeros(1, 1, dtype=torch.long)
        return PackedRows(token, token, (1,), _nothing(most_of_any_rank))
    lengths = [rows.row_length(row) for row in chosen]
    input_ids = np.concatenate([rows.row_input_ids(row) for row in chosen]).astype(np.int64)
    starts = np.cumsum([0, *lengths[:-1]])
    return PackedRows(
        input_ids=torch.from_numpy(input_ids)[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        document_lengths=tuple(lengths),
        learned=_learned_positions(rows, chosen, starts, task, most_of_any_rank),
    )


def pad_rows(
    rows: PreparedRows,
    chosen: Sequence[int],
    task: Task = Task.CAUSAL_LM,
    *,
    most_of_any_rank: int = 0,
) -> PaddedRows:
    """Lay the chosen rows one below the other; none at all gives a single token that nothing is learned from."""
    if not chosen:
        token = torch.zeros(1, 1, dtype=torch.long)
        return PaddedRows(token, torch.ones_like(token), _nothing(most_of_any_rank))
    lengths = [rows.row_length(row) for row in chosen]
    longest = max(lengths)
    input_ids = np.zeros((len(chosen), longest), np.int64)
    for place, row in enumerate(chosen):
        input_ids[place, : lengths[place]] = rows.row_input_ids(row)
    attended = np.arange(longest)[None] < np.array(lengths)[:, None]
    return PaddedRows(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attended.astype(np.int64)),
        learned=_learned_positions(rows, chosen, np.arange(len(chosen)) * longest, task, most_of_any_rank),
    )


def learned_count(rows: PreparedRows, row: int, task: Task) -> int:
    """At how many places of a row something is learned: its learned tokens but the first, or its class."""
    if task is Task.SEQUENCE_CLASSIFICATION:
        return 1
    return int(np.count_nonzero(rows.row_learned(row)[1:]))


def _nothing(most_of_any_rank: int) -> LearnedPositions:
    none = torch.zeros(0, dtype=torch.long)
    return LearnedPositions(none, none, none, most_of_any_rank)


def _learned_positions(
    rows: PreparedRows, chosen: Sequence[int], starts: Int64s, task: Task, most_of_any_rank: int
) -> LearnedPositions:
    found = [_learned_in_row(rows, row, task) for row in chosen]
    sources = [
        np.full(len(inside), rows.row_source(row)) for row, (inside, _) in zip(chosen, found, strict=True)
    ]
    indices = [inside + start for start, (inside, _) in zip(starts, found, strict=True)]
    return LearnedPositions(
        torch.from_numpy(np.concatenate(indices)),
        torch.from_numpy(np.concatenate([targets for _, targets in found])),
        torch.from_numpy(np.concatenate(sources)),
        most_of_any_rank,
    )


def _learned_in_row(rows: PreparedRows, row: int, task: Task) -> tuple[Int64s, Int64s]:
    """Places inside the row, and what is learned there."""
    if task is Task.SEQUENCE_CLASSIFICATION:
        return np.array([rows.row_length(row) - 1]), np.array([rows.row_label(row)])
    # Token i is predicted from position i - 1; a row's first token is predicted from nothing.
    learned_at = np.flatnonzero(rows.row_learned(row)[1:]) + 1
    return learned_at - 1, rows.row_input_ids(row)[learned_at].astype(np.int64)

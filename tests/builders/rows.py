"""Prepared rows as prepare writes them, without tokenising anything."""

from __future__ import annotations

import array
import random
from collections.abc import Sequence
from pathlib import Path

from finetune_trainer.data.prepared import PreparedRows, TokenizedRow, write_rows


def make_rows(lengths: Sequence[int], *, vocabulary: int = 256, seed: int = 0) -> list[TokenizedRow]:
    """Rows of these lengths; about the second half of each is learned."""
    source = random.Random(seed)
    return [
        TokenizedRow(
            input_ids=array.array("i", [source.randrange(vocabulary) for _ in range(length)]),
            learned=bytes(int(position >= length // 2) for position in range(length)),
        )
        for length in lengths
    ]


def write_prepared_rows(path: Path, lengths: Sequence[int], **changes: int) -> PreparedRows:
    """The rows as a file, opened."""
    write_rows(path, make_rows(lengths, **changes))
    return PreparedRows(path)

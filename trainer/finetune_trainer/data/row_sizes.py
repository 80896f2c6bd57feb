"""Lengths and weights of the training rows, in a file of their own: a run's forecast needs them, and not the rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune_trainer.data.prepared import PreparedRows

if TYPE_CHECKING:
    from finetune_trainer.storage import ObjectStore

SIZES_FILE_NAME = "sizes.arrow"


@dataclass(frozen=True)
class RowSizes:
    """Arrays [training rows]: tokens of each, and how often it is seen in an epoch."""

    lengths: np.ndarray[tuple[int], np.dtype[np.int64]]
    weights: np.ndarray[tuple[int], np.dtype[np.float32]]


def write_sizes(path: Path, rows: PreparedRows) -> None:
    """Write the sizes of these rows."""
    columns = {"length": pa.array(rows.lengths, pa.int32()), "weight": pa.array(rows.weights)}
    table = pa.table(columns)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def load_sizes(store: ObjectStore, prepared_uri: str) -> RowSizes:
    """Read the sizes of a prepared data set."""
    data = store.read_bytes(f"{prepared_uri}/{SIZES_FILE_NAME}")
    table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
    lengths = table.column("length").to_numpy().astype(np.int64)
    return RowSizes(lengths, table.column("weight").to_numpy())

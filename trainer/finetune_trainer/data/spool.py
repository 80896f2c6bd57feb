"""Rows between the two halves of preparation: tokenised ones on the pod's disk, what decides about them in memory.

Workers hand over record batches; they go to one Arrow file as they come. A million short rows are some 50 MB of facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finetune_trainer.data.rows import Place

KEY_BYTES = 16
Keys = np.ndarray[tuple[int, int], np.dtype[np.uint8]]

# Columns that stay in memory. `label` is a number of the class, -1 without one; `copy` counts augmented copies from 1.
_FACTS: dict[str, np.dtype[Any]] = {
    "source": np.dtype(np.int16),
    "file": np.dtype(np.int32),
    "number": np.dtype(np.int64),
    "is_line": np.dtype(np.bool_),
    "copy": np.dtype(np.int8),
    "label": np.dtype(np.int32),
    "length": np.dtype(np.int32),
    "learned_count": np.dtype(np.int32),
}
_KEYS = ("key", "text_key")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.from_numpy_dtype(dtype)) for name, dtype in _FACTS.items()),
        pa.field("key", pa.binary(KEY_BYTES)),
        # The same without the label, of rows that have one.
        pa.field("text_key", pa.binary(KEY_BYTES)),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("learned", pa.list_(pa.uint8())),
        # For near duplicates alone: MinHash's signature, or the text that TF-IDF weighs.
        pa.field("signature", pa.binary()),
        pa.field("text", pa.large_string()),
        # The beginning of the row's text, cleaned: what the report shows of rows that are left out.
        pa.field("excerpt", pa.string()),
    ]
)


def encode_batch(columns: Sequence[pa.Array]) -> bytes:
    """A record batch as bytes, to be handed to another process."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(list(columns), schema=SCHEMA))
    return bytes(sink.getvalue())


@dataclass(frozen=True)
class RowFacts:
    """What is decided on, for each spooled row: arrays [rows], in the order of the data."""

    source: np.ndarray[tuple[int], np.dtype[np.int16]]
    file: np.ndarray[tuple[int], np.dtype[np.int32]]
    number: np.ndarray[tuple[int], np.dtype[np.int64]]
    is_line: np.ndarray[tuple[int], np.dtype[np.bool_]]
    copy: np.ndarray[tuple[int], np.dtype[np.int8]]
    label: np.ndarray[tuple[int], np.dtype[np.int32]]
    length: np.ndarray[tuple[int], np.dtype[np.int32]]
    learned_count: np.ndarray[tuple[int], np.dtype[np.int32]]
    # [rows, 16]: equal for rows that say the same.
    key: Keys
    # The same, whatever label the rows have; where none has one it is the key.
    text_key: Keys

    def __len__(self) -> int:
        return len(self.source)

    def place(self, row: int, files: Sequence[str]) -> Place:
        """Where a row stands."""
        return Place(
            files[int(self.file[row])], "line" if self.is_line[row] else "row", int(self.number[row])
        )


class Spool:
    """The file of spooled rows: first written, then read any number of times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._facts: dict[str, list[Any]] = {name: [] for name in (*_FACTS, *_KEYS)}

    def add(self, encoded: bytes) -> None:
        """Append what a worker made."""
        batch = pa.ipc.open_stream(pa.py_buffer(encoded)).read_next_batch()
        self._writer.write_batch(batch)
        for name in _FACTS:
            # Copied, or the view would keep the whole batch in memory.
            self._facts[name].append(batch.column(name).to_numpy(zero_copy_only=False).copy())
        key = _keys(batch.column("key")).copy()
        self._facts["key"].append(key)
        has_labels = batch.column("text_key").null_count < batch.num_rows
        self._facts["text_key"].append(_keys(batch.column("text_key")).copy() if has_labels else key)

    def finish(self) -> RowFacts:
        """Close the file; return the facts of all its rows."""
        self._writer.close()
        columns: dict[str, Any] = {
            name: np.concatenate([np.zeros(0, dtype), *self._facts[name]]) for name, dtype in _FACTS.items()
        }
        nothing = np.zeros((0, KEY_BYTES), np.uint8)
        keys = {name: np.concatenate([nothing, *self._facts[name]]) for name in _KEYS}
        self._facts.clear()
        return RowFacts(**columns, **keys)

    def batches(self) -> Iterator[Any]:
        """The record batches in order, memory-mapped."""
        reader = pa.ipc.open_file(pa.memory_map(str(self._path)))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)

    def column(self, name: str) -> Iterator[Any]:
        """The values of one column, row by row."""
        for batch in self.batches():
            yield from batch.column(name).to_pylist()


def _keys(column: Any) -> Keys:  # noqa: ANN401
    data = column.fill_null(bytes(KEY_BYTES)).buffers()[1]
    return np.frombuffer(data, np.uint8, count=len(column) * KEY_BYTES).reshape(-1, KEY_BYTES)

"""The prepared data set in the store: tokenised rows with the learned tokens marked, manifest last.

prepare writes it, train and export read it. Each split is one Arrow IPC file, written as a stream and read through a
memory map, so that neither side ever holds it: `input_ids` list<int32>, `learned` list<uint8> (1 where a token is
learned), `label` int32 (null but for classification), `source` int16 (place in the report's list), `number` int64
(line or row of that source), `weight` float32 (how often a training row is seen in an epoch).
"""

from __future__ import annotations

import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.layout import FileEntry
from finetune_trainer.data.rows import Split
from finetune_trainer.errors import ObjectDamaged, ObjectMissing
from finetune_trainer.file_entries import file_entry, file_problem

if TYPE_CHECKING:  # boto3 would be imported wherever rows are tokenised
    from finetune_trainer.storage import ObjectStore

# A few rows of the data, what export compares models on: so that it need not fetch the rest.
SAMPLE_FILE_NAME = "sample.arrow"
SAMPLE_ROWS = 64
REPORT_FILE_NAME = "data-report.json"
MANIFEST_FILE_NAME = "manifest.json"

SCHEMA = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("learned", pa.list_(pa.uint8()), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("source", pa.int16(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
    ]
)
_BATCH_ROWS = 1024

Int32s = np.ndarray[tuple[int], np.dtype[np.int32]]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Int16s = np.ndarray[tuple[int], np.dtype[np.int16]]
Int64s = np.ndarray[tuple[int], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int], np.dtype[np.float32]]


def split_file_name(split: Split) -> str:
    """The file of a split's rows."""
    return f"{split}.arrow"


class PreparedManifest(ApiModel):
    """`manifest.json` of a prepared data set: its existence says that the rest is complete."""

    schema_version: Literal[2] = 2
    digest: str
    rows: int
    rows_validation: int
    rows_test: int
    rows_dropped: int
    # Rows of an epoch: more or fewer than `rows` where sources or classes have weights.
    rows_per_epoch: int
    tokens: int
    learned_tokens: int
    longest_row_tokens: int
    mask_source: str
    # The template the exported model carries; empty where neither the model nor the job has one.
    chat_template: str
    labels: tuple[str, ...] = ()
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class TokenizedRow:
    """One row: token ids, for each 1 where it is learned, and the class where the task has classes."""

    input_ids: array.array[int]
    learned: bytes
    label: int | None = None

    @property
    def learned_count(self) -> int:
        """How many tokens are learned."""
        return sum(self.learned)


class PreparedRowsWriter:
    """Writes rows as one Arrow file in batches of the same number of rows, so that equal rows make equal files."""

    def __init__(self, path: Path) -> None:
        self._writer = pa.ipc.new_file(str(path), SCHEMA)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def __enter__(self) -> PreparedRowsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._pending_rows:
            self._write_pending()
        self._writer.close()

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows of SCHEMA."""
        while rows.num_rows:
            taken = rows.slice(0, _BATCH_ROWS - self._pending_rows)
            rows = rows.slice(taken.num_rows)
            self._pending.append(taken)
            self._pending_rows += taken.num_rows
            if self._pending_rows == _BATCH_ROWS:
                self._write_pending()

    def _write_pending(self) -> None:
        # Copied into one, since a slice would carry the batch it was cut from into the file.
        self._writer.write_batch(pa.concat_batches(self._pending))
        self._pending, self._pending_rows = [], 0


def tokenized_columns(rows: Sequence[TokenizedRow]) -> list[pa.Array]:
    """The columns `input_ids`, `learned` and `label` of rows."""
    offsets = np.cumsum([0, *(len(row.input_ids) for row in rows)], dtype=np.int32)
    ids = np.frombuffer(b"".join(row.input_ids.tobytes() for row in rows), np.int32)
    learned = np.frombuffer(b"".join(row.learned for row in rows), np.uint8)
    return [
        pa.ListArray.from_arrays(offsets, ids),
        pa.ListArray.from_arrays(offsets, learned),
        pa.array([row.label for row in rows], pa.int32()),
    ]


def write_rows(path: Path, rows: Iterable[TokenizedRow], weights: Sequence[float] | None = None) -> None:
    """Write a few rows as one file."""
    listed = list(rows)
    numbers = pa.array(range(1, len(listed) + 1), pa.int64())
    columns = [
        *tokenized_columns(listed),
        pa.array([0] * len(listed), pa.int16()),
        numbers,
        pa.array(weights if weights is not None else [1.0] * len(listed), pa.float32()),
    ]
    with PreparedRowsWriter(path) as writer:
        writer.add(pa.record_batch(columns, schema=SCHEMA))


class PreparedRows:
    """Random access to the rows of one split: views into the memory-mapped file, nothing is copied."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [_Batch(reader.get_batch(number)) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(len(batch.starts) - 1 for batch in self._batches)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row_length(self, row: int) -> int:
        """Tokens of a row."""
        batch, inside = self._find(row)
        return int(batch.starts[inside + 1] - batch.starts[inside])

    def row_input_ids(self, row: int) -> Int32s:
        """Token ids of a row, int32 [tokens]."""
        batch, inside = self._find(row)
        return batch.input_ids[batch.starts[inside] : batch.starts[inside + 1]]

    def row_learned(self, row: int) -> Bytes:
        """1 for each learned token of a row, uint8 [tokens]."""
        batch, inside = self._find(row)
        return batch.learned[batch.starts[inside] : batch.starts[inside + 1]]

    def row_source(self, row: int) -> int:
        """Where in the report's list the row's source stands."""
        batch, inside = self._find(row)
        return int(batch.sources[inside])

    def row_label(self, row: int) -> int:
        """The class of a row, for rows that have one."""
        batch, inside = self._find(row)
        label = batch.columns["label"][inside].as_py()
        assert label is not None, "rows of classes are prepared with their class"
        return int(label)

    @property
    def source_count(self) -> int:
        """How many sources the rows came from, at most: one more than the largest number of one."""
        return 1 + max(
            (int(batch.sources.max()) for batch in self._batches if len(batch.sources)), default=-1
        )

    def row(self, row: int) -> TokenizedRow:
        """A row of its own, apart from the file."""
        batch, inside = self._find(row)
        label = batch.columns["label"][inside].as_py()
        ids = array.array("i", self.row_input_ids(row).tobytes())
        return TokenizedRow(ids, self.row_learned(row).tobytes(), label)

    @property
    def lengths(self) -> Int64s:
        """Tokens of every row, int64 [rows]."""
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.diff(batch.starts).astype(np.int64) for batch in self._batches)]
        )

    @property
    def weights(self) -> Floats:
        """How often each row is seen in an epoch, float32 [rows]."""
        return np.concatenate(
            [np.zeros(0, np.float32), *(batch.columns["weight"].to_numpy() for batch in self._batches)]
        )

    @property
    def learned_tokens(self) -> int:
        """Learned tokens of all rows."""
        return sum(int(np.count_nonzero(batch.learned)) for batch in self._batches)

    def _find(self, row: int) -> tuple[_Batch, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]


class _Batch:
    """One record batch as numpy arrays on the mapped file."""

    def __init__(self, batch: Any) -> None:  # noqa: ANN401 (pyarrow has no types)
        self.columns = {name: batch.column(name) for name in ("label", "weight")}
        self.sources: Int16s = batch.column("source").to_numpy()
        ids, learned = batch.column("input_ids"), batch.column("learned")
        self.starts: Int32s = ids.offsets.to_numpy()
        self.input_ids: Int32s = ids.values.to_numpy()
        self.learned: Bytes = learned.values.to_numpy()


# --- the store -------------------------------------------------------------------------------------------------


def load_prepared_manifest(store: ObjectStore, prepared_uri: str) -> PreparedManifest | None:
    """Read the manifest; None where this data set was not prepared yet, or by another version of the format."""
    try:
        return PreparedManifest.model_validate_json(store.read_bytes(f"{prepared_uri}/{MANIFEST_FILE_NAME}"))
    except (ObjectMissing, ValidationError):
        return None


def save_prepared(
    store: ObjectStore, prepared_uri: str, directory: Path, facts: PreparedManifest
) -> PreparedManifest:
    """Upload everything in `directory`, then the manifest with the files' digests."""
    names = sorted(path.name for path in directory.iterdir())
    manifest = facts.model_copy(
        update={"files": tuple(file_entry(directory / name, directory) for name in names)}
    )
    store.upload_files({f"{prepared_uri}/{name}": directory / name for name in names})
    store.write_bytes(
        f"{prepared_uri}/{MANIFEST_FILE_NAME}", (manifest.model_dump_json(indent=2) + "\n").encode()
    )
    return manifest


def download_prepared(
    store: ObjectStore, prepared_uri: str, directory: Path, names: Sequence[str] | None = None
) -> None:
    """Download files of a prepared data set (default: all rows) and compare them with the manifest."""
    manifest = load_prepared_manifest(store, prepared_uri)
    if manifest is None:
        raise ObjectMissing(
            f"{prepared_uri}/{MANIFEST_FILE_NAME} does not exist. Delete and re-apply the FineTuneJob to prepare again."
        )
    entries = {entry.name: entry for entry in manifest.files}
    wanted = names if names is not None else [split_file_name(split) for split in Split]
    present = [name for name in wanted if name in entries]
    store.download_folder(prepared_uri, directory, present)
    for name in present:
        if (problem := file_problem(directory / name, entries[name])) is not None:
            raise ObjectDamaged(
                f"The prepared data at {prepared_uri} are damaged: {problem}. Delete the folder and apply the job anew."
            )

"""Parquet files, and Arrow files and streams, read in small batches so that memory does not grow with the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_trainer.data.files import bounds
from finetune_trainer.data.files.arrow_cells import CellProblem, plain_cells
from finetune_trainer.data.files.no_rows import NoRows
from finetune_trainer.data.rows import Place, RawRow, RowProblem
from finetune_trainer.errors import DataError

_MAX_BATCH_ROWS = 1024
_BATCH_BYTES = 4 * 1024 * 1024
_PAGE_BUFFER_BYTES = 1024 * 1024
_SHOWN_NAME = 40
# pandas writes its row numbers as a column of their own.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def read_parquet(label: str, path: Path) -> Iterator[RawRow | RowProblem]:
    """Read the rows of a Parquet file. Raises DataError where it is damaged."""
    # Pages are read one by one: a column of a row group may be larger than the pod's memory.
    with (
        _damage_told(label, "Parquet"),
        pq.ParquetFile(
            path, buffer_size=_PAGE_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file,
    ):
        groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        rows = batch_rows(size, file.metadata.num_rows)
        yield from _rows(label, file.schema_arrow, file.iter_batches(batch_size=rows, use_threads=False))


def read_arrow_file(label: str, path: Path) -> Iterator[RawRow | RowProblem]:
    """Read the rows of an Arrow IPC file (also called Feather 2). Raises DataError where it is damaged."""
    with _damage_told(label, "Arrow"), pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
        yield from _rows(label, file.schema, _small(batches))


def read_arrow_stream(label: str, path: Path) -> Iterator[RawRow | RowProblem]:
    """Read the rows of an Arrow IPC stream. Raises DataError where it is damaged."""
    with _damage_told(label, "Arrow"), pa.memory_map(str(path)) as source:
        stream = pa.ipc.open_stream(source)
        yield from _rows(label, stream.schema, _small(stream))


@contextmanager
def _damage_told(label: str, kind: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{label} is a {kind} file with something that is not read ({_reason(error)}). "
            "Write it again with plain columns and zstd, or as .jsonl."
        ) from error
    # The last stands for names of columns; a cell that is not UTF-8 spoils its row only.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:  # the disk, not the content
            raise
        raise DataError(
            f"{label} is a damaged {kind} file, or one that was cut short ({_reason(error)}). "
            "Write it again, or copy the whole file again."
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".")[:200] if lines else type(error).__name__


# --- rows ------------------------------------------------------------------------------------------------------


def _rows(label: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[RawRow | RowProblem]:
    names = _column_names(label, schema)
    number = 0
    for batch in batches:
        for row in _batch(label, names, batch.select(names), number):
            number += 1
            yield row
    if not number:
        raise NoRows(f"{label} has columns and no rows. Put rows into it, or name another file.")


def _column_names(label: str, schema: pa.Schema) -> list[str]:
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise DataError(
            f"{label} has the column '{repeated[0][:_SHOWN_NAME]}' more than once. Give each column a name of its own."
        )
    return [name for name in schema.names if not _PANDAS_INDEX.fullmatch(name)]


def _batch(
    label: str, names: list[str], batch: pa.RecordBatch, rows_before: int
) -> Iterator[RawRow | RowProblem]:
    too_long = _too_long(batch)
    columns = [plain_cells(column) for column in batch.columns]
    has_problems = any(problems for _, problems in columns)
    for number, cells in enumerate(zip(*(cells for cells, _ in columns), strict=True)):
        place = Place(label, "row", rows_before + number + 1)
        if number in too_long:
            yield RowProblem(place, f"longer than {bounds.mebibytes(bounds.MAX_ROW_BYTES)}")
        elif has_problems and (problem := _problem(place, names, cells)):
            yield problem
        else:
            yield RawRow(place, dict(zip(names, cells, strict=True)))


def _problem(place: Place, names: list[str], cells: tuple[object, ...]) -> RowProblem | None:
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, CellProblem):
            return RowProblem(place, f"column '{name[:_SHOWN_NAME]}' {cell.reason}", name)
    return None


def _too_long(batch: pa.RecordBatch) -> frozenset[int]:
    limit = bounds.MAX_ROW_BYTES
    if batch.nbytes <= limit:
        return frozenset()
    return frozenset(number for number in range(len(batch)) if batch.slice(number, 1).nbytes > limit)


def _small(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        # Offsets in a damaged file point anywhere, also out of the process's memory.
        batch.validate(full=True)
        rows = batch_rows(batch.nbytes, len(batch))
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def batch_rows(size_bytes: int, rows: int) -> int:
    """How many rows are held at once: a thousand, or fewer where rows are long."""
    bytes_a_row = max(1, size_bytes // max(1, rows))
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // bytes_a_row))

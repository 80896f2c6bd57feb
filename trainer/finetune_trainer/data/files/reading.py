"""A file of any readable kind as rows, in order. What a row says is not looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.data.files.compression import open_unpacked, unpack_file
from finetune_trainer.data.files.containers import COLUMNAR, Container, FileKind, inspect_file
from finetune_trainer.data.files.delimited import read_delimited
from finetune_trainer.data.files.encodings import open_text
from finetune_trainer.data.files.json_lines import read_json_lines
from finetune_trainer.data.files.json_lists import read_json_list
from finetune_trainer.data.files.no_rows import NoRows
from finetune_trainer.data.files.text_blocks import read_text_blocks
from finetune_trainer.data.rows import RawRow, RowProblem


def read_file(label: str, path: Path) -> Iterator[RawRow | RowProblem]:
    """Read the rows of a file that the user knows as `label`.

    Raises DataError for a file that cannot be read, NoRows for one that is in order and has none.
    """
    kind = inspect_file(label, path)
    has_rows = False
    for row in (
        _columnar_rows(label, path, kind) if kind.container in COLUMNAR else _text_rows(label, path, kind)
    ):
        has_rows = True
        yield row
    if not has_rows:
        raise NoRows(f"{label} has no rows. Put rows into it, or name another file.")


def describe_file(label: str, path: Path) -> tuple[str, ...]:
    """What the report should say about how a file is read. Raises DataError as `read_file` does."""
    return inspect_file(label, path).notes


def _text_rows(label: str, path: Path, kind: FileKind) -> Iterator[RawRow | RowProblem]:
    with open_unpacked(label, path) as (file, _):
        text = open_text(label, file, kind.encoding)
        yield from _rows_of_text(label, text, kind)


def _rows_of_text(label: str, text: BinaryIO, kind: FileKind) -> Iterator[RawRow | RowProblem]:
    codec = kind.encoding.line_codec
    match kind.container:
        case Container.JSON_LIST:
            return read_json_list(label, text, codec)
        case Container.COMMA_SEPARATED:
            return read_delimited(label, text, codec, ",")
        case Container.TAB_SEPARATED:
            return read_delimited(label, text, codec, "\t")
        case Container.TEXT_BLOCKS:
            return read_text_blocks(label, text, codec)
        case _:
            return read_json_lines(label, text, codec)


def _columnar_rows(label: str, path: Path, kind: FileKind) -> Iterator[RawRow | RowProblem]:
    if not kind.compressions:
        yield from _rows_of_columns(label, path, kind)
        return
    with tempfile.TemporaryDirectory(prefix="unpacked-") as directory:
        unpacked = Path(directory, "rows")
        unpack_file(label, path, unpacked)
        yield from _rows_of_columns(label, unpacked, kind)


def _rows_of_columns(label: str, path: Path, kind: FileKind) -> Iterator[RawRow | RowProblem]:
    # Here, because pyarrow takes as long to start as reading a small file.
    from finetune_trainer.data.files import columnar

    match kind.container:
        case Container.PARQUET:
            return columnar.read_parquet(label, path)
        case Container.ARROW_FILE:
            return columnar.read_arrow_file(label, path)
        case _:
            return columnar.read_arrow_stream(label, path)

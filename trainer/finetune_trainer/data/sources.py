"""Fetches the sources of training rows and reads them row by row: what a row says is not looked at yet.

A row that cannot be read is a `RowProblem` beside the others; a file that cannot be read is a DataError.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from finetune_api import names
from finetune_api.spec import Dataset, DataSource, Store
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage import ObjectStore

# A longer line is a file in another format, or an attempt to fill the pod's memory.
MAX_ROW_BYTES = 16 * 1024 * 1024
# A list must be held whole; larger data belong in a .jsonl file.
MAX_JSON_LIST_BYTES = 512 * 1024 * 1024
_READABLE_SUFFIXES = (".jsonl", ".json", ".ndjson", "")
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")

StoreOpener = Callable[[Store], ObjectStore]


@dataclass(frozen=True)
class LocalSource:
    """A source whose bytes are here: a file, or the rows written into the job."""

    label: str
    settings: DataSource
    path: Path | None


@dataclass(frozen=True)
class RowProblem:
    """Why a row cannot be used; the sentence begins with where it stands."""

    sentence: str


@dataclass(frozen=True)
class RawRow:
    """A row as it was written: any JSON value, and where it stands."""

    where: str
    value: object


# --- fetching --------------------------------------------------------------------------------------------------


def fetch_sources(
    dataset: Dataset, default_store: Store, open_store: StoreOpener, directory: Path
) -> list[LocalSource]:
    """Bring every source of `dataset.train` here. Raises UserError for what does not exist or has an unknown format."""
    return [
        _fetch(source, f"dataset.train[{number}]", default_store, open_store, directory / str(number))
        for number, source in enumerate(dataset.train)
    ]


def _fetch(
    source: DataSource, field: str, default_store: Store, open_store: StoreOpener, directory: Path
) -> LocalSource:
    if source.source is None:
        return LocalSource(f"{field}.inline", source, None)
    _refuse_unreadable_suffix(source.source, field)
    if source.source.startswith("configMap://"):
        return LocalSource(source.source, source, _config_map_file(source.source, field))
    path = directory / "rows"
    open_store(source.store or default_store).download_file(source.source, path)
    return LocalSource(source.source, source, path)


def _refuse_unreadable_suffix(uri: str, field: str) -> None:
    suffix = Path(uri.lower().removesuffix(".gz")).suffix
    if suffix not in _READABLE_SUFFIXES:
        raise UserError(
            f"{field}.source {uri} ends with {suffix}, which is not read. "
            "Convert it to .jsonl (one JSON object a line) or .json (a list of objects); .gz is accepted for both."
        )


def _config_map_file(uri: str, field: str) -> Path:
    name, _, key = uri.removeprefix("configMap://").partition("/")
    directory = Path(names.config_map_directory(name))
    path = directory / key
    if not path.is_file():
        present = sorted(found.name for found in directory.glob("*") if found.is_file())
        has = f"it has {', '.join(present[:10])}" if present else "it has no keys, or is not mounted"
        raise UserError(
            f"{field}.source {uri}: ConfigMap '{name}' has no key '{key}' ({has}). Add or correct it."
        )
    return path


# --- reading ---------------------------------------------------------------------------------------------------


def read_rows(source: LocalSource) -> Iterator[RawRow | RowProblem]:
    """Read a source's rows in order, at most `maxRows` of them. Raises DataError for a file that cannot be read."""
    return islice(_all_rows(source), source.settings.max_rows)


def _all_rows(source: LocalSource) -> Iterator[RawRow | RowProblem]:
    if source.path is None:
        rows = enumerate(source.settings.inline or [], start=1)
        return (RawRow(f"{source.label} row {number}", dict(row)) for number, row in rows)
    return _file_rows(source.label, source.path)


def _file_rows(label: str, path: Path) -> Iterator[RawRow | RowProblem]:
    try:
        with _open(path) as file:
            start = file.read(4096)
        _refuse_other_encodings(label, start)
        with _open(path) as file:
            is_list = start.removeprefix(_UTF8_BOM).lstrip().startswith(b"[")
            yield from _list_rows(label, file) if is_list else _line_rows(label, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{label} is a damaged gzip file ({error}). Compress it again and check it with `gzip -t`."
        ) from error


def _open(path: Path) -> BinaryIO:
    # By content, not by name: a .jsonl.gz is often stored, or unpacked on the way, under the other name.
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path, "rb")) if is_gzip else path.open("rb")


def _refuse_other_encodings(label: str, start: bytes) -> None:
    if start.startswith(_UTF16_BOMS) or b"\0" in start:
        found = "UTF-16" if start.startswith(_UTF16_BOMS) else "binary (it contains zero bytes)"
        raise DataError(
            f"{label} is {found}, not UTF-8 text. Save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`."
        )


def _line_rows(label: str, file: BinaryIO) -> Iterator[RawRow | RowProblem]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        where = f"{label} line {number}"
        if len(line) > MAX_ROW_BYTES:
            yield RowProblem(f"{where}: longer than {MAX_ROW_BYTES >> 20} MiB; write one JSON object a line")
            _skip_rest_of_line(file, line)
        elif line.strip():
            row = _parse(where, (line.removeprefix(_UTF8_BOM) if number == 1 else line).rstrip(b"\r\n"))
            if isinstance(row, RawRow) and _SURROGATE_ESCAPE.search(line):
                row = _without_lone_surrogates(row)
            yield row


def _skip_rest_of_line(file: BinaryIO, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_ROW_BYTES)


def _list_rows(label: str, file: BinaryIO) -> Iterator[RawRow | RowProblem]:
    data = file.read(MAX_JSON_LIST_BYTES + 1)
    if len(data) > MAX_JSON_LIST_BYTES:
        limit = f"{MAX_JSON_LIST_BYTES >> 20} MiB"
        raise DataError(f"{label} is a list of more than {limit}. Convert it to .jsonl, one object a line.")
    parsed = _parse(label, data.removeprefix(_UTF8_BOM))
    if isinstance(parsed, RowProblem):
        raise DataError(f"{parsed.sentence}. Correct the file; a .json file is a list of objects.")
    rows = parsed.value
    assert isinstance(rows, list), "what begins with a bracket and parses is a list"
    numbered = (RawRow(f"{label} row {number}", row) for number, row in enumerate(rows, start=1))
    return map(_without_lone_surrogates, numbered) if _SURROGATE_ESCAPE.search(data) else numbered


def _parse(where: str, data: bytes) -> RawRow | RowProblem:
    try:
        return RawRow(where, json.loads(data.decode("utf-8"), parse_constant=_refuse_constant))
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at position {error.start + 1}"
        return RowProblem(f"{where}: not UTF-8 ({byte}){_encoding_hint(data)}")
    except json.JSONDecodeError as error:
        position = (
            f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        )
        return RowProblem(f"{where}: not JSON ({error.msg} at {position})")
    except (ValueError, RecursionError) as error:
        return RowProblem(f"{where}: not JSON ({str(error).split(';')[0]})")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _encoding_hint(data: bytes) -> str:
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return "; save the file as UTF-8"
    return "; it may be GB18030: convert it with `iconv -f GB18030 -t UTF-8`"


def _without_lone_surrogates(row: RawRow) -> RawRow | RowProblem:
    # Legal in JSON's escapes, and impossible to tokenise.
    try:
        json.dumps(row.value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return RowProblem(
            f"{row.where}: contains half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        )
    return row

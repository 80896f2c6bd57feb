"""Which kind of file something is: by its content where that tells, else by its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from finetune_trainer.data.files import bounds, file_names
from finetune_trainer.data.files.compression import Compression, open_unpacked
from finetune_trainer.data.files.encodings import TextEncoding, decide_encoding
from finetune_trainer.data.files.foreign import refuse_foreign
from finetune_trainer.data.files.json_values import NotJson, parse_json, parse_json_at
from finetune_trainer.data.files.no_rows import NoRows
from finetune_trainer.errors import DataError


class Container(StrEnum):
    """A kind of file with rows, as people call it."""

    JSON_LINES = "JSON lines"
    JSON_LIST = "a JSON list"
    COMMA_SEPARATED = "comma-separated values"
    TAB_SEPARATED = "tab-separated values"
    TEXT_BLOCKS = "text"
    PARQUET = "Parquet"
    ARROW_FILE = "an Arrow file"
    ARROW_STREAM = "an Arrow stream"


COLUMNAR = frozenset({Container.PARQUET, Container.ARROW_FILE, Container.ARROW_STREAM})
_COLUMNAR_MAGIC = {
    b"PAR1": Container.PARQUET,
    b"ARROW1": Container.ARROW_FILE,
    # The marker before the length of the first message.
    b"\xff\xff\xff\xff": Container.ARROW_STREAM,
}
_BY_SUFFIX = {
    ".csv": Container.COMMA_SEPARATED,
    **dict.fromkeys(file_names.TAB_SUFFIXES, Container.TAB_SEPARATED),
    file_names.TEXT_SUFFIX: Container.TEXT_BLOCKS,
}
_LIST_OF_OBJECTS = re.compile(r"\[\s*\{")


@dataclass(frozen=True)
class FileKind:
    """How a file is read. `notes` say what is not plain from its name."""

    container: Container
    compressions: tuple[Compression, ...]
    encoding: TextEncoding
    notes: tuple[str, ...]


def inspect_file(label: str, path: Path) -> FileKind:
    """Look at the beginning of a file. Raises DataError for what is not read, NoRows for an empty file."""
    with open_unpacked(label, path) as (file, compressions):
        start = file.read(bounds.START_BYTES)
        is_whole = len(start) < bounds.START_BYTES
    if is_whole and not start.strip():
        what = "holds nothing but blank lines" if start else "is empty"
        raise NoRows(f"{label} {what}. Put rows into it, or name another file.")
    refuse_foreign(label, start)
    container, encoding = _columnar_container(label, start), TextEncoding("utf-8")
    if container is None:
        encoding = decide_encoding(label, start, is_whole=is_whole)
        text = start[len(encoding.mark) :].decode(encoding.codec, "replace")
        container = _text_container(label, text)
        if container is Container.JSON_LINES:
            _refuse_spread_object(label, text)
    return FileKind(container, compressions, encoding, _notes(label, container, compressions, encoding))


def is_compressed_columnar(label: str, path: Path) -> bool:
    """Whether a file must be unpacked before it can be read."""
    with open_unpacked(label, path) as (file, compressions):
        return bool(compressions) and file.read(16).startswith(tuple(_COLUMNAR_MAGIC))


def _columnar_container(label: str, start: bytes) -> Container | None:
    for magic, container in _COLUMNAR_MAGIC.items():
        if start.startswith(magic):
            return container
    suffix = file_names.kind_suffix(label)
    if suffix in file_names.COLUMNAR_SUFFIXES:
        kind = "a Parquet file" if suffix == ".parquet" else "an Arrow file"
        raise DataError(
            f"{label} does not begin as {kind} does: it is damaged, or another kind of file. "
            "Write or copy it again, or name it for what it is."
        )
    return None


def _text_container(label: str, text: str) -> Container:
    suffix, beginning = file_names.kind_suffix(label), text.lstrip()
    by_name = _BY_SUFFIX.get(suffix)
    if by_name is not None:
        return _json_container(beginning) or by_name
    if beginning.startswith("["):
        return Container.JSON_LIST
    if suffix not in file_names.JSON_SUFFIXES and not beginning.startswith("{"):
        raise DataError(
            f"{label} is text of an unknown kind: it does not begin as JSON does, and its name does not say. "
            f"Let the name end with one of {file_names.READABLE_NAMES}."
        )
    return Container.JSON_LINES


def _json_container(beginning: str) -> Container | None:
    """What the content is if it is JSON, in a file whose name says otherwise."""
    if _LIST_OF_OBJECTS.match(beginning):
        return Container.JSON_LIST
    try:
        is_object = beginning.startswith("{") and isinstance(parse_json(_first_line(beginning)), dict)
    except NotJson:
        return None
    return Container.JSON_LINES if is_object else None


def _refuse_spread_object(label: str, text: str) -> None:
    beginning = text.lstrip()
    first_line = _first_line(beginning)
    if not first_line.startswith("{") or _is_json(first_line):
        return
    try:
        _, end = parse_json_at(beginning, 0)
    except (ValueError, RecursionError):
        is_spread = first_line == "{"
    else:
        is_spread = "\n" in beginning[:end]
    if is_spread:
        raise DataError(
            f"{label} holds a JSON object that is spread over several lines. "
            "Write one object a line (`jq -c . file`), or put the objects into a list."
        )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].strip()


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except NotJson:
        return False
    return True


def _notes(
    label: str, container: Container, compressions: tuple[Compression, ...], encoding: TextEncoding
) -> tuple[str, ...]:
    suffix = file_names.kind_suffix(label)
    is_json = container in (Container.JSON_LINES, Container.JSON_LIST)
    named = is_json if suffix in (*file_names.JSON_SUFFIXES, "") else _BY_SUFFIX.get(suffix) is container
    is_surprise = not named and not (container in COLUMNAR and suffix in file_names.COLUMNAR_SUFFIXES)
    return (
        *(f"unpacked ({compression})" for compression in compressions),
        *((f"read as {container}, which its content is, whatever its name says",) if is_surprise else ()),
        *((encoding.note,) if encoding.note else ()),
    )

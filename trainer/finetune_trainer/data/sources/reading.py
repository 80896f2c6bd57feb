"""The rows of a source, over all its files in order, and what the report should say about how they are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

from finetune_trainer.data.files import NoRows, describe_file, read_file
from finetune_trainer.data.files.file_names import other_split, shortened
from finetune_trainer.data.rows import Place, RawRow, RowProblem, Split
from finetune_trainer.data.sources.local import LocalFile, LocalSource
from finetune_trainer.errors import DataError

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 3


def read_rows(source: LocalSource) -> Iterator[RawRow | RowProblem]:
    """Read a source's rows in order, at most `maxRows` of them. Raises DataError for a file that cannot be read."""
    rows = _rows_of_files(source) if source.files else _inline_rows(source)
    return islice(rows, source.settings.max_rows)


def file_notes(source: LocalSource) -> tuple[str, ...]:
    """What is not plain about how the files of a source are read, one sentence each."""
    files_by_note: dict[str, list[LocalFile]] = {}
    for file in source.files:
        for note in _notes(file):
            files_by_note.setdefault(note, []).append(file)
    return (*_split_note(source), *(_counted(note, files, source) for note, files in files_by_note.items()))


def _inline_rows(source: LocalSource) -> Iterator[RawRow]:
    for number, row in enumerate(source.settings.inline or [], start=1):
        yield RawRow(Place(source.label, "row", number), dict(row))


def _rows_of_files(source: LocalSource) -> Iterator[RawRow | RowProblem]:
    files_with_rows = 0
    for file in source.files:
        try:
            yield from read_file(file.label, file.path)
            files_with_rows += 1
        except NoRows as error:
            # Some writers leave empty files behind: a folder may have them, a source may not be nothing but them.
            if len(source.files) == 1:
                raise
            logger.info("left out: %s", error.message)
    if not files_with_rows:
        raise DataError(
            f"{source.label}: none of its {len(source.files)} files has rows "
            f"({shortened(file.label for file in source.files)}). Put rows into them, or name another folder."
        )


def _notes(file: LocalFile) -> tuple[str, ...]:
    try:
        return describe_file(file.label, file.path)
    except NoRows:
        return ("left out, since there are no rows in it",)
    except DataError as error:
        return (error.message,)


def _counted(note: str, files: list[LocalFile], source: LocalSource) -> str:
    if len(source.files) == 1:
        return note
    if len(files) == len(source.files):
        return f"all {len(files)} files: {note}"
    names = shortened((PurePosixPath(file.label).name for file in files), _NAMES_SHOWN)
    return f"{len(files)} of {len(source.files)} files ({names}): {note}"


def _split_note(source: LocalSource) -> tuple[str, ...]:
    """A folder that is read whole may hold rows which its owner keeps apart."""
    if source.split is not Split.TRAIN or len(source.files) < 2:
        return ()
    apart = [name for file in source.files if other_split(name := PurePosixPath(file.label).name)]
    if not apart or len(apart) == len(source.files):
        return ()
    note = (
        f"{shortened(apart, _NAMES_SHOWN)} are read as rows for training like all other files of the folder: "
        "if they are meant for validation or test, name the files for training one by one"
    )
    return (note,)

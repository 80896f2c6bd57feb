"""Lines of a text file, numbered from 1 and none longer than a row may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.data.files import bounds


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its line end; None in place of one that is too long, which is skipped."""
    number, limit = 0, bounds.MAX_ROW_BYTES + 1
    while line := file.readline(limit):
        number += 1
        if len(line) == limit and not line.endswith(b"\n"):
            _skip_rest_of_line(file, limit)
            yield number, None
        else:
            yield number, line


def _skip_rest_of_line(file: BinaryIO, limit: int) -> None:
    while (line := file.readline(limit)) and not line.endswith(b"\n"):
        pass

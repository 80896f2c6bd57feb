"""Plain text: one row for each block between blank lines, in column `text`; formats Text and Dialogue read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.data.files import bounds
from finetune_trainer.data.files.encodings import describe_bad_byte
from finetune_trainer.data.files.lines import numbered_lines
from finetune_trainer.data.rows import Place, RawRow, RowProblem

TEXT_COLUMN = "text"


def read_text_blocks(label: str, file: BinaryIO, codec: str) -> Iterator[RawRow | RowProblem]:
    """Read the blocks; each stands at the line where it begins."""
    block = _Block(label, codec)
    for number, line in numbered_lines(file):
        if line is not None and line.isspace():
            yield from block.finish()
        else:
            block.add(number, line)
    yield from block.finish()


class _Block:
    """The lines since the last blank one, as long as they are no longer than a row may be."""

    def __init__(self, label: str, codec: str) -> None:
        self._label = label
        self._codec = codec
        self._first = 0
        self._bytes = 0
        self._lines: list[str] = []
        self._problem: str | None = None

    def add(self, number: int, line: bytes | None) -> None:
        """Take one more line; None for one that is too long by itself."""
        self._first = self._first or number
        self._bytes += bounds.MAX_ROW_BYTES + 1 if line is None else len(line)
        if line is None or self._bytes > bounds.MAX_ROW_BYTES:
            self._lines = []
            self._problem = (
                f"longer than {bounds.mebibytes(bounds.MAX_ROW_BYTES)}; separate rows by blank lines"
            )
            return
        try:
            self._lines.append(line.decode(self._codec).rstrip("\r\n"))
        except UnicodeDecodeError as error:
            self._problem = self._problem or describe_bad_byte(line, error, self._codec)

    def finish(self) -> Iterator[RawRow | RowProblem]:
        """The block as a row, if there is one."""
        if self._first:
            place = Place(self._label, "line", self._first)
            text = "\n".join(self._lines)
            yield RowProblem(place, self._problem) if self._problem else RawRow(place, {TEXT_COLUMN: text})
        self._first, self._bytes, self._lines, self._problem = 0, 0, [], None

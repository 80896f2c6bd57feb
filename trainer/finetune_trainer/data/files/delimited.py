"""Comma- or tab-separated cells with a header, read strictly: a row that does not fit the header is a problem.

Cells are text. An empty cell, and the NaN that pandas writes, is None.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from finetune_trainer.data.files import bounds
from finetune_trainer.data.files.encodings import describe_bad_byte
from finetune_trainer.data.files.lines import numbered_lines
from finetune_trainer.data.files.no_rows import NoRows
from finetune_trainer.data.rows import Place, RawRow, RowProblem
from finetune_trainer.errors import DataError

_MISSING = frozenset({"", "NaN", "nan"})
_SHOWN_NAME = 40


class _LineRefused(Exception):
    """A line that no record can be made of."""


class _RecordTooLong(Exception):
    """Lines that still belong to one record, and are more than a row may be."""


def read_delimited(label: str, file: BinaryIO, codec: str, delimiter: str) -> Iterator[RawRow | RowProblem]:
    """Read the records below the header. Raises DataError for a header or a quote that spoils all that follows."""
    # The module's own bound on a cell is 128 KiB, for the whole process.
    csv.field_size_limit(bounds.MAX_ROW_BYTES + 1)
    table = _Table(label, _Lines(file, codec), delimiter)
    header = table.read_header()
    has_rows = False
    for row in table.rows(header):
        has_rows = True
        yield row
    if not has_rows:
        raise NoRows(f"{label} has a header and no rows. Put rows into it, or name another file.")


class _Lines:
    """The lines for csv.reader. A class: a generator could not go on behind an exception."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._lines = numbered_lines(file)
        self._codec = codec
        self._bytes = 0
        self.first = 0
        self.bad_byte: str | None = None

    def begin_record(self) -> None:
        """Forget the record before."""
        self._bytes, self.first, self.bad_byte = 0, 0, None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.first = self.first or number
        if line is None:
            raise _LineRefused(f"longer than {bounds.mebibytes(bounds.MAX_ROW_BYTES)}")
        self._bytes += len(line)
        if self._bytes > bounds.MAX_ROW_BYTES:
            raise _RecordTooLong
        try:
            return line.decode(self._codec)
        except UnicodeDecodeError as error:
            self.bad_byte = self.bad_byte or describe_bad_byte(line, error, self._codec)
            return line.decode(self._codec, "surrogateescape")


class _Table:
    def __init__(self, label: str, lines: _Lines, delimiter: str) -> None:
        self._label = label
        self._lines = lines
        self._delimiter = delimiter
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)

    def read_header(self) -> list[str]:
        """The names of the columns; empty for one without a name, such as the index that pandas writes."""
        for record in self._records():
            if isinstance(record, RowProblem):
                raise DataError(
                    f"{record.sentence}. It stands where the names of the columns belong; correct it."
                )
            names = [cell.strip() for cell in record]
            self._refuse_bad_header(names)
            return names
        raise NoRows(f"{self._label} has no header and no rows. Put rows into it, or name another file.")

    def rows(self, header: list[str]) -> Iterator[RawRow | RowProblem]:
        """The records below the header."""
        for record in self._records():
            place = self._place()
            if isinstance(record, RowProblem):
                yield record
            elif self._lines.bad_byte:
                yield RowProblem(place, self._lines.bad_byte)
            elif len(record) != len(header):
                yield RowProblem(place, f"has {len(record)} cells where the header has {len(header)}")
            else:
                cells = zip(header, record, strict=True)
                yield RawRow(
                    place, {name: None if cell in _MISSING else cell for name, cell in cells if name}
                )

    def _records(self) -> Iterator[list[str] | RowProblem]:
        while True:
            self._lines.begin_record()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except _LineRefused as error:
                yield RowProblem(self._place(), str(error))
            except _RecordTooLong:
                self._refuse_quote(f"within {bounds.mebibytes(bounds.MAX_ROW_BYTES)}")
            except csv.Error as error:
                yield self._refused(error)
            else:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield cells

    def _refused(self, error: csv.Error) -> RowProblem:
        if "unexpected end of data" in str(error):
            self._refuse_quote("before the end of the file")
        if "new-line character" in str(error):
            return RowProblem(
                self._place(), "has a carriage return outside quotes; end lines with a line feed"
            )
        return RowProblem(
            self._place(), "has a quote that ends a cell too early; write a quote inside a quoted cell twice"
        )

    def _refuse_quote(self, until: str) -> NoReturn:
        raise DataError(
            f"{self._place()}: a quote opens a cell and is not closed {until}. "
            "Close it, or write a quote that belongs to the text twice, inside a quoted cell."
        )

    def _place(self) -> Place:
        return Place(self._label, "line", self._lines.first)

    def _refuse_bad_header(self, names: list[str]) -> None:
        repeated = [name for name, count in Counter(names).items() if name and count > 1]
        if repeated:
            raise DataError(
                f"{self._label} has the column '{repeated[0][:_SHOWN_NAME]}' more than once in its header. "
                "Give each column a name of its own."
            )
        if not any(names):
            raise DataError(
                f"{self._label} has a header without a name. Write the columns' names into line 1."
            )
        others = [other for other in ",;\t|" if other != self._delimiter and other in names[0]]
        if len(names) == 1 and others:
            wanted = "tabs" if self._delimiter == "\t" else "commas"
            raise DataError(
                f"{self._label} has one column, whose name contains {others[0]!r}: its cells are not separated by "
                f"{wanted}. Separate them by commas (.csv) or by tabs (.tsv)."
            )

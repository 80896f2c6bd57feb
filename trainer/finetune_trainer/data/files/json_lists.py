"""A JSON list of rows, read value by value through a window, so that a list of any length fits in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from finetune_trainer.data.files import bounds
from finetune_trainer.data.files.json_values import (
    LONE_SURROGATE,
    end_of_value,
    has_lone_surrogate,
    has_surrogate,
    has_surrogate_escape,
    parse_json_at,
    reason_of,
)
from finetune_trainer.data.rows import Place, RawRow, RowProblem
from finetune_trainer.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
# Beyond strings: `-Infinity`, an escape, a number's exponent.
_LONGEST_WORD = 64
_ADVICE = "Correct the file, or write it as .jsonl, one object a line."


def read_json_list(label: str, file: BinaryIO, codec: str) -> Iterator[RawRow | RowProblem]:
    """Read the values of the list. Raises DataError where its structure is broken: what follows cannot be told."""
    return _List(label, _Window(file, codec)).rows()


class _Window:
    """The part of the text that is looked at: it grows until a value is whole, and forgets what was read."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(codec)("surrogateescape")
        self.text = ""
        self.position = 0
        self.is_last = False
        self.has_bad_bytes = False
        self._line = 1
        # Characters of the current line that were forgotten already.
        self._column = 0

    @property
    def left(self) -> int:
        """Characters that are not read yet, as far as they are here."""
        return len(self.text) - self.position

    def grow(self) -> None:
        """Bring in more; as much again as is here, so that looking again at a long value costs little in all."""
        self._forget()
        block = self._file.read(max(bounds.BLOCK_BYTES, len(self.text)))
        self.is_last = not block
        more = self._decoder.decode(block, final=self.is_last)
        self.has_bad_bytes = self.has_bad_bytes or has_surrogate(more)
        self.text += more

    def next_letter(self) -> str:
        """The next character that is no white space, which stays; empty at the end of the file."""
        while True:
            self.position = _end_of_space(self.text, self.position)
            if self.left or self.is_last:
                return self.text[self.position : self.position + 1]
            self.grow()

    def place_of(self, position: int) -> str:
        """Line and column, as an editor counts them."""
        before = self.text[:position]
        lines = before.count("\n")
        column = position - before.rfind("\n") if lines else self._column + position + 1
        return f"line {self._line + lines}, column {column}"

    def _forget(self) -> None:
        gone = self.text[: self.position]
        lines = gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") - 1 if lines else self._column + len(gone)
        self._line += lines
        self.text, self.position = self.text[self.position :], 0


class _List:
    def __init__(self, label: str, window: _Window) -> None:
        self._label = label
        self._window = window

    def rows(self) -> Iterator[RawRow | RowProblem]:
        """The values, each with its number."""
        window = self._window
        window.next_letter()
        window.position += 1  # the bracket by which the file was recognised
        number = 0
        is_open = window.next_letter() != "]"
        while is_open:
            number += 1
            yield self._value(number)
            is_open = self._goes_on(number)
        window.position += 1
        if window.next_letter():
            raise DataError(
                f"{self._label} has more behind the end of its list ({window.place_of(window.position)}). "
                "A .json file is one list of objects; with one object a line it is .jsonl."
            )

    def _value(self, number: int) -> RawRow | RowProblem:
        window, place = self._window, Place(self._label, "row", number)
        window.next_letter()
        while True:
            try:
                row, end = self._parsed(place)
            except (ValueError, RecursionError) as error:
                self._refuse_if_final(number, error)
            else:
                # A number may go on behind the window's end, from `1` as from `1e+`.
                if end + 2 < len(window.text) or window.is_last:
                    window.position = end
                    return row
            self._grow(number)

    def _parsed(self, place: Place) -> tuple[RawRow | RowProblem, int]:
        """The value at the window's position, and where it ends."""
        window, start = self._window, self._window.position
        try:
            value, end = parse_json_at(window.text, start)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            # A number that is none: what the value says is lost, where it ends is not.
            return RowProblem(place, f"not JSON ({reason_of(error)})"), end_of_value(window.text, start)
        if window.has_bad_bytes and has_surrogate(window.text[start:end]):
            return RowProblem(place, "not in the encoding of the file; save the file as UTF-8"), end
        if has_surrogate_escape(window.text, start, end) and has_lone_surrogate(value):
            return RowProblem(place, LONE_SURROGATE), end
        return RawRow(place, value), end

    def _refuse_if_final(self, number: int, error: Exception) -> None:
        """Raise what more text would not heal."""
        window = self._window
        if window.is_last and window.text.rstrip()[-1:] != "]":
            self._refuse_cut(number)
        if not isinstance(error, json.JSONDecodeError):
            self._refuse(number, reason_of(error))
        if window.is_last or not _is_about_end(error, window.text):
            self._refuse(number, f"{error.msg} at {window.place_of(error.pos)}")

    def _grow(self, number: int) -> None:
        if self._window.left > bounds.MAX_ROW_BYTES:
            limit = bounds.mebibytes(bounds.MAX_ROW_BYTES)
            raise DataError(f"{self._label} row {number} is longer than {limit}, or never ends. {_ADVICE}")
        self._window.grow()

    def _goes_on(self, number: int) -> bool:
        """Step over the comma behind a value; False at the bracket that ends the list."""
        window = self._window
        letter = window.next_letter()
        if letter == "]":
            return False
        if not letter:
            self._refuse_cut(number + 1)
        if letter != ",":
            self._refuse(number + 1, f"Expecting ',' delimiter at {window.place_of(window.position)}")
        window.position += 1
        return True

    def _refuse_cut(self, number: int) -> NoReturn:
        raise DataError(
            f"{self._label} was cut short: its list ends at row {number} without a closing bracket. "
            "Copy the whole file again."
        )

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise DataError(f"{self._label} row {number}: not JSON ({reason}). {_ADVICE}")


def _is_about_end(error: json.JSONDecodeError, text: str) -> bool:
    """Whether a value may only be refused because the text ends within it."""
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _LONGEST_WORD


def _end_of_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None, "white space may be empty"
    return found.end()

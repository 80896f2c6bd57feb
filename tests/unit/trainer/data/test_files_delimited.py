"""Tables: cells as they were written, and rows that do not fit the header."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.data.files import bounds, read_file
from finetune_trainer.data.rows import RawRow, RowProblem
from finetune_trainer.errors import DataError

LABEL = "s3://data/rows.csv"


def read(path: Path, content: bytes, label: str = LABEL) -> list[RawRow | RowProblem]:
    path.write_bytes(content)
    return list(read_file(label, path))


def values(path: Path, content: bytes, label: str = LABEL) -> list[object]:
    return [row.value for row in read(path, content, label) if isinstance(row, RawRow)]


CELLS = {
    "plain": (b"text,label\na,b\n", [{"text": "a", "label": "b"}]),
    "without a line feed at the end": (b"text,label\na,b", [{"text": "a", "label": "b"}]),
    "Windows line ends": (b"text,label\r\na,b\r\n", [{"text": "a", "label": "b"}]),
    "a byte-order mark, as Excel writes it": (b"\xef\xbb\xbftext,label\r\na,b\r\n", [{"text": "a", "label": "b"}]),
    "quoted, with a comma, a quote and a line end": (
        b'text,label\n"a, ""b""\nc",d\n',
        [{"text": 'a, "b"\nc', "label": "d"}],
    ),
    "a quote in the middle of an unquoted cell": (b'text,label\n5" disk,b\n', [{"text": '5" disk', "label": "b"}]),
    "empty cells and NaN are None": (
        b"text,label,other\na,,NaN\nnan,x,None\n",
        [{"text": "a", "label": None, "other": None}, {"text": None, "label": "x", "other": "None"}],
    ),
    "blank lines are no rows": (b"text,label\n\na,b\n   \n", [{"text": "a", "label": "b"}]),
    "names with spaces around": (b" text , label \na,b\n", [{"text": "a", "label": "b"}]),
    "the index that pandas writes": (b",text,label\n0,a,b\n", [{"text": "a", "label": "b"}]),
    "one column": (b"text\nhello there\n", [{"text": "hello there"}]),
    "spaces belong to a cell": (b"text,label\n a ,b\n", [{"text": " a ", "label": "b"}]),
    "a line of another kind of white space": ("text\n\u3000全角\n".encode(), [{"text": "\u3000全角"}]),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS)
def test_cells_are_read_as_they_were_written(tmp_path: Path, case: str) -> None:
    content, expected = CELLS[case]
    assert values(tmp_path / "rows", content) == expected


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tab", "rows.TSV", "rows.tsv.gz"])
def test_tabs_separate_where_the_name_says_so(tmp_path: Path, name: str) -> None:
    assert values(tmp_path / "rows", b"text\tlabel\na,b\tc\n", name) == [{"text": "a,b", "label": "c"}]


BAD_ROWS = {
    "too few cells": (b"a", "line 3: has 1 cells where the header has 2"),
    "too many cells": (b"a,b,c", "line 3: has 3 cells where the header has 2"),
    "a quote that ends too early": (
        b'"a" b,c',
        "line 3: has a quote that ends a cell too early; write a quote inside a quoted cell twice",
    ),
    "a carriage return": (
        b"a\rb,c",
        "line 3: has a carriage return outside quotes; end lines with a line feed",
    ),
    "not UTF-8": (
        b"\xe9\x80\xff,c",
        "line 3: not UTF-8 (byte 0xe9 at position 1); save the file as UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_and_the_next_is_read(tmp_path: Path, case: str) -> None:
    line, sentence = BAD_ROWS[case]
    content = "text,label\n退款,b\n".encode() + line + b"\ne,f\n"
    first, bad, last = read(tmp_path / "rows", content)
    assert isinstance(first, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.sentence == f"{LABEL} {sentence}"
    assert isinstance(last, RawRow)
    assert last.value == {"text": "e", "label": "f"}
    assert last.place.number == 4


def test_a_bad_record_of_several_lines_stands_where_it_begins(tmp_path: Path) -> None:
    bad, last = read(tmp_path / "rows", b'text,label\n"a\nb\nc"\nd,e\n')
    assert isinstance(bad, RowProblem)
    assert bad.place.number == 2
    assert last.place.number == 5


def test_a_long_cell_is_read_whole(tmp_path: Path) -> None:
    # csv's own bound is 128 KiB.
    text = "x" * 1_000_000
    assert values(tmp_path / "rows", f"text,label\n{text},b\n".encode()) == [{"text": text, "label": "b"}]


def test_a_line_longer_than_any_row_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    bad, good = read(tmp_path / "rows", b"text,label\n" + b"x" * (3 << 20) + b",b\nc,d\n")
    assert isinstance(bad, RowProblem)
    assert bad.sentence == f"{LABEL} line 2: longer than 1 MiB"
    assert isinstance(good, RawRow)
    assert good.place.number == 3


def test_a_quote_that_swallows_the_file_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    content = b'text,label\na,b\n"c,d\n' + b"e,f\n" * 500_000
    rows = read_file(LABEL, tmp_path / "rows")
    (tmp_path / "rows").write_bytes(content)
    assert isinstance(next(rows), RawRow)
    with pytest.raises(
        DataError, match=r"rows\.csv line 3: a quote opens a cell and is not closed within 1 MiB"
    ):
        next(rows)

"""Text files: blocks between blank lines, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.data.files import bounds, read_file
from finetune_trainer.data.rows import RawRow, RowProblem


def read(path: Path, content: bytes) -> list[RawRow | RowProblem]:
    path.write_bytes(content)
    return list(read_file("rows.txt", path))


def test_a_block_longer_than_any_row_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    many_lines = b"some words\n" * 200_000
    one_line = b"x" * (3 << 20)
    rows = read(tmp_path / "rows", b"\n\n".join([b"first", many_lines, one_line, b"last"]))
    assert [type(row) for row in rows] == [RawRow, RowProblem, RowProblem, RawRow]
    assert isinstance(rows[1], RowProblem)
    assert rows[1].sentence == "rows.txt line 3: longer than 1 MiB; separate rows by blank lines"
    assert isinstance(rows[3], RawRow)
    assert rows[3].value == {"text": "last"}


def test_a_block_with_a_line_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "rows", "一段文字\n\n二\n".encode() + b"\xe9\x80\xff\n")
    assert isinstance(good, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.sentence == "rows.txt line 3: not UTF-8 (byte 0xe9 at position 1); save the file as UTF-8"


def test_white_space_within_a_block_stays(tmp_path: Path) -> None:
    [row] = read(tmp_path / "rows", b"  def f():\n    return 1  \n")
    assert isinstance(row, RawRow)
    assert row.value == {"text": "  def f():\n    return 1  "}

"""Prepared rows in their file: what is written is what is read, equal rows are equal bytes, any row is at hand."""

from __future__ import annotations

import array
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from finetune_trainer.data.prepared import (
    SCHEMA,
    PreparedRows,
    PreparedRowsWriter,
    TokenizedRow,
    tokenized_columns,
    write_rows,
)
from finetune_trainer.data.row_sizes import write_sizes
from tests.builders.rows import make_rows


def batch(rows: list[TokenizedRow], first_number: int = 1) -> pa.RecordBatch:
    count = len(rows)
    facts = [
        pa.array([0] * count, pa.int16()),
        pa.array(range(first_number, first_number + count), pa.int64()),
        pa.array([1.0] * count, pa.float32()),
    ]
    return pa.record_batch([*tokenized_columns(rows), *facts], schema=SCHEMA)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        TokenizedRow(array.array("i", [1, 2, 3]), bytes([0, 1, 1])),
        TokenizedRow(array.array("i", [150_000]), bytes([1]), label=4),
        TokenizedRow(array.array("i", [7, 7]), bytes([0, 0]), label=0),
    ]
    write_rows(tmp_path / "rows.arrow", rows, weights=[1.0, 0.5, 2.0])
    back = PreparedRows(tmp_path / "rows.arrow")
    assert [back.row(number) for number in range(len(back))] == rows
    assert [back.row_length(number) for number in range(3)] == [3, 1, 2]
    assert list(back.lengths) == [3, 1, 2]
    assert list(back.weights) == [1.0, 0.5, 2.0]
    assert back.learned_tokens == 3


def test_every_row_is_found_across_batches(tmp_path: Path) -> None:
    rows = make_rows([1 + number % 7 for number in range(3000)])
    write_rows(tmp_path / "rows.arrow", rows)
    back = PreparedRows(tmp_path / "rows.arrow")
    assert len(back) == 3000
    for number in (0, 1023, 1024, 2047, 2048, 2999):
        assert list(back.row_input_ids(number)) == list(rows[number].input_ids)
        assert bytes(back.row_learned(number)) == rows[number].learned


def test_a_row_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.arrow", make_rows([3, 4]))
    back = PreparedRows(tmp_path / "rows.arrow")
    for number in (2, -1):
        with pytest.raises(IndexError):
            back.row_length(number)


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.arrow", [])
    assert len(PreparedRows(tmp_path / "rows.arrow")) == 0


def test_how_rows_arrive_does_not_change_the_bytes(tmp_path: Path) -> None:
    rows = make_rows([5 + number % 11 for number in range(2500)])
    digests = set()
    for name, sizes in {"at once": [2500], "a few": [1000, 1000, 500], "odd": [1, 2498, 1]}.items():
        path, start = tmp_path / f"{name}.arrow", 0
        with PreparedRowsWriter(path) as writer:
            for size in sizes:
                writer.add(batch(rows[start : start + size], start + 1))
                start += size
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_rows_left_out_of_a_batch_leave_nothing_in_the_file(tmp_path: Path) -> None:
    secret = TokenizedRow(array.array("i", [4242] * 50), bytes(50))
    others = make_rows([4] * 20, vocabulary=100)
    with PreparedRowsWriter(tmp_path / "rows.arrow") as writer:
        keep = pa.array([False, *[True] * 20])
        writer.add(batch([secret, *others]).filter(keep))
    assert np.int32(4242).tobytes() * 2 not in (tmp_path / "rows.arrow").read_bytes()


def test_sizes_are_lengths_and_weights(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.arrow", make_rows([3, 5]), weights=[1.0, 0.25])
    write_sizes(tmp_path / "sizes.arrow", PreparedRows(tmp_path / "rows.arrow"))
    table = pa.ipc.open_file(str(tmp_path / "sizes.arrow")).read_all()
    assert table.to_pydict() == {"length": [3, 5], "weight": [1.0, 0.25]}

"""Parquet and Arrow: cells as plain Python, in small batches."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from finetune_trainer.data.files import bounds, columnar, read_file
from finetune_trainer.data.rows import RawRow, RowProblem
from finetune_trainer.errors import DataError

UTC = datetime.UTC
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def read(path: Path, table: pa.Table) -> list[RawRow | RowProblem]:
    write(path, table)
    return list(read_file(f"s3://data/{path.name}", path))


def column(kind: pa.DataType | None, *cells: object) -> pa.Table:
    return pa.table({"cell": pa.array(cells, kind)})


CELLS: dict[str, tuple[pa.DataType, Sequence[object], Sequence[object]]] = {
    "text": (pa.string(), ["a", "退款", None], ["a", "退款", None]),
    "large text": (pa.large_string(), ["a"], ["a"]),
    "repeated text": (pa.dictionary(pa.int32(), pa.string()), ["a", "b", "a"], ["a", "b", "a"]),
    "integers": (pa.int64(), [1, None], [1, None]),
    "unsigned integers": (pa.uint64(), [2**64 - 1], [2**64 - 1]),
    "booleans": (pa.bool_(), [True, None], [True, None]),
    "nothing": (pa.null(), [None], [None]),
    "NaN and infinity are None": (pa.float64(), [1.5, float("nan"), float("inf"), None], [1.5, None, None, None]),
    "half floats": (pa.float16(), [0.5], [0.5]),
    "decimals are text": (pa.decimal128(10, 2), [decimal.Decimal("1.50"), None], ["1.50", None]),
    "days are text": (pa.date32(), [datetime.date(2024, 2, 29)], ["2024-02-29"]),
    "times of day are text": (pa.time64("us"), [datetime.time(1, 2, 3)], ["01:02:03"]),
    "moments are text": (pa.timestamp("us"), [MOMENT, None], ["2024-02-29T12:30:15.123456", None]),
    "nanoseconds are cut": (pa.timestamp("ns"), [1_709_209_815_123_456_789], ["2024-02-29T12:30:15.123456"]),
    "moments of a time zone are UTC": (
        pa.timestamp("ms", "Asia/Shanghai"),
        [datetime.datetime(2024, 2, 29, 12, tzinfo=UTC)],
        ["2024-02-29T12:00:00Z"],
    ),
    "lengths of time are text": (pa.duration("s"), [90], ["0:01:30"]),
    "bytes that are UTF-8 are text": (pa.binary(), ["退款".encode(), None], ["退款", None]),
    "lists": (pa.list_(pa.float32()), [[1.0, float("nan")], None, []], [[1.0, None], None, []]),
    "large and fixed lists": (pa.list_(pa.int8(), 2), [[1, 2]], [[1, 2]]),
    "structs": (
        pa.struct([("role", pa.string()), ("at", pa.timestamp("ns"))]),
        [{"role": "user", "at": None}, None],
        [{"role": "user", "at": None}, None],
    ),
    "messages": (
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        [[{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]],
        [[{"role": "user", "content": "q"}, {"role": "assistant", "content": None}]],
    ),
    "structs within lists within structs": (
        pa.struct([("turns", pa.list_(pa.struct([("at", pa.date32()), ("score", pa.float64())])))]),
        [{"turns": [{"at": datetime.date(2024, 1, 2), "score": float("nan")}]}],
        [{"turns": [{"at": "2024-01-02", "score": None}]}],
    ),
    "maps are objects": (pa.map_(pa.string(), pa.float64()), [[("a", 1.0), ("b", None)]], [{"a": 1.0, "b": None}]),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("case", CELLS)
def test_cells_become_plain_python(tmp_path: Path, case: str, suffix: str) -> None:
    kind, cells, expected = CELLS[case]
    if suffix == ".parquet" and pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
    rows = read(tmp_path / f"rows{suffix}", column(kind, *cells))
    found = [row.value for row in rows if isinstance(row, RawRow)]
    assert found == [{"cell": cell} for cell in expected]
    assert [type(row["cell"]) for row in found if isinstance(row, dict)] == [type(cell) for cell in expected]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_bytes_that_are_no_text_are_a_problem_of_their_row(tmp_path: Path, suffix: str) -> None:
    table = pa.table(
        {"text": ["a", "b", "c"], "image": pa.array([b"ok", b"\xff\xd8\xff", None], pa.binary())}
    )
    first, bad, last = read(tmp_path / f"rows{suffix}", table)
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.column == "image"
    assert bad.sentence == (
        f"s3://data/rows{suffix} row 2: column 'image' holds bytes that are not UTF-8 text"
    )


def test_text_of_a_parquet_file_that_is_not_utf8_is_a_problem_of_its_row(tmp_path: Path) -> None:
    wrong = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    first, bad, last = read(tmp_path / "rows.parquet", pa.table({"text": wrong}))
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.reason == "column 'text' holds bytes that are not UTF-8 text"


def test_a_moment_beyond_the_calendar_is_a_problem_of_its_row(tmp_path: Path) -> None:
    first, bad = read(tmp_path / "rows.parquet", column(pa.timestamp("us"), MOMENT, 2**62))
    assert isinstance(first, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.reason == "column 'cell' holds a value that cannot be read"


def test_the_index_that_pandas_writes_is_no_column(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "__index_level_0__": [7]})
    assert [row.value for row in read(tmp_path / "rows.parquet", table) if isinstance(row, RawRow)] == [
        {"text": "a"}
    ]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match=r"rows\.arrow has the column 'text' more than once"):
        read(tmp_path / "rows.arrow", table)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_rows_are_counted_over_all_batches(tmp_path: Path, suffix: str) -> None:
    rows = read(tmp_path / f"rows{suffix}", pa.table({"n": list(range(5000))}))
    assert [(row.place.number, row.value) for row in rows if isinstance(row, RawRow)] == [
        (n + 1, {"n": n}) for n in range(5000)
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_row_longer_than_any_row_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    table = pa.table({"text": ["a", "x" * (3 << 20), "c"]})
    first, bad, last = read(tmp_path / f"rows{suffix}", table)
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert isinstance(bad, RowProblem)
    assert bad.sentence == f"s3://data/rows{suffix} row 2: longer than 1 MiB"


BATCH_ROWS = {
    "short rows": (200_000, 1000, 1024),
    "rows of 64 KiB": (64 * 1024 * 1000, 1000, 64),
    "rows larger than a batch": (20 << 30, 100, 1),
    "no rows": (0, 0, 1024),
}


@pytest.mark.parametrize("case", BATCH_ROWS)
def test_batches_hold_few_long_rows(case: str) -> None:
    size_bytes, rows, expected = BATCH_ROWS[case]
    assert columnar.batch_rows(size_bytes, rows) == expected


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_feather_files_are_read_as_pandas_writes_them(tmp_path: Path, compression: str) -> None:
    feather.write_feather(pa.table({"text": ["a", "退款"]}), tmp_path / "rows", compression=compression)
    rows = read_file("rows.feather", tmp_path / "rows")
    assert [row.value for row in rows if isinstance(row, RawRow)] == [{"text": "a"}, {"text": "退款"}]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(10_000)]}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[100:400] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"rows\.parquet is a damaged Parquet file, or one that was cut short \("
    ):
        list(read_file("rows.parquet", path))


def test_offsets_that_lead_out_of_an_arrow_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    write(path, pa.table({"text": [f"row {n}" for n in range(100)]}))
    content = bytearray(path.read_bytes())
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 5, 10, 15))
    at = content.index(offsets)
    content[at + 8 : at + 12] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.arrow is a damaged Arrow file"):
        list(read_file("rows.arrow", path))


def test_a_parquet_file_with_columns_and_no_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet has columns and no rows"):
        read(tmp_path / "rows.parquet", pa.table({"text": pa.array([], pa.string())}))


def test_a_column_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    write(path, pa.table({"textcolumn": ["a"]}))
    path.write_bytes(path.read_bytes().replace(b"textcolumn", b"text\xffolumn"))
    with pytest.raises(DataError, match=r"rows\.arrow is a damaged Arrow file.*can't decode byte 0xff"):
        list(read_file("rows.arrow", path))

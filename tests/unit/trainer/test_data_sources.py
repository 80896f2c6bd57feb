"""Broken files: what is refused, and that each sentence says where and what."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from finetune_api import names
from finetune_api.spec import Dataset, DataSource, Store
from finetune_trainer.data import sources
from finetune_trainer.data.sources import LocalSource, RawRow, RowProblem, fetch_sources, read_rows
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.storage import ObjectStore

GOOD = b'{"input_text": "q", "target_text": "a"}'


def make_source(path: Path, content: bytes, **settings: object) -> LocalSource:
    path.write_bytes(content)
    return LocalSource(
        "s3://data/rows.jsonl",
        DataSource.model_validate({"source": "s3://data/rows.jsonl", **settings}),
        path,
    )


def read(path: Path, content: bytes, **settings: object) -> list[RawRow | RowProblem]:
    return list(read_rows(make_source(path, content, **settings)))


READABLE = {
    "one object a line": (GOOD + b"\n" + GOOD + b"\n", 2),
    "no newline at the end": (GOOD + b"\n" + GOOD, 2),
    "Windows line ends": (GOOD + b"\r\n" + GOOD + b"\r\n", 2),
    "blank lines between": (GOOD + b"\n\n   \n" + GOOD + b"\n", 2),
    "a byte-order mark": (b"\xef\xbb\xbf" + GOOD + b"\n", 1),
    "a list": (b"[" + GOOD + b", " + GOOD + b"]", 2),
    "a list over several lines, with a byte-order mark": (b"\xef\xbb\xbf\n[\n" + GOOD + b"\n]\n", 1),
    "a compressed file": (gzip.compress(GOOD + b"\n" + GOOD), 2),
    "a compressed list": (gzip.compress(b"[" + GOOD + b"]"), 1),
    "nothing": (b"", 0),
    "only blank lines": (b"\n\n", 0),
    "an empty list": (b"[]", 0),
    "Chinese, escaped and not": ('{"a": "退款"}\n{"a": "\\u9000"}'.encode(), 2),
    "an escaped surrogate pair": (b'{"a": "\\ud83d\\ude00"}', 1),
}


@pytest.mark.parametrize("case", READABLE)
def test_files_that_can_be_read(tmp_path: Path, case: str) -> None:
    content, expected = READABLE[case]
    rows = read(tmp_path / "rows", content)
    assert [type(row) for row in rows] == [RawRow] * expected


BAD_ROWS = {
    "half an object": (b'{"a": 1', "line 2: not JSON (Expecting ',' delimiter at column 8)"),
    "single quotes": (
        b"{'a': 'b'}",
        "line 2: not JSON (Expecting property name enclosed in double quotes at column 2)",
    ),
    "two objects on a line": (GOOD + b" " + GOOD, "line 2: not JSON (Extra data at column 41)"),
    "a comma behind the object": (GOOD + b",", "line 2: not JSON (Extra data at column 40)"),
    "NaN": (b'{"a": NaN}', "line 2: not JSON (NaN is not a JSON value)"),
    "Infinity": (b'{"a": -Infinity}', "line 2: not JSON (-Infinity is not a JSON value)"),
    "plain text": (b"hello", "line 2: not JSON (Expecting value at column 1)"),
    "a control character": (b'{"a": "\x01"}', "line 2: not JSON (Invalid control character at at column 8)"),
    "GB18030": (
        '{"a": "退款"}'.encode("gb18030"),
        "line 2: not UTF-8 (byte 0xcd at position 8); it may be GB18030: convert it with `iconv -f GB18030 -t UTF-8`",
    ),
    "a broken UTF-8 sequence": (
        b'{"a": "\xe9\x80\xff"}',
        "line 2: not UTF-8 (byte 0xe9 at position 8); save the file as UTF-8",
    ),
    "half of a surrogate pair": (
        b'{"a": "\\ud83d"}',
        "line 2: contains half of a surrogate pair (\\ud800 to \\udfff), which is no character",
    ),
    "nesting without end": (b"[" * 100_000, "line 2: not JSON (maximum recursion depth exceeded"),
    "a number of ten thousand digits": (
        b'{"a": ' + b"9" * 10_000 + b"}",
        "line 2: not JSON (Exceeds the limit",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path: Path, case: str) -> None:
    line, sentence = BAD_ROWS[case]
    first, bad, last = read(tmp_path / "rows", GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert last.where == "s3://data/rows.jsonl line 3"
    assert isinstance(bad, RowProblem)
    assert bad.sentence.startswith(f"s3://data/rows.jsonl {sentence}")


def test_a_line_longer_than_any_row_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_ROW_BYTES", 1 << 20)
    long = b'{"a": "' + b"x" * (3 << 20) + b'"}'
    bad, good = read(tmp_path / "rows", long + b"\n" + GOOD)
    assert isinstance(bad, RowProblem)
    assert bad.sentence == "s3://data/rows.jsonl line 1: longer than 1 MiB; write one JSON object a line"
    assert isinstance(good, RawRow)


BAD_FILES = {
    "UTF-16": ("\ufeff{}".encode("utf-16-le"), "is UTF-16, not UTF-8 text. Save it as UTF-8"),
    "a binary file": (b"PK\x03\x04\0\0\0", "is binary (it contains zero bytes), not UTF-8 text"),
    "a compressed file cut short": (gzip.compress(GOOD * 1000)[:-20], "is a damaged gzip file"),
    "a compressed file with a flipped bit": (
        gzip.compress(GOOD)[:-6] + b"\0" + gzip.compress(GOOD)[-5:],
        "is a damaged gzip file",
    ),
    "a list cut short": (b'[{"a": 1},', "not JSON (Expecting value at column 11). Correct the file"),
    "a list with a comma too many": (b'[\n{"a": 1},\n]', "not JSON (Expecting value at line 3, column 1)"),
    "a list that is not UTF-8": ('["退款"]'.encode("gb18030"), "it may be GB18030"),
    "a list with NaN": (b'[{"a": NaN}]', "NaN is not a JSON value"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, case: str) -> None:
    content, sentence = BAD_FILES[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "rows", content)
    assert caught.value.message.startswith("s3://data/rows.jsonl")
    assert sentence in caught.value.message


def test_max_rows_takes_the_first(tmp_path: Path) -> None:
    rows = read(tmp_path / "rows", b"\n".join(json.dumps({"n": n}).encode() for n in range(9)), maxRows=3)
    assert [row.value for row in rows if isinstance(row, RawRow)] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_rows_of_a_list_are_counted_from_one(tmp_path: Path) -> None:
    rows = read(tmp_path / "rows", b"[" + GOOD + b"," + GOOD + b"]")
    assert [row.where for row in rows if isinstance(row, RawRow)][-1] == "s3://data/rows.jsonl row 2"


def test_inline_rows_are_named_by_their_field() -> None:
    dataset = Dataset.model_validate({"train": [{"inline": [{"question": "q", "answer": "a"}]}]})
    [source] = fetch_sources(dataset, Store(), ObjectStore.open, Path("/nowhere"))
    [row] = read_rows(source)
    assert row == RawRow("dataset.train[0].inline row 1", {"question": "q", "answer": "a"})


@pytest.fixture
def config_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mounted ConfigMap `rows`."""
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path))
    directory = tmp_path / "data" / "rows"
    directory.mkdir(parents=True)
    return directory


def fetch(uri: str) -> LocalSource:
    dataset = Dataset.model_validate({"train": [{"source": uri}]})
    return fetch_sources(dataset, Store(), ObjectStore.open, Path("/nowhere"))[0]


def test_rows_of_a_config_map_are_read_where_it_is_mounted(config_map: Path) -> None:
    (config_map / "train.jsonl").write_bytes(GOOD)
    assert len(list(read_rows(fetch("configMap://rows/train.jsonl")))) == 1


def test_a_key_that_the_config_map_lacks_is_named_with_those_it_has(config_map: Path) -> None:
    (config_map / "other.jsonl").write_bytes(GOOD)
    with pytest.raises(UserError, match=r"ConfigMap 'rows' has no key 'train.jsonl' \(it has other.jsonl\)"):
        fetch("configMap://rows/train.jsonl")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".zip", ".jsonl.zst", ".csv.gz", ".PKL"])
def test_other_file_types_are_refused_by_name_before_they_are_fetched(suffix: str) -> None:
    with pytest.raises(UserError, match=r"dataset.train\[0\].source .* is not read. Convert it to .jsonl"):
        fetch(f"s3://data/rows{suffix}")

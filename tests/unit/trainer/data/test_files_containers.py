"""Files that can be read: every container, compressed or not, told by content before it is told by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from finetune_trainer.data.files import describe_file, read_file
from finetune_trainer.data.rows import RawRow
from tests.builders.row_files import (
    COMPRESSIONS,
    CONTAINERS,
    arrow_file,
    arrow_stream,
    json_list,
    jsonl,
    parquet,
    zstd,
)

ROWS = [{"question": "如何退款?", "answer": 'say "please",\nthen wait'}, {"question": "q", "answer": "a"}]


def read(tmp_path: Path, name: str, content: bytes) -> list[object]:
    path = tmp_path / "fetched"
    path.write_bytes(content)
    rows = list(read_file(f"s3://data/{name}", path))
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.value for row in rows if isinstance(row, RawRow)]


def notes(tmp_path: Path, name: str, content: bytes) -> tuple[str, ...]:
    path = tmp_path / "fetched"
    path.write_bytes(content)
    return describe_file(f"s3://data/{name}", path)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_rows(tmp_path: Path, container: str, compression: str) -> None:
    content = COMPRESSIONS[compression](CONTAINERS[container](ROWS))
    assert read(tmp_path, f"rows{container}{compression}", content) == ROWS


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_name_that_hides_the_compression_does_no_harm(tmp_path: Path, container: str) -> None:
    content = CONTAINERS[container](ROWS)
    assert read(tmp_path, f"rows{container}", zstd(gzip.compress(content))) == ROWS
    assert read(tmp_path, f"rows{container}.gz", content) == ROWS


READ_BY_CONTENT = {
    "JSON lines without an ending": ("rows", jsonl(ROWS)),
    "a list without an ending": ("rows", json_list(ROWS)),
    "a list named .jsonl": ("rows.jsonl", json_list(ROWS)),
    "JSON lines named .json": ("rows.json", jsonl(ROWS)),
    "JSON lines named .csv": ("rows.csv", jsonl(ROWS)),
    "JSON lines named .txt": ("rows.txt", jsonl(ROWS)),
    "a list named .tsv": ("rows.tsv", json_list(ROWS)),
    "Parquet named .jsonl": ("rows.jsonl", parquet(ROWS)),
    "Parquet without an ending": ("rows", parquet(ROWS)),
    "an Arrow stream named .parquet": ("rows.parquet", arrow_stream(ROWS)),
    "an Arrow file named .arrow": ("rows.arrow", arrow_file(ROWS)),
    "an unknown ending": ("rows.v2", jsonl(ROWS)),
}


@pytest.mark.parametrize("case", READ_BY_CONTENT)
def test_content_decides_before_the_name(tmp_path: Path, case: str) -> None:
    name, content = READ_BY_CONTENT[case]
    assert read(tmp_path, name, content) == ROWS


NOTES = {
    "nothing to say": ("rows.jsonl", jsonl(ROWS), ()),
    "compressed": ("rows.csv.gz", gzip.compress(b"a,b\n1,2\n"), ("unpacked (gzip)",)),
    "compressed twice": ("rows.jsonl", zstd(gzip.compress(jsonl(ROWS))), ("unpacked (zstd)", "unpacked (gzip)")),
    "another kind than its name says": (
        "rows.csv",
        jsonl(ROWS),
        ("read as JSON lines, which its content is, whatever its name says",),
    ),
    "a list named .jsonl is JSON still": ("rows.jsonl", json_list(ROWS), ()),
    "a stream named .feather is Arrow still": ("rows.feather", arrow_stream(ROWS), ()),
    "UTF-16": (
        "rows.jsonl",
        jsonl(ROWS).decode().encode("utf-16"),
        ("read as UTF-16, which its byte-order mark says",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_what_is_not_plain_is_noted(tmp_path: Path, case: str) -> None:
    name, content, expected = NOTES[case]
    assert notes(tmp_path, name, content) == expected


def test_text_is_one_row_a_block(tmp_path: Path) -> None:
    content = "用户:你好\r\n助手:您好\r\n\r\n \n\nA second block.\n".encode()
    assert read(tmp_path, "rows.txt", content) == [
        {"text": "用户:你好\n助手:您好"},
        {"text": "A second block."},
    ]


def test_text_that_begins_like_a_list_or_a_tag_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "rows.txt", b"[1] A footnote.\n") == [{"text": "[1] A footnote."}]
    assert read(tmp_path, "rows.txt", b"<s>A sentence.</s>\n") == [{"text": "<s>A sentence.</s>"}]


def test_places_name_the_line_or_the_row(tmp_path: Path) -> None:
    places = {
        "rows.jsonl": (b'\n{"a": 1}\n\n{"a": 2}', ["line 2", "line 4"]),
        "rows.csv": (b'a,b\r\n"x\r\ny",z\r\n\r\n1,2\r\n', ["line 2", "line 5"]),
        "rows.json": (b'[{"a": 1},\n\n{"a": 2}]', ["row 1", "row 2"]),
        "rows.parquet": (parquet(ROWS), ["row 1", "row 2"]),
        "rows.arrow": (arrow_stream(ROWS), ["row 1", "row 2"]),
        "rows.txt": (b"\n\none\ntwo\n\nthree", ["line 3", "line 6"]),
    }
    for name, (content, expected) in places.items():
        path = tmp_path / name
        path.write_bytes(content)
        found = [str(row.place) for row in read_file(f"s3://data/{name}", path)]
        assert found == [f"s3://data/{name} {place}" for place in expected]

"""Encodings: decided once a file, by what most of it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.data.files import describe_file, read_file
from finetune_trainer.data.rows import RawRow, RowProblem
from tests.builders.row_files import CONTAINERS

ROWS = [
    {"question": "怎样申请退款?", "answer": "请打开“我的订单”,选择“申请退款”。"},
    {"question": "emoji 😀", "answer": "plain"},
]
TEXT_CONTAINERS = [".jsonl", ".json", ".csv", ".tsv"]


def read(path: Path, name: str, content: bytes) -> list[RawRow | RowProblem]:
    path.write_bytes(content)
    return list(read_file(f"s3://data/{name}", path))


@pytest.mark.parametrize("container", TEXT_CONTAINERS)
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-32", "utf-16-le with a mark", "utf-16-be with a mark"],
)
def test_text_in_every_encoding_that_is_read(tmp_path: Path, container: str, encoding: str) -> None:
    text = CONTAINERS[container](ROWS).decode()
    codec, _, is_marked = encoding.partition(" with ")
    content = ("\ufeff" * bool(is_marked) + text).encode(codec)
    rows = read(tmp_path / "rows", f"rows{container}", content)
    assert [row.value for row in rows if isinstance(row, RawRow)] == ROWS


def test_text_blocks_in_gb18030(tmp_path: Path) -> None:
    rows = read(tmp_path / "rows", "rows.txt", "用户:你好\n\n助手:您好\n".encode("gb18030"))
    assert [row.value for row in rows if isinstance(row, RawRow)] == [
        {"text": "用户:你好"},
        {"text": "助手:您好"},
    ]


def test_reading_gb18030_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(CONTAINERS[".csv"](ROWS).decode().encode("gb18030"))
    [note] = describe_file("rows.csv", path)
    assert note.startswith("read as GB18030, since it is not UTF-8: look whether the samples are right")


def test_a_few_chinese_lines_among_english_ones_are_enough_for_gb18030(tmp_path: Path) -> None:
    lines = ['{"text": "an English line"}'] * 50 + ['{"text": "退款"}']
    rows = read(tmp_path / "rows", "rows.jsonl", "\n".join(lines).encode("gb18030"))
    assert isinstance(rows[-1], RawRow)
    assert rows[-1].value == {"text": "退款"}


def lines_of(texts: list[str], codec: str) -> list[bytes]:
    return [json.dumps({"text": text}, ensure_ascii=False).encode(codec) for text in texts]


STAYS_UTF8 = {
    "one line of a Chinese file is GB18030": lines_of(["怎样申请退款", "打开订单", "好"], "utf-8")
    + lines_of(["请选择退款"], "gb18030"),
    "one line of an English file is Latin-1": lines_of(["a", "b", "c"], "utf-8") + lines_of(["café au lait"], "latin-1"),
    "a curly quote of Windows": lines_of(["a", "b", "c"], "utf-8") + lines_of(["it’s"], "cp1252"),
    "a sequence that was cut": [*lines_of(["a", "b", "退款"], "utf-8"), b'{"text": "\xe9\x80"}'],
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS_UTF8)
def test_a_file_that_is_utf8_but_for_a_line_stays_utf8(tmp_path: Path, case: str) -> None:
    *good, bad = read(tmp_path / "rows", "rows.jsonl", b"\n".join(STAYS_UTF8[case]))
    assert [type(row) for row in good] == [RawRow] * (len(STAYS_UTF8[case]) - 1)
    assert isinstance(bad, RowProblem)
    assert bad.reason.startswith("not UTF-8 (byte 0x")


def test_a_line_that_may_be_gb18030_says_so(tmp_path: Path) -> None:
    content = b"\n".join(STAYS_UTF8["one line of a Chinese file is GB18030"])
    *_, bad = read(tmp_path / "rows", "rows.jsonl", content)
    assert isinstance(bad, RowProblem)
    assert bad.reason.endswith("; it may be GB18030: convert it with `iconv -f GB18030 -t UTF-8`")


def test_a_bad_line_of_a_gb18030_file_is_a_problem_of_its_own(tmp_path: Path) -> None:
    good = lines_of(["怎样申请退款,请打开我的订单" * 20] * 10, "gb18030")
    *rest, bad = read(tmp_path / "rows", "rows.jsonl", b"\n".join([*good, b'{"text": "\xff"}']))
    assert len(rest) == 10
    assert isinstance(bad, RowProblem)
    assert bad.reason == "not GB18030 (byte 0xff at position 11); save the file as UTF-8"


def test_a_character_on_the_edge_of_what_is_looked_at_changes_nothing(tmp_path: Path) -> None:
    row = {"text": "退款" * 100}
    for codec in ("utf-8", "gb18030"):
        line = json.dumps(row, ensure_ascii=False).encode(codec) + b"\n"
        for shift in range(4):
            content = b" " * shift + line * ((1 << 20) // len(line) + 2)
            rows = read(tmp_path / "rows", "rows.jsonl", content)
            assert all(isinstance(found, RawRow) and found.value == row for found in rows)


def test_a_row_of_a_list_that_is_not_in_the_encoding_is_a_problem_of_its_own(tmp_path: Path) -> None:
    good, bad = lines_of(["怎样申请退款,打开订单"], "utf-8")[0], b'{"text": "\xe9\x80\xff"}'
    rows = read(tmp_path / "rows", "rows.json", b"[" + b",\n".join([good, bad, good]) + b"]")
    assert [type(row) for row in rows] == [RawRow, RowProblem, RawRow]


def test_a_stray_zero_byte_spoils_its_row_only(tmp_path: Path) -> None:
    lines = [*lines_of(["hello"] * 100, "utf-8"), b'{"text": "\x00"}']
    *good, bad = read(tmp_path / "rows", "rows.jsonl", b"\n".join(lines))
    assert len(good) == 100
    assert isinstance(bad, RowProblem)
    assert "Invalid control character" in bad.reason

"""JSON lines and JSON lists: what makes a row a problem, and that the next one is read all the same."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest

from finetune_trainer.data.files import bounds, read_file
from finetune_trainer.data.files.json_lists import read_json_list
from finetune_trainer.data.rows import RawRow, RowProblem
from finetune_trainer.errors import DataError

GOOD = b'{"input_text": "q", "target_text": "a"}'


def read(path: Path, content: bytes) -> list[RawRow | RowProblem]:
    path.write_bytes(content)
    return list(read_file("s3://data/rows.json", path))


READABLE = {
    "one object a line": (GOOD + b"\n" + GOOD + b"\n", 2),
    "no newline at the end": (GOOD + b"\n" + GOOD, 2),
    "Windows line ends": (GOOD + b"\r\n" + GOOD + b"\r\n", 2),
    "blank lines between": (GOOD + b"\n\n   \n" + GOOD + b"\n", 2),
    "a byte-order mark": (b"\xef\xbb\xbf" + GOOD + b"\n", 1),
    "byte-order marks of files that were put together": (
        b"\xef\xbb\xbf" + GOOD + b"\n\xef\xbb\xbf" + GOOD,
        2,
    ),
    "a list": (b"[" + GOOD + b", " + GOOD + b"]", 2),
    "a list over several lines, with a byte-order mark": (b"\xef\xbb\xbf\n[\n" + GOOD + b"\n]\n", 1),
    "values that are no objects": (b'1\n"a"\n[2]\nnull\n', 4),
    "Chinese, escaped and not": ('{"a": "退款"}\n{"a": "\\u9000"}'.encode(), 2),
    "an escaped surrogate pair": (b'{"a": "\\ud83d\\ude00"}', 1),
    "an escaped surrogate pair in a list": (b'[{"a": "\\ud83d\\ude00"}]', 1),
}


@pytest.mark.parametrize("case", READABLE)
def test_files_that_can_be_read(tmp_path: Path, case: str) -> None:
    content, expected = READABLE[case]
    assert [type(row) for row in read(tmp_path / "rows", content)] == [RawRow] * expected


# line → (what is said of it as line 2 of JSON lines, what is said of it as row 2 of a list; None: the list is refused)
BAD_ROWS = {
    "half an object": (b'{"a": 1', "not JSON (Expecting ',' delimiter at column 8)", None),
    "single quotes": (
        b"{'a': 'b'}",
        "not JSON (Expecting property name enclosed in double quotes at column 2)",
        None,
    ),
    "two objects": (GOOD + b" " + GOOD, "not JSON (Extra data at column 41)", None),
    "a comma behind the object": (GOOD + b",", "not JSON (Extra data at column 40)", None),
    "plain text": (b"hello", "not JSON (Expecting value at column 1)", None),
    "a control character": (b'{"a": "\x01"}', "not JSON (Invalid control character at at column 8)", None),
    "nesting without end": (b"[" * 100_000, "not JSON (nested too deeply)", None),
    "NaN": (b'{"a": NaN}', "not JSON (NaN is not a JSON value)", "not JSON (NaN is not a JSON value)"),
    "Infinity": (
        b'{"a": -Infinity}',
        "not JSON (-Infinity is not a JSON value)",
        "not JSON (-Infinity is not a JSON value)",
    ),
    "a number beyond all floats": (
        b'{"a": 1e999}',
        "not JSON (a number is too large)",
        "not JSON (a number is too large)",
    ),
    "a number of ten thousand digits": (
        b'{"a": ' + b"9" * 10_000 + b"}",
        "not JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 10000 digits)",
        "not JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 10000 digits)",
    ),
    "a broken UTF-8 sequence": (
        b'{"a": "\xe9\x80\xff"}',
        "not UTF-8 (byte 0xe9 at position 8); save the file as UTF-8",
        "not in the encoding of the file; save the file as UTF-8",
    ),
    "half of a surrogate pair": (
        b'{"a": "\\ud83d"}',
        "contains half of a surrogate pair (\\ud800 to \\udfff), which is no character",
        "contains half of a surrogate pair (\\ud800 to \\udfff), which is no character",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_line_is_named_and_the_next_is_read(tmp_path: Path, case: str) -> None:
    line, reason, _ = BAD_ROWS[case]
    first, bad, last = read(tmp_path / "rows", GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert str(last.place) == "s3://data/rows.json line 3"
    assert isinstance(bad, RowProblem)
    assert bad.sentence == f"s3://data/rows.json line 2: {reason}"


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_value_of_a_list_is_named_and_the_next_is_read_where_its_end_is_known(
    tmp_path: Path, case: str
) -> None:
    value, _, reason = BAD_ROWS[case]
    content = b"[" + GOOD + b",\n" + value + b",\n" + GOOD + b"]"
    if reason is None:
        with pytest.raises(DataError, match=r"^s3://data/rows\.json row [23]: not JSON .* Correct the file"):
            read(tmp_path / "rows", content)
    else:
        _, bad, last = read(tmp_path / "rows", content)
        assert isinstance(last, RawRow)
        assert isinstance(bad, RowProblem)
        assert bad.sentence == f"s3://data/rows.json row 2: {reason}"


def test_the_last_line_says_that_the_file_may_be_cut(tmp_path: Path) -> None:
    *_, bad = read(tmp_path / "rows", GOOD + b'\n{"a": "b')
    assert isinstance(bad, RowProblem)
    assert bad.reason == (
        "not JSON (Unterminated string starting at at column 7); the file ends here and may be cut short"
    )


def test_a_line_longer_than_any_row_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    long = b'{"a": "' + b"x" * (3 << 20) + b'"}'
    exact = b'{"a": "' + b"x" * ((1 << 20) - 9) + b'"}'
    assert len(exact) == 1 << 20
    bad, good, fits = read(tmp_path / "rows", long + b"\n" + GOOD + b"\n" + exact)
    assert isinstance(bad, RowProblem)
    assert bad.sentence == "s3://data/rows.json line 1: longer than 1 MiB; write one JSON object a line"
    assert isinstance(good, RawRow)
    assert isinstance(fits, RawRow)
    assert fits.place.number == 3


def test_a_value_of_a_list_longer_than_any_row_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ROW_BYTES", 1 << 20)
    content = b"[" + GOOD + b', {"a": "' + b"x" * (6 << 20) + b'"}]'
    with pytest.raises(DataError, match=r"rows\.json row 2 is longer than 1 MiB, or never ends\. Correct"):
        read(tmp_path / "rows", content)


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64])
def test_a_list_reads_the_same_wherever_its_blocks_end(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(bounds, "BLOCK_BYTES", block_bytes)
    source = random.Random(block_bytes)
    for _ in range(200):
        rows = [_value(source) for _ in range(source.randint(0, 8))]
        text = json.dumps(rows, ensure_ascii=source.random() < 0.5, indent=source.choice([None, 1]))
        found = read_json_list("rows.json", io.BytesIO(text.encode()), "utf-8")
        assert [row.value for row in found if isinstance(row, RawRow)] == rows


def _value(source: random.Random, depth: int = 0) -> object:
    kind = source.random()
    if depth < 3 and kind < 0.25:
        return {_text(source): _value(source, depth + 1) for _ in range(source.randint(0, 3))}
    if depth < 3 and kind < 0.4:
        return [_value(source, depth + 1) for _ in range(source.randint(0, 3))]
    return source.choice([1, -2.5, 1e10, 1e-7, 123456, True, None, 0]) if kind < 0.5 else _text(source)


def _text(source: random.Random) -> str:
    return "".join(source.choice('ab"\\\n,][}{ 你😀é') for _ in range(source.randint(0, 12)))


def test_places_in_a_broken_list_are_those_an_editor_shows() -> None:
    rows = [{"number": number, "text": "x" * 100} for number in range(20_000)]
    text = json.dumps(rows, indent=1)
    wrong = text.replace('"number": 15000,', '"number": 15000', 1)
    number, line = next(
        (number, line) for number, line in enumerate(wrong.split("\n"), start=1) if line.endswith("15000")
    )
    with pytest.raises(DataError) as caught:
        list(read_json_list("rows.json", io.BytesIO(wrong.encode()), "utf-8"))
    # The comma is missed where the next name begins.
    assert (
        f"row 15001: not JSON (Expecting ',' delimiter at line {number + 1}, column 3)"
        in caught.value.message
    )
    assert line


def test_a_reason_quotes_nothing_of_the_row(tmp_path: Path) -> None:
    secret = "13912345678"
    lines = [
        f'{{"a": "{secret}',
        f'{{"a": {secret}x}}',
        f"{secret} and more",
        f'{{"a": "{secret}\\x"}}',
        f"{{{secret}: 1}}",
        f'{{"a": NaN, "b": "{secret}"}}',
    ]
    rows = read(tmp_path / "rows", GOOD + b"\n" + "\n".join(lines).encode())
    problems = [row for row in rows if isinstance(row, RowProblem)]
    assert len(problems) == len(lines)
    assert not [problem for problem in problems if secret in problem.sentence]

"""What a reader holds does not grow with the file."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.data.files import read_file
from tests.builders.row_files import COMPRESSIONS, CONTAINERS, jsonl

ROW = {"question": "怎样申请退款?" * 5, "answer": "a" * 300}
ROWS = 40_000
MIB = 1 << 20
TEXT_FILES: dict[str, Callable[[], bytes]] = {
    ".jsonl": lambda: jsonl([ROW]) * ROWS,
    ".json": lambda: b"[" + jsonl([ROW]).rstrip() + (b"," + jsonl([ROW])) * (ROWS - 1) + b"]",
    ".csv": lambda: b"question,answer\n" + CONTAINERS[".csv"]([ROW]).split(b"\r\n", 1)[1] * ROWS,
    ".txt": lambda: ("一段文字" * 30 + "\n\n").encode() * ROWS,
}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("suffix", TEXT_FILES)
def test_a_large_text_file_passes_in_a_few_mebibytes(tmp_path: Path, suffix: str, compression: str) -> None:
    path = tmp_path / "rows"
    content = TEXT_FILES[suffix]()
    assert len(content) > 13 * MIB
    path.write_bytes(COMPRESSIONS[compression](content))
    del content
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_file(f"rows{suffix}{compression}", path)) == ROWS
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_a_large_file_of_columns_passes_in_a_few_mebibytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(CONTAINERS[suffix]([ROW] * ROWS))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_file(f"rows{suffix}", path)) == ROWS
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()

"""Files that cannot be read: each kind of damage and each kind of wrong file has its own sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from finetune_trainer.data.files import NoRows, bounds, read_file
from finetune_trainer.errors import DataError
from tests.builders.broken_files import BROKEN_FILES
from tests.builders.row_files import parquet


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_refused_in_its_own_words(tmp_path: Path, case: str) -> None:
    broken = BROKEN_FILES[case]
    path = tmp_path / "fetched"
    path.write_bytes(broken.content)
    with pytest.raises(DataError) as caught:
        list(read_file(f"s3://data/{broken.name}", path))
    assert caught.value.message.startswith(f"s3://data/{broken.name} {broken.sentence}")
    assert caught.value.message.endswith(".")


def test_only_files_without_rows_may_be_left_out_of_a_folder(tmp_path: Path) -> None:
    without_rows = set()
    for case, broken in BROKEN_FILES.items():
        path = tmp_path / "fetched"
        path.write_bytes(broken.content)
        try:
            list(read_file(broken.name, path))
        except NoRows:
            without_rows.add(case)
        except DataError:
            pass
    assert without_rows == {
        "empty", "empty in gzip", "only blank lines", "empty list", "header only", "Parquet without rows",
    }  # fmt: skip


def test_what_was_read_before_the_damage_is_given(tmp_path: Path) -> None:
    path = tmp_path / "fetched"
    path.write_bytes(b'[{"a": 1}, {"a": 2}, oops]')
    rows = read_file("rows.json", path)
    assert [next(rows), next(rows)]
    with pytest.raises(
        DataError, match=r"rows\.json row 3: not JSON \(Expecting value at line 1, column 22\)"
    ):
        next(rows)


def test_a_compressed_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_UNPACKED_BYTES", 100_000)
    path = tmp_path / "fetched"
    path.write_bytes(gzip.compress(parquet([{"a": "b"}]) + bytes(10_000_000)))
    with pytest.raises(DataError, match=r"rows\.parquet\.gz is more than 0 GiB when it is unpacked"):
        list(read_file("rows.parquet.gz", path))

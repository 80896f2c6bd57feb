"""Compressed files: concatenated parts are one file, and where the disk has no room it is said."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import pytest

from finetune_trainer.data.files import read_file
from finetune_trainer.data.files.compression import Compression, compression_of, unpack_file
from finetune_trainer.data.rows import RawRow
from finetune_trainer.errors import DataError, UserError
from tests.builders.row_files import jsonl, zstd

PARTS = [jsonl([{"n": number}]) for number in range(5)]
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"

WHOLE = {
    "members of gzip": b"".join(gzip.compress(part) for part in PARTS),
    "members of gzip, with zeros behind": b"".join(gzip.compress(part) for part in PARTS) + bytes(512),
    "frames of zstd": b"".join(zstd(part) for part in PARTS),
    "a skippable frame of zstd in front": SKIPPABLE_FRAME + zstd(b"".join(PARTS)),
    "skippable frames of zstd between": SKIPPABLE_FRAME.join(zstd(part) for part in PARTS) + SKIPPABLE_FRAME,
}


@pytest.mark.parametrize("case", WHOLE)
def test_parts_one_behind_the_other_are_read_as_one(tmp_path: Path, case: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(WHOLE[case])
    rows = list(read_file("rows.jsonl", path))
    assert [row.value for row in rows if isinstance(row, RawRow)] == [{"n": number} for number in range(5)]


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_cut_in_the_last_part_is_noticed(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    path = tmp_path / "rows"
    path.write_bytes(compress(PARTS[0]) + compress(PARTS[1] * 1000)[:-9])
    with pytest.raises(DataError, match="was cut short"):
        list(read_file("rows.jsonl", path))


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for packed in (gzip.compress(b"".join(PARTS)), zstd(b"".join(PARTS))):
        for end in range(4, len(packed)):
            path.write_bytes(packed[:end])
            with pytest.raises(DataError, match=r"was cut short: its (gzip|zstd) data end before their end"):
                list(read_file("rows.jsonl", path))


def test_text_is_not_taken_for_compressed() -> None:
    for start in (b"", b"P", b"{", b"(", b"\x1f\x8b", b"PK\x03\x04", b"\x28\xb5\x2f"):
        assert compression_of(start) is None
    assert compression_of(gzip.compress(b"")) is Compression.GZIP
    assert compression_of(zstd(b"")) is Compression.ZSTD


def test_a_full_disk_names_the_field_to_raise(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(b"x" * 1_000_000))
    # A device that is always full.
    with pytest.raises(
        UserError, match=r"does not fit on the pod's disk.*Raise resources\.prepare\.ephemeralStorage"
    ):
        unpack_file("rows.parquet.gz", path, Path("/dev/full"))


def test_another_trouble_with_the_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(b"x"))
    with pytest.raises(OSError) as caught:
        unpack_file("rows.parquet.gz", path, tmp_path)
    assert caught.value.errno == errno.EISDIR

"""The checksums of manifests: against the check value that the catalogue of CRCs gives, and across blocks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from finetune_trainer.checksums import digests_of_file

# Of the polynomial and its conventions: https://reveng.sourceforge.io/crc-catalogue/17plus.htm#crc.cat.crc-64-nvme
CHECK_INPUT, CHECK_VALUE = b"123456789", "ae8b14860a799888"


def test_a_files_crc_is_that_of_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CHECK_INPUT)

    assert digests_of_file(tmp_path / "file") == (hashlib.sha256(CHECK_INPUT).hexdigest(), CHECK_VALUE)


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2 * 2**20 + 7])
def test_a_file_of_any_number_of_blocks_has_one_digest(tmp_path: Path, size: int) -> None:
    from awscrt.checksums import crc64nvme

    content = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "file").write_bytes(content[:size])

    assert digests_of_file(tmp_path / "file") == (
        hashlib.sha256(content[:size]).hexdigest(),
        f"{crc64nvme(content[:size]):016x}",
    )

"""CRC64-NVME, S3's checksum of whole objects, as manifests have it: 16 hexadecimal digits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from awscrt.checksums import crc64nvme

_BLOCK_BYTES = 1024 * 1024


def format_crc(crc: int) -> str:
    """Write it down."""
    return f"{crc:016x}"


def digests_of_file(path: Path) -> tuple[str, str]:
    """SHA-256 and CRC64-NVME of a file, which is read once."""
    digest, crc = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            crc = crc64nvme(block, crc)
    return digest.hexdigest(), format_crc(crc)

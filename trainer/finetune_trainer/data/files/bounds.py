"""What a reader holds at most, whatever a file says: a row, and what is unpacked to the disk."""

from __future__ import annotations

# A longer row is a file in another format, or an attempt to fill the pod's memory.
MAX_ROW_BYTES = 8 * 1024 * 1024
# Parquet and Arrow files are read from their end, so a compressed one is unpacked first.
MAX_UNPACKED_BYTES = 64 * 1024**3
# What is looked at to tell a file's kind and encoding.
START_BYTES = 1024 * 1024
BLOCK_BYTES = 256 * 1024


def mebibytes(count: int) -> str:
    """A bound as messages write it."""
    return f"{count >> 20} MiB"

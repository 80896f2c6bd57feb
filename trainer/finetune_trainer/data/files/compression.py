"""gzip and zstd, told by their first bytes and not by a name: read through, or unpacked to the disk.

Concatenated members and frames are read as one, and a file that ends too early is never taken for a whole one.
"""

from __future__ import annotations

import errno
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, cast

from finetune_trainer.data.files import bounds
from finetune_trainer.errors import DataError, UserError

# A file that was compressed twice by accident is read; more is a game.
MAX_LAYERS = 3
_MAGIC_BYTES = 16


class Compression(StrEnum):
    """How a file is compressed, by the name of the program that does it."""

    GZIP = "gzip"
    ZSTD = "zstd"


def compression_of(start: bytes) -> Compression | None:
    """Tell a compression by the first bytes; None for anything else."""
    if start.startswith(b"\x1f\x8b\x08"):
        return Compression.GZIP
    # The second is a skippable frame, with which seekable and parallel writers begin.
    is_skippable = len(start) > 3 and start[0] & 0xF0 == 0x50 and start[1:4] == b"\x2a\x4d\x18"
    return Compression.ZSTD if start.startswith(b"\x28\xb5\x2f\xfd") or is_skippable else None


@contextmanager
def open_unpacked(label: str, path: Path) -> Iterator[tuple[BinaryIO, tuple[Compression, ...]]]:
    """Open a file, whatever it is compressed with, and say with what. Reading raises DataError where it is damaged."""
    with ExitStack() as stack:
        file = cast(io.BufferedReader, stack.enter_context(path.open("rb", buffering=bounds.BLOCK_BYTES)))
        layers: list[Compression] = []
        while compression := compression_of(file.peek(_MAGIC_BYTES)):
            layers.append(compression)
            if len(layers) > MAX_LAYERS:
                raise DataError(f"{label} is compressed more than {MAX_LAYERS} times. Unpack it.")
            raw = _UnpackedBytes(label, compression, file)
            file = stack.enter_context(io.BufferedReader(raw, bounds.BLOCK_BYTES))
        yield file, tuple(layers)


def unpack_file(label: str, path: Path, target: Path) -> None:
    """Write what a compressed file holds to `target`. Raises DataError for a damaged or an endless one."""
    try:
        with open_unpacked(label, path) as (file, _), target.open("wb") as unpacked:
            while block := file.read(bounds.BLOCK_BYTES):
                unpacked.write(block)
                if unpacked.tell() > bounds.MAX_UNPACKED_BYTES:
                    raise DataError(
                        f"{label} is more than {bounds.MAX_UNPACKED_BYTES >> 30} GiB when it is unpacked. "
                        "Split it into several files."
                    )
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(
            f"{label} does not fit on the pod's disk when it is unpacked. "
            "Raise resources.prepare.ephemeralStorage, or store it uncompressed."
        ) from error


class _UnpackedBytes(io.RawIOBase):
    """What a compressed stream holds, with damage told in the words of the file."""

    def __init__(self, label: str, compression: Compression, packed: BinaryIO) -> None:
        self._label = label
        self._compression = compression
        self._stream = _open_stream(compression, packed)

    def readable(self) -> bool:
        """It can be read, and nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        """Fill the buffer; less only at the end."""
        try:
            data = self._stream.read(len(buffer))
        except EOFError as error:
            raise self._cut_short() from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise self._damaged(error) from error
        except OSError as error:
            if error.errno is not None:  # the disk, not the content
                raise
            raise (self._cut_short() if "Truncated" in str(error) else self._damaged(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def _cut_short(self) -> DataError:
        return DataError(
            f"{self._label} was cut short: its {self._compression} data end before their end. "
            f"Copy the whole file again and check it with `{self._compression} -t`."
        )

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"{self._label} is a damaged {self._compression} file ({_reason(error)}). "
            f"Compress it again and check it with `{self._compression} -t`."
        )


def _open_stream(compression: Compression, packed: BinaryIO) -> BinaryIO:
    if compression is Compression.GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=packed, mode="rb"))
    import pyarrow as pa

    return cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd"))


def _reason(error: Exception) -> str:
    # gzip quotes the bytes that stand where another member should begin.
    if isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file"):
        return "behind its end stands something else"
    return str(error)

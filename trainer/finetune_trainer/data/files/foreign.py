"""Files that are no rows at all, told by how they begin: archives, documents, error pages, pointers.

Each has a sentence of its own, since each is another mistake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune_trainer.errors import DataError

_LOOKED_AT = 4096
_UTF8_BOM = b"\xef\xbb\xbf"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_S3_ERROR_CODE = re.compile(rb"<Error>\s*<Code>([A-Za-z]{1,60})</Code>")
_TAR_MAGIC = slice(257, 262)
_CONVERT = "Convert it to .jsonl, one JSON object a line, or to Parquet."
_UNPACK = "Unpack it and name a file inside, or a folder with the files."
_SAVE_SHEET = "Save the sheet as `CSV UTF-8` and name that file."


@dataclass(frozen=True)
class _Kind:
    magic: bytes
    what: str
    action: str = _CONVERT


_KINDS = (
    _Kind(b"%PDF-", "a PDF document"),
    _Kind(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.xls or .doc)", _SAVE_SHEET),
    _Kind(b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    _Kind(b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    _Kind(b"FEA1", "a Feather file of version 1", "Write it as version 2, or as Parquet."),
    _Kind(b"PARE", "an encrypted Parquet file", "Store it unencrypted."),
    _Kind(b"Obj\x01", "an Avro file"),
    _Kind(b"ORC", "an ORC file"),
    _Kind(b"\x93NUMPY", "a NumPy array"),
    _Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    _Kind(b"SQLite format 3\x00", "an SQLite database"),
    _Kind(b"\x89PNG\r\n\x1a\n", "a PNG image"),
    _Kind(b"\xff\xd8\xff", "a JPEG image"),
    _Kind(b"\x7fELF", "a program"),
)  # fmt: skip
_OTHER_COMPRESSIONS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
}
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_PICKLE = re.compile(rb"\x80[\x02-\x05](\x95|[\]}(cX\x8c])")


def refuse_foreign(label: str, start: bytes) -> None:
    """Raise DataError for a file whose beginning shows that it holds no rows."""
    _refuse_pages(label, start)
    _refuse_zip(label, start)
    if _PICKLE.match(start):
        raise DataError(
            f"{label} is a Python pickle, which is never opened, since that can run code. {_CONVERT}"
        )
    if start[_TAR_MAGIC] == b"ustar":
        raise DataError(f"{label} is a tar archive, not rows. {_UNPACK}")
    for magic, name in _OTHER_COMPRESSIONS.items():
        if start.startswith(magic) and _is_certain(magic, start):
            raise DataError(
                f"{label} is compressed with {name}, which is not read. Compress it with gzip or zstd."
            )
    for kind in _KINDS:
        if start.startswith(kind.magic) and _is_certain(kind.magic, start):
            raise DataError(f"{label} is {kind.what}, not rows. {kind.action}")


def _is_certain(magic: bytes, start: bytes) -> bool:
    # Three letters may also begin a text.
    if magic == b"BZh":
        return start[4:10] == b"\x31\x41\x59\x26\x53\x59"
    return magic != b"ORC" or b"\0" in start[:_LOOKED_AT]


def _refuse_pages(label: str, start: bytes) -> None:
    text = start[:_LOOKED_AT].removeprefix(_UTF8_BOM).lstrip()
    lower = text[:64].lower()
    if text.startswith(_LFS_POINTER):
        raise DataError(
            f"{label} is a Git LFS pointer: it names the data and does not hold them. "
            "Run `git lfs pull` where the file comes from, and copy it again."
        )
    if lower.startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{label} is an HTML page, not rows: perhaps the error or login page of the server it was downloaded from. "
            "Download the data again and look at the first line before copying it."
        )
    if error := _S3_ERROR_CODE.search(text) if lower.startswith((b"<?xml", b"<error>")) else None:
        raise DataError(
            f"{label} is the error answer of an object store ({error[1].decode()}), not rows. "
            "Download the data again and look at the first line before copying it."
        )


def _refuse_zip(label: str, start: bytes) -> None:
    if not start.startswith(_ZIP_MAGICS):
        return
    if b"[Content_Types].xml" in start[:_LOOKED_AT] or b"xl/" in start[:_LOOKED_AT]:
        raise DataError(f"{label} is an Office document (such as .xlsx), not rows. {_SAVE_SHEET}")
    if b"/data.pkl" in start[:_LOOKED_AT]:
        raise DataError(f"{label} is a PyTorch file with pickled objects, which is never opened. {_CONVERT}")
    raise DataError(f"{label} is a ZIP archive, not rows. {_UNPACK}")

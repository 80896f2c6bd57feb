"""Files that cannot be read, each with its name and the sentence that must be said about it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile
from dataclasses import dataclass

from tests.builders.row_files import arrow_file, arrow_stream, jsonl, parquet, zstd

ROWS = [{"input_text": f"question {number}", "target_text": f"answer {number}"} for number in range(200)]
LINE = b'{"input_text": "q", "target_text": "a"}\n'


@dataclass(frozen=True)
class BrokenFile:
    """`sentence` is what follows the file's name in the message."""

    name: str
    content: bytes
    sentence: str


def _zip(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "rows")
    return packed.getvalue()


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(LINE)
        archive.addfile(entry, io.BytesIO(LINE))
    return packed.getvalue()


def _random_rows() -> bytes:
    # Does not shrink when it is compressed, so that cutting it cuts rows.
    source = random.Random(0)
    return jsonl([{"input_text": source.randbytes(300).hex(), "target_text": "a"} for _ in range(200)])


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0xFF
    return bytes(changed)


def _many_times(data: bytes, times: int) -> bytes:
    for _ in range(times):
        data = gzip.compress(data)
    return data


_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
_S3_ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>no</Message></Error>'
)
_CUT_LIST = json.dumps(ROWS).encode()[:-100]

BROKEN_FILES = {
    # compressed
    "gzip cut short": BrokenFile(
        "rows.jsonl.gz", gzip.compress(_random_rows())[:-500], "was cut short: its gzip data end before their end"
    ),
    "gzip with a flipped bit": BrokenFile(
        "rows.jsonl.gz", _flipped(gzip.compress(_random_rows()), 12), "is a damaged gzip file (Error -3"
    ),
    "gzip with another checksum": BrokenFile(
        "rows.jsonl.gz", _flipped(gzip.compress(LINE), -6), "is a damaged gzip file (CRC check failed"
    ),
    "gzip with something behind it": BrokenFile(
        "rows.jsonl.gz", gzip.compress(LINE) + LINE, "is a damaged gzip file (behind its end stands something else)"
    ),
    "zstd cut short": BrokenFile(
        "rows.jsonl.zst", zstd(_random_rows())[:-500], "was cut short: its zstd data end before their end"
    ),
    "zstd with something behind it": BrokenFile(
        "rows.jsonl.zst", zstd(LINE) + LINE, "is a damaged zstd file (ZSTD decompress failed"
    ),
    "compressed four times": BrokenFile(
        "rows.jsonl.gz", _many_times(LINE, 4), "is compressed more than 3 times. Unpack it"
    ),
    "bzip2": BrokenFile(
        "rows.jsonl", b"BZh91AY&SY" + bytes(range(256)), "is compressed with bzip2, which is not read"
    ),
    "xz": BrokenFile("rows", b"\xfd7zXZ\x00" + bytes(50), "is compressed with xz, which is not read"),
    # archives and documents
    "ZIP": BrokenFile("rows.jsonl", _zip("rows.jsonl"), "is a ZIP archive, not rows. Unpack it"),
    "Excel workbook": BrokenFile(
        "rows.csv", _zip("[Content_Types].xml"), "is an Office document (such as .xlsx), not rows. Save the sheet"
    ),
    "old Excel workbook": BrokenFile(
        "rows.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is an old Office document (.xls or .doc)"
    ),
    "PyTorch file": BrokenFile(
        "rows.json", _zip("archive/data.pkl"), "is a PyTorch file with pickled objects, which is never opened"
    ),
    "tar": BrokenFile("rows.jsonl", _tar(), "is a tar archive, not rows. Unpack it"),
    "tar in gzip": BrokenFile("rows.jsonl.gz", gzip.compress(_tar()), "is a tar archive, not rows. Unpack it"),
    "7z": BrokenFile("rows", b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7z archive, not rows. Unpack it"),
    "PDF": BrokenFile("rows.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document, not rows. Convert it"),
    "pickle": BrokenFile("rows", pickle.dumps(ROWS), "is a Python pickle, which is never opened"),
    "NumPy": BrokenFile("rows", b"\x93NUMPY\x01\x00v\x00{'descr'", "is a NumPy array, not rows"),
    "SQLite": BrokenFile("rows", b"SQLite format 3\x00" + bytes(50), "is an SQLite database, not rows"),
    "image": BrokenFile("rows.json", b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG image, not rows"),
    "binary": BrokenFile("rows.jsonl", LINE + bytes(3) + LINE, "is binary, not text, and of no kind that is read"),
    "control characters": BrokenFile(
        "rows.txt", bytes(range(1, 32)) * 20, "is binary, not text, and of no kind that is read"
    ),
    # pages instead of data
    "HTML page": BrokenFile(
        "rows.jsonl", b"\n<!DOCTYPE html>\n<html><body>Not Found</body></html>", "is an HTML page, not rows"
    ),
    "HTML page as .csv": BrokenFile("rows.csv", b"<html><head>", "is an HTML page, not rows"),
    "S3 error": BrokenFile("rows.jsonl", _S3_ERROR, "is the error answer of an object store (NoSuchKey), not rows"),
    "Git LFS pointer": BrokenFile(
        "rows.parquet", _LFS_POINTER, "is a Git LFS pointer: it names the data and does not hold them"
    ),
    # encodings
    "UTF-16 without a mark": BrokenFile(
        "rows.jsonl", LINE.decode().encode("utf-16-le"), "is UTF-16 without a byte-order mark, or binary"
    ),
    "UTF-16 cut short": BrokenFile(
        "rows.jsonl", LINE.decode().encode("utf-16")[:-1], "has a UTF-16 byte-order mark and is not UTF-16 throughout"
    ),
    "Latin-1": BrokenFile(
        "rows.csv",
        "text,label\ndéjà vu, bien sûr,oui\ncafé crème à emporter,non\nÀ bientôt, été,oui\n".encode("latin-1"),
        "is neither UTF-8 nor GB18030 text: 3 of its first 4 lines are not, the first is line 2",
    ),
    # JSON
    "empty": BrokenFile("rows.jsonl", b"", "is empty. Put rows into it"),
    "empty in gzip": BrokenFile("rows.jsonl.gz", gzip.compress(b""), "is empty. Put rows into it"),
    "only blank lines": BrokenFile("rows.jsonl", b"\n \n\r\n", "holds nothing but blank lines. Put rows into it"),
    "empty list": BrokenFile("rows.json", b" [ ]\n", "has no rows. Put rows into it"),
    "list cut short": BrokenFile(
        "rows.json", _CUT_LIST, "was cut short: its list ends at row 199 without a closing bracket"
    ),
    "list cut behind a comma": BrokenFile(
        "rows.json", b'[{"a": 1},', "was cut short: its list ends at row 2 without a closing bracket"
    ),
    "list with a comma too many": BrokenFile(
        "rows.json", b'[\n{"a": 1},\n]', "row 2: not JSON (Expecting value at line 3, column 1)"
    ),
    "list with a comma too few": BrokenFile(
        "rows.json", b'[{"a": 1}\n{"a": 2}]', "row 2: not JSON (Expecting ',' delimiter at line 2, column 1)"
    ),
    "list nested without end": BrokenFile(
        "rows.json", b"[" * 100_000 + b"]", "row 1: not JSON (nested too deeply). Correct the file"
    ),
    "list and something behind it": BrokenFile(
        "rows.json", b'[{"a": 1}]\n{"a": 2}', "has more behind the end of its list (line 2, column 1)"
    ),
    "object over several lines": BrokenFile(
        "rows.json", json.dumps({"data": ROWS}, indent=2).encode(), "holds a JSON object that is spread over several lines"
    ),
    # tables
    "header only": BrokenFile("rows.csv", b"text,label\r\n", "has a header and no rows. Put rows into it"),
    "column twice": BrokenFile(
        "rows.csv", b"text,label,text\na,b,c\n", "has the column 'text' more than once in its header"
    ),
    "header without names": BrokenFile("rows.csv", b",,\na,b,c\n", "has a header without a name"),
    "semicolons": BrokenFile(
        "rows.csv", b"text;label\na;b\n", "has one column, whose name contains ';': its cells are not separated by commas"
    ),
    "commas in .tsv": BrokenFile(
        "rows.tsv", b"text,label\na,b\n", "has one column, whose name contains ',': its cells are not separated by tabs"
    ),
    "quote that is never closed": BrokenFile(
        "rows.csv", b'text,label\na,b\n"c,d\ne,f\n', "line 3: a quote opens a cell and is not closed before the end"
    ),
    "line ends of an old Mac": BrokenFile(
        "rows.csv", b"text,label\ra,b\rc,d\r", "line 1: has a carriage return outside quotes"
    ),
    # columns
    "Parquet with a damaged footer": BrokenFile(
        "rows.parquet", parquet(ROWS)[:-40] + bytes(40), "is a damaged Parquet file, or one that was cut short"
    ),
    "Parquet cut short": BrokenFile(
        "rows.parquet", parquet(ROWS)[:1000], "is a damaged Parquet file, or one that was cut short"
    ),
    "Parquet in truncated gzip": BrokenFile(
        "rows.parquet.gz", gzip.compress(parquet(ROWS))[:-20], "was cut short: its gzip data end before their end"
    ),
    "Parquet without rows": BrokenFile("rows.parquet", parquet(ROWS[:0]), "has columns and no rows"),
    "JSON lines named Parquet": BrokenFile("rows.parquet", jsonl(ROWS), "does not begin as a Parquet file does"),
    "Arrow file cut short": BrokenFile(
        "rows.arrow", arrow_file(ROWS)[:-200], "is a damaged Arrow file, or one that was cut short"
    ),
    "Arrow stream cut short": BrokenFile(
        "rows.arrow", arrow_stream(ROWS)[:1500], "is a damaged Arrow file, or one that was cut short"
    ),
    "old Feather": BrokenFile("rows.feather", b"FEA1" + bytes(50), "is a Feather file of version 1, not rows"),
    "encrypted Parquet": BrokenFile("rows.parquet", b"PARE" + bytes(50), "is an encrypted Parquet file, not rows"),
    # names
    "text without a name that tells": BrokenFile("rows", b"hello\nworld\n", "is text of an unknown kind"),
}  # fmt: skip

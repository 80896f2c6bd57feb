"""The encoding of a text file, decided once from its first MiB: UTF-8, UTF-16 or UTF-32 with a mark, or GB18030.

A file that is UTF-8 but for some places stays UTF-8, and the rows with such places are refused one by one.
"""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from typing import Any, BinaryIO

from finetune_trainer.data.files import bounds
from finetune_trainer.errors import DataError

_REPLACEMENT = "\ufffd"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32-le", "UTF-32"),
    (b"\x00\x00\xfe\xff", "utf-32-be", "UTF-32"),
    (b"\xff\xfe", "utf-16-le", "UTF-16"),
    (b"\xfe\xff", "utf-16-be", "UTF-16"),
    (b"\xef\xbb\xbf", "utf-8", "UTF-8"),
)
_MAX_GB18030_DAMAGE = 0.01
# Of the characters beyond ASCII: Chinese text lies mostly in GB 2312, misread Western letters never do.
_MIN_COMMON_CHINESE = 0.4
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\n\r\f\x1b"))
# A text may have stray ones, with which the reader of its rows or cleaning deals.
_MAX_CONTROL_SHARE = 0.05
_MAX_ZERO_SHARE = 0.01


@dataclass(frozen=True)
class TextEncoding:
    """How bytes become text. `mark` are the bytes at the beginning that are no text."""

    codec: str
    mark: bytes = b""
    note: str | None = None

    @property
    def line_codec(self) -> str:
        """The encoding of what `open_text` gives: lines can be told in it by the byte for a line feed."""
        return self.codec if self.codec == "gb18030" else "utf-8"


def decide_encoding(label: str, start: bytes, *, is_whole: bool) -> TextEncoding:
    """Decide from the beginning of a file (`is_whole`: from all of it). Raises DataError for what is no text."""
    for mark, codec, name in _MARKS:
        if start.startswith(mark):
            note = None if codec == "utf-8" else f"read as {name}, which its byte-order mark says"
            return TextEncoding(codec, mark, note)
    _refuse_binary(label, start)
    if _is_valid_utf8(start, is_whole):
        return TextEncoding("utf-8")
    if not _is_mostly_utf8(start) and _is_gb18030(start, is_whole):
        note = "read as GB18030, since it is not UTF-8: look whether the samples are right, else save the file as UTF-8"
        return TextEncoding("gb18030", note=note)
    _refuse_other_encodings(label, start)
    return TextEncoding("utf-8")


def open_text(label: str, file: BinaryIO, encoding: TextEncoding) -> BinaryIO:
    """The bytes of a text behind its mark, in `encoding.line_codec`."""
    file.read(len(encoding.mark))
    if encoding.codec == encoding.line_codec:
        return file
    return io.BufferedReader(_Transcoded(label, file, encoding.codec), bounds.BLOCK_BYTES)


def describe_bad_byte(data: bytes, error: UnicodeDecodeError, codec: str) -> str:
    """Why a row is not in the file's encoding, and what it may be."""
    name = "GB18030" if codec == "gb18030" else "UTF-8"
    where = f"not {name} (byte 0x{data[error.start]:02x} at position {error.start + 1})"
    if codec == "utf-8" and _decodes(data, "gb18030"):
        return f"{where}; it may be GB18030: convert it with `iconv -f GB18030 -t UTF-8`"
    return f"{where}; save the file as UTF-8"


class _Transcoded(io.RawIOBase):
    """UTF-16 or UTF-32 as UTF-8."""

    def __init__(self, label: str, file: BinaryIO, codec: str) -> None:
        self._label = label
        self._file = file
        self._codec = codec
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._left = b""

    def readable(self) -> bool:
        """It can be read, and nothing else."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        """Give some bytes; none only at the end."""
        while not self._left:
            block = self._file.read(bounds.BLOCK_BYTES)
            self._left = self._decoded(block).encode("utf-8")
            if not block:
                break
        given, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)

    def _decoded(self, block: bytes) -> str:
        try:
            return self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            name = self._codec.upper()[:6]
            raise DataError(
                f"{self._label} has a {name} byte-order mark and is not {name} throughout ({error.reason}): it may be "
                "cut short, or put together from files of several encodings. Save it as UTF-8."
            ) from error


# --- what the bytes look like ----------------------------------------------------------------------------------


def _refuse_binary(label: str, start: bytes) -> None:
    if max(start[::2].count(0), start[1::2].count(0)) > len(start) // 4:
        raise DataError(
            f"{label} is UTF-16 without a byte-order mark, or binary. "
            "If it is text, save it as UTF-8, for example with `iconv -f UTF-16LE -t UTF-8`."
        )
    controls = len(start) - len(start.translate(None, _CONTROLS))
    if start.count(0) > len(start) * _MAX_ZERO_SHARE or controls > len(start) * _MAX_CONTROL_SHARE:
        raise DataError(
            f"{label} is binary, not text, and of no kind that is read. "
            "Convert it to .jsonl, one JSON object a line, or to Parquet."
        )


def _is_valid_utf8(start: bytes, is_whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=is_whole)
    except UnicodeDecodeError:
        return False
    return True


def _is_mostly_utf8(start: bytes) -> bool:
    text = start.decode("utf-8", "replace")
    bad = text.count(_REPLACEMENT)
    good = sum(not letter.isascii() for letter in text) - bad
    return good >= bad


def _is_gb18030(start: bytes, is_whole: bool) -> bool:
    decoder = codecs.getincrementaldecoder("gb18030")("replace")
    foreign = "".join(letter for letter in decoder.decode(start, final=is_whole) if not letter.isascii())
    common = len(foreign.encode("gb2312", "ignore")) // 2
    is_clean = foreign.count(_REPLACEMENT) <= len(foreign) * _MAX_GB18030_DAMAGE
    return is_clean and common >= len(foreign) * _MIN_COMMON_CHINESE


def _refuse_other_encodings(label: str, start: bytes) -> None:
    # The last line may be cut in the middle of a character.
    lines = start.split(b"\n")[: -1 if b"\n" in start else None]
    bad = [number for number, line in enumerate(lines, start=1) if not _decodes(line, "utf-8")]
    if len(bad) * 2 > len(lines):
        raise DataError(
            f"{label} is neither UTF-8 nor GB18030 text: {len(bad)} of its first {len(lines)} lines are not, "
            f"the first is line {bad[0]}. "
            "Save it as UTF-8, for example with `iconv -f LATIN1 -t UTF-8`."
        )


def _decodes(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        return False
    return True

"""One JSON value a line. A line that is none is a problem of its own, and the next one is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from finetune_trainer.data.files import bounds
from finetune_trainer.data.files.encodings import describe_bad_byte
from finetune_trainer.data.files.json_values import LONE_SURROGATE, NotJson, parse_json
from finetune_trainer.data.files.lines import numbered_lines
from finetune_trainer.data.rows import Place, RawRow, RowProblem


def read_json_lines(label: str, file: BinaryIO, codec: str) -> Iterator[RawRow | RowProblem]:
    """Read the lines; blank ones are none."""
    for number, line in numbered_lines(file):
        place = Place(label, "line", number)
        if line is None:
            limit = bounds.mebibytes(bounds.MAX_ROW_BYTES)
            yield RowProblem(place, f"longer than {limit}; write one JSON object a line")
        elif not line.isspace():
            yield _row(place, line, codec)


def _row(place: Place, line: bytes, codec: str) -> RawRow | RowProblem:
    try:
        return RawRow(place, parse_json(line.decode(codec).rstrip("\r\n").removeprefix("\ufeff")))
    except UnicodeDecodeError as error:
        return RowProblem(place, describe_bad_byte(line, error, codec))
    except NotJson as error:
        return RowProblem(place, _sentence(str(error), line))


def _sentence(reason: str, line: bytes) -> str:
    if reason == LONE_SURROGATE:
        return reason
    # Only the last line of a file has no line end.
    is_cut = line.lstrip().startswith(b"{") and not line.endswith((b"\n", b"}"))
    return f"not JSON ({reason})" + ("; the file ends here and may be cut short" if is_cut else "")

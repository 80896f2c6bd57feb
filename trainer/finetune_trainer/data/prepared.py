"""The prepared data set in the store: tokenised rows with the learned tokens marked, manifest last.

prepare writes it, train reads it. Rows are one safetensors file, read through a memory map, without torch or numpy:
`input_ids` int32 [tokens], `learned` uint8 [tokens], `offsets` int64 [rows + 1].
"""

from __future__ import annotations

import array
import json
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.layout import FileEntry
from finetune_trainer.checkpoints import file_entry, file_problem
from finetune_trainer.errors import ObjectDamaged, ObjectMissing
from finetune_trainer.storage import ObjectStore

ROWS_FILE_NAME = "rows.safetensors"
REPORT_FILE_NAME = "report.json"
MANIFEST_FILE_NAME = "manifest.json"

# torch reads these dtypes by the same names; array's type codes have these widths on every 64-bit platform.
_TYPE_CODES: dict[str, Literal["i", "B", "q"]] = {"I32": "i", "U8": "B", "I64": "q"}


class PreparedManifest(ApiModel):
    """`manifest.json` of a prepared data set: its existence says that the rest is complete."""

    schema_version: Literal[1] = 1
    digest: str
    rows: int
    rows_dropped: int
    tokens: int
    learned_tokens: int
    longest_row_tokens: int
    mask_source: str
    chat_template: str
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class TokenizedRow:
    """One training row: token ids, and for each 1 where it is learned."""

    input_ids: array.array[int]
    learned: bytes

    @property
    def learned_count(self) -> int:
        """How many tokens are learned."""
        return sum(self.learned)


class PreparedRows:
    """Random access to prepared rows. Slices are memory views: `torch.frombuffer` takes them as they are."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        columns = _columns(memoryview(self._map))
        self.input_ids: memoryview[int] = columns["input_ids"]
        self.learned: memoryview[int] = columns["learned"]
        self.offsets: memoryview[int] = columns["offsets"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row_length(self, row: int) -> int:
        """Tokens of a row."""
        return self.offsets[row + 1] - self.offsets[row]

    def row_input_ids(self, row: int) -> memoryview[int]:
        """Token ids of a row, int32."""
        return self.input_ids[self.offsets[row] : self.offsets[row + 1]]

    def row_learned(self, row: int) -> memoryview[int]:
        """1 for each learned token of a row, uint8."""
        return self.learned[self.offsets[row] : self.offsets[row + 1]]


def write_rows(path: Path, rows: Iterable[TokenizedRow]) -> None:
    """Write rows as one safetensors file; equal rows give equal bytes."""
    input_ids, offsets, learned = array.array("i"), array.array("q", [0]), bytearray()
    for row in rows:
        input_ids.extend(row.input_ids)
        learned.extend(row.learned)
        offsets.append(len(input_ids))
    # The 8-byte column stands first, so that every column is aligned.
    columns = [
        ("offsets", "I64", len(offsets), offsets.tobytes()),
        ("input_ids", "I32", len(input_ids), input_ids.tobytes()),
        ("learned", "U8", len(learned), bytes(learned)),
    ]
    _write_safetensors(path, columns)


def load_prepared_manifest(store: ObjectStore, prepared_uri: str) -> PreparedManifest | None:
    """Read the manifest; None where this data set was not prepared yet, or by another version of the format."""
    try:
        return PreparedManifest.model_validate_json(store.read_bytes(f"{prepared_uri}/{MANIFEST_FILE_NAME}"))
    except (ObjectMissing, ValidationError):
        return None


def save_prepared(
    store: ObjectStore, prepared_uri: str, directory: Path, facts: PreparedManifest
) -> PreparedManifest:
    """Upload rows and report of `directory`, then the manifest with their digests."""
    names = (ROWS_FILE_NAME, REPORT_FILE_NAME)
    manifest = facts.model_copy(
        update={"files": tuple(file_entry(directory / name, directory) for name in names)}
    )
    store.upload_files({f"{prepared_uri}/{name}": directory / name for name in names})
    store.write_bytes(
        f"{prepared_uri}/{MANIFEST_FILE_NAME}", (manifest.model_dump_json(indent=2) + "\n").encode()
    )
    return manifest


def download_prepared(store: ObjectStore, prepared_uri: str, directory: Path) -> PreparedRows:
    """Download the rows, compare them with the manifest and open them."""
    manifest = load_prepared_manifest(store, prepared_uri)
    if manifest is None:
        raise ObjectMissing(
            f"{prepared_uri}/{MANIFEST_FILE_NAME} does not exist. Delete and re-apply the FineTuneJob to prepare again."
        )
    path = directory / ROWS_FILE_NAME
    store.download_file(f"{prepared_uri}/{ROWS_FILE_NAME}", path)
    entry = next(entry for entry in manifest.files if entry.name == ROWS_FILE_NAME)
    if (problem := file_problem(path, entry)) is not None:
        raise ObjectDamaged(
            f"The prepared data at {prepared_uri} are damaged: {problem}. Delete {prepared_uri} and apply the job anew."
        )
    return PreparedRows(path)


def _write_safetensors(path: Path, columns: list[tuple[str, str, int, bytes]]) -> None:
    # Written by hand (the format is eight bytes, a JSON header, the data): the safetensors package would want numpy.
    header: dict[str, object] = {}
    position = 0
    for name, dtype, length, data in columns:
        header[name] = {"dtype": dtype, "shape": [length], "data_offsets": [position, position + len(data)]}
        position += len(data)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.writelines(data for *_, data in columns)


def _columns(view: memoryview) -> dict[str, memoryview[int]]:
    (header_bytes,) = struct.unpack("<Q", view[:8])
    header = json.loads(bytes(view[8 : 8 + header_bytes]))
    data = view[8 + header_bytes :]
    return {
        name: data[slice(*column["data_offsets"])].cast(_TYPE_CODES[column["dtype"]])
        for name, column in header.items()
    }

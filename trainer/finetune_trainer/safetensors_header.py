"""Reads the header of a safetensors file in the store: names, shapes and types of its tensors, none of its weights."""

from __future__ import annotations

import struct
from math import prod

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectInfo, ObjectStore

# The format's own limit. Source: safetensors, README "Format".
_MAX_HEADER_BYTES = 100_000_000
_FIRST_READ_BYTES = 256 * 1024
_METADATA_KEY = "__metadata__"


class TensorInfo(BaseModel):
    """One tensor of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def element_count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


_HEADER = TypeAdapter(dict[str, TensorInfo | dict[str, str]])


def read_tensor_infos(store: ObjectStore, file: ObjectInfo) -> dict[str, TensorInfo]:
    """Read the tensors a file declares. Raises UserError for a file that is cut short or no safetensors file."""
    if file.size_bytes < 8:
        raise _broken(file, f"it has {file.size_bytes} bytes")
    start = store.read_range(file.uri, 0, min(_FIRST_READ_BYTES, file.size_bytes))
    (header_bytes,) = struct.unpack("<Q", start[:8])
    if header_bytes > min(_MAX_HEADER_BYTES, file.size_bytes - 8):
        raise _broken(file, "its header is longer than the file or than the format allows")
    header = start[8 : 8 + header_bytes]
    if len(header) < header_bytes:
        header += store.read_range(file.uri, 8 + len(header), header_bytes - len(header))
    tensors = _parse(file, header)
    data_bytes = max((info.data_offsets[1] for info in tensors.values()), default=0)
    if 8 + header_bytes + data_bytes != file.size_bytes:
        expected = 8 + header_bytes + data_bytes
        raise _broken(file, f"it has {file.size_bytes} bytes, its header says {expected}")
    return tensors


def _parse(file: ObjectInfo, header: bytes) -> dict[str, TensorInfo]:
    try:
        entries = _HEADER.validate_json(header)
    except ValidationError as error:
        raise _broken(file, "its header is not that of the format") from error
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, TensorInfo) and name != _METADATA_KEY
    }


def _broken(file: ObjectInfo, why: str) -> UserError:
    return UserError(f"{file.uri} is not a complete safetensors file: {why}. Upload the file again.")

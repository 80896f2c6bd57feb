"""A few rows of the prepared data, read without downloading the rest: what export compares models on."""

from __future__ import annotations

import array
import sys

from finetune_trainer.data.prepared import ROWS_FILE_NAME, TokenizedRow
from finetune_trainer.safetensors_header import TensorInfo, read_tensor_infos
from finetune_trainer.storage import ObjectInfo, ObjectStore

assert sys.byteorder == "little", "safetensors are little-endian"


def read_first_rows(store: ObjectStore, prepared_uri: str, count: int) -> list[TokenizedRow]:
    """Read the first `count` rows, or all if there are fewer."""
    file = next(info for info in store.list_objects(prepared_uri) if info.name == ROWS_FILE_NAME)
    columns = read_tensor_infos(store, file)
    # The data begin where the header ends: at the file's end less what the columns take.
    data_start = file.size_bytes - max(column.data_offsets[1] for column in columns.values())
    count = min(count, columns["offsets"].element_count - 1)
    offsets = array.array("q", _read(store, file, data_start, columns["offsets"], 8, count + 1))
    input_ids = array.array("i", _read(store, file, data_start, columns["input_ids"], 4, offsets[count]))
    learned = _read(store, file, data_start, columns["learned"], 1, offsets[count])
    return [
        TokenizedRow(input_ids[offsets[row] : offsets[row + 1]], learned[offsets[row] : offsets[row + 1]])
        for row in range(count)
    ]


def _read(
    store: ObjectStore, file: ObjectInfo, data_start: int, column: TensorInfo, item_bytes: int, items: int
) -> bytes:
    return store.read_range(file.uri, data_start + column.data_offsets[0], items * item_bytes)

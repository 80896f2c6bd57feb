"""The rows that a finished model is looked at with: a few of the prepared data, each cut to its end."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.data.prepared import (
    SAMPLE_FILE_NAME,
    PreparedRows,
    TokenizedRow,
    download_prepared,
    write_rows,
)
from finetune_trainer.data.step_batches import PackedRows, pack_rows
from finetune_trainer.storage import ObjectStore

_ROWS = 32
# The end of each row, where the answer stands. It bounds the time: a 7B model on two cores computes minutes as it is.
_TOKENS = 128


def load_compared_rows(store: ObjectStore, prepared_uri: str, directory: Path) -> PackedRows:
    """Download the sample into `directory`; its rows as one packed batch."""
    download_prepared(store, prepared_uri, directory, [SAMPLE_FILE_NAME])
    found = PreparedRows(directory / SAMPLE_FILE_NAME)
    path = directory / "cut.arrow"
    write_rows(path, (_end_of(found.row(row)) for row in range(min(_ROWS, len(found)))))
    rows = PreparedRows(path)
    return pack_rows(rows, range(len(rows)))


def _end_of(row: TokenizedRow) -> TokenizedRow:
    return TokenizedRow(row.input_ids[-_TOKENS:], row.learned[-_TOKENS:])

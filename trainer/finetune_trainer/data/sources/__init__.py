"""Sources of rows: brought to the pod's disk from wherever they stand, then read row by row.

What a row says is not looked at yet. A row that cannot be read is a RowProblem beside the others; a file that cannot be
read is a DataError, and a source that is not there a UserError.
"""

from finetune_trainer.data.sources.fetching import (
    HubDataset,
    HubOpener,
    StoreOpener,
    fetch_sources,
    unpack_columnar,
)
from finetune_trainer.data.sources.local import LocalFile, LocalSource
from finetune_trainer.data.sources.reading import file_notes, read_rows

__all__ = [
    "HubDataset",
    "HubOpener",
    "LocalFile",
    "LocalSource",
    "StoreOpener",
    "fetch_sources",
    "file_notes",
    "read_rows",
    "unpack_columnar",
]

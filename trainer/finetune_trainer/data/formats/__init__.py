"""What a row means: recognises the format of a source and turns each row into an example, or says why it cannot.

`recognition` decides once a source how its rows are read, from its settings and its first rows. `reading` turns one row
into an example; each family of formats has a module of its own (`turns`, `plain_turns`, `pairs`, `classes`).
"""

from __future__ import annotations

from finetune_trainer.data.formats.columns import Columns, RowFormat
from finetune_trainer.data.formats.reading import FormatContext, label_of, read_example
from finetune_trainer.data.formats.recognition import FIRST_ROWS, decide_format

__all__ = [
    "FIRST_ROWS",
    "Columns",
    "FormatContext",
    "RowFormat",
    "decide_format",
    "label_of",
    "read_example",
]

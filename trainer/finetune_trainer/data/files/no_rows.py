"""A file that is in order but for its rows, of which it has none: beside other files it is left out."""

from __future__ import annotations

from finetune_trainer.errors import DataError


class NoRows(DataError):
    """There is nothing to read."""

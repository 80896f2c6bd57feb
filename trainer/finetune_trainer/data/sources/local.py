"""What a source is once its bytes are here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_api.spec import DataSource
from finetune_trainer.data.rows import Split


@dataclass(frozen=True)
class LocalFile:
    """A file on the pod's disk, and its name as the user knows it."""

    label: str
    path: Path


@dataclass(frozen=True)
class LocalSource:
    """A source whose bytes are here: files, or the rows written into the job (then `files` is empty)."""

    label: str
    field: str
    settings: DataSource
    split: Split
    files: tuple[LocalFile, ...]

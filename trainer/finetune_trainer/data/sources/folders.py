"""Which files below a folder are taken, and what is said when there are none."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from finetune_trainer.data.files.file_names import READABLE_NAMES, choose_data_files, shortened
from finetune_trainer.errors import UserError

logger = logging.getLogger(__name__)

MAX_FILES = 10_000


def readable_names(uri: str, field: str, names: Iterable[str]) -> tuple[str, ...]:
    """Choose the data among the names below a folder, sorted. Raises UserError where nothing can be read."""
    choice = choose_data_files(names)
    if not choice.chosen:
        has = f"it has {shortened(choice.skipped)}" if choice.skipped else "it is empty"
        raise UserError(
            f"{field}.source {uri} is a folder without a file that is read ({has}). "
            f"Put files there whose names end with one of {READABLE_NAMES}."
        )
    if len(choice.chosen) > MAX_FILES:
        raise UserError(
            f"{field}.source {uri} has {len(choice.chosen)} files; at most {MAX_FILES} are read. "
            "Put the rows into fewer, larger files, or name a narrower folder."
        )
    left_out = f", left out: {shortened(choice.skipped)}" if choice.skipped else ""
    logger.info("%s is a folder: %d files are read%s", uri, len(choice.chosen), left_out)
    return choice.chosen

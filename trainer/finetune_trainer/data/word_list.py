"""Reads the user's list of words that mean the same: one group a line, words separated by commas, `#` for remarks."""

from __future__ import annotations

import re
from pathlib import Path

from finetune_api.spec import Store
from finetune_trainer.data.sources import StoreOpener
from finetune_trainer.data.sources.config_maps import config_map_file
from finetune_trainer.errors import DataError

_FIELD = "dataset.preparation.augment.wordList"

_SEPARATOR = re.compile("[,，]")


def fetch_word_groups(
    uri: str, store: Store, open_store: StoreOpener, directory: Path
) -> tuple[tuple[str, ...], ...]:
    """Bring the list here and read it. Raises UserError where it is not there, DataError as `read_word_groups`."""
    if uri.startswith("configMap://"):
        return read_word_groups(uri, config_map_file(uri, _FIELD).path)
    path = directory / "words.txt"
    open_store(store).download_file(uri, path)
    return read_word_groups(uri, path)


def read_word_groups(label: str, path: Path) -> tuple[tuple[str, ...], ...]:
    """Read the groups of at least two words. Raises DataError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{label} ({_FIELD}) is not UTF-8 text ({error.reason}). Save it as UTF-8."
        ) from error
    groups = [_words(line) for line in lines if not line.lstrip().startswith("#")]
    found = tuple(group for group in groups if len(group) > 1)
    if not found:
        raise DataError(
            f"{label} ({_FIELD}) has no line with two words of the same meaning. Write one group a line, "
            "separated by commas, such as `buy, purchase`."
        )
    return found


def _words(line: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in _SEPARATOR.split(line) if (word := part.strip())))

"""README.md of a hub's data set: its YAML head says which files are which split of which configuration.

Source: https://huggingface.co/docs/hub/datasets-manual-configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

logger = logging.getLogger(__name__)

DEFAULT_SPLIT = "train"
DEFAULT_CONFIGURATION = "default"
MAX_CARD_BYTES = 4 * 1024 * 1024
_FENCE = "---"


@dataclass(frozen=True)
class Configuration:
    """One configuration: patterns of files for each split (None: by the files' names), below a folder."""

    name: str
    patterns: Mapping[str, tuple[str, ...]] | None = None
    folder: str = ""
    is_default: bool = False


def read_configurations(card: str, origin: str) -> tuple[Configuration, ...]:
    """The configurations that a README.md declares; none where it declares none that can be read."""
    head = _head(card)
    try:
        declared = yaml.safe_load(head) if head else None
        listed = declared.get("configs") if isinstance(declared, dict) else None
        return tuple(_configuration(entry) for entry in listed or [])
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning(
            "README.md of %s: its head cannot be read (%s); files are told by name",
            origin,
            _first_line(error),
        )
        return ()


def _head(card: str) -> str | None:
    lines = card.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return None
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), None)
    return "\n".join(lines[1:end]) if end is not None else None


def _configuration(entry: Mapping[str, object]) -> Configuration:
    data_files, folder = entry.get("data_files"), entry.get("data_dir")
    return Configuration(
        name=str(entry.get("config_name", DEFAULT_CONFIGURATION)),
        patterns=_patterns(data_files) if data_files is not None else None,
        folder=str(folder).strip("/").removeprefix("./") if folder else "",
        is_default=entry.get("default") is True,
    )


def _patterns(data_files: object) -> dict[str, tuple[str, ...]]:
    """`data_files` in each of its forms: a pattern, a list of them, or patterns for each split."""
    if isinstance(data_files, dict):
        return {str(split): _paths(paths) for split, paths in data_files.items()}
    if isinstance(data_files, list) and any(isinstance(each, dict) for each in data_files):
        return {str(each["split"]): _paths(each["path"]) for each in data_files}
    return {DEFAULT_SPLIT: _paths(data_files)}


def _paths(paths: object) -> tuple[str, ...]:
    listed = paths if isinstance(paths, list) else [paths]
    named = tuple(each.removeprefix("./") for each in listed if isinstance(each, str))
    if not named or len(named) != len(listed):
        raise ValueError("data_files holds something that is no path")
    return named


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

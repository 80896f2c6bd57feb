"""Which files are which split where nobody says so: by their names and folders, as the library datasets does. Pure.

Source: datasets, data_files.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from finetune_trainer.hubs.dataset_card import DEFAULT_SPLIT

_KEYWORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
_SEPARATOR = "[-._ 0-9]"
_Says = Callable[[str, str], bool]
# What `push_to_hub` writes: any name may be a split's.
_SHARD = re.compile(r"(?:.*/)?data/(?P<split>[^/]+?)-\d{5}-of-\d{5}[^/]*\.[^/]*")
# The branch refs/convert/parquet: <configuration>/<split>/0000.parquet, `partial-` where the hub stopped converting.
_CONVERTED = re.compile(r"(?P<configuration>[^/]+)/(?:partial-)?(?P<split>[^/]+)/\d{4}\.parquet")


def splits_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split; all are the training split where no name tells."""
    by_shard = _grouped((found["split"], name) for name in names if (found := _SHARD.fullmatch(name)))
    if by_shard:
        return by_shard
    return _by_keyword(names, _folder_says) or _by_keyword(names, _file_says) or {DEFAULT_SPLIT: list(names)}


def converted_files(names: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Configurations and their splits on the branch where Hugging Face keeps a data set as Parquet; else nothing."""
    found = {name: match for name in names if (match := _CONVERTED.fullmatch(name))}
    if not names or len(found) != len(names):
        return {}
    configurations: dict[str, dict[str, list[str]]] = {}
    for name, match in found.items():
        configurations.setdefault(match["configuration"], {}).setdefault(match["split"], []).append(name)
    return configurations


def matching(patterns: Iterable[str], names: Iterable[str], folder: str = "") -> list[str]:
    """The names that one of the patterns matches: `*` within a folder, `**` across, or a folder's own name."""
    prefix = f"{folder}/" if folder else ""
    expressions = [re.compile(_expression(f"{prefix}{pattern}")) for pattern in patterns]
    return [name for name in names if any(each.fullmatch(name) for each in expressions)]


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern.rstrip("/"))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = "".join(
        known.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part))
        for part in parts
    )
    return f"{expression}(?:/.*)?"


def _by_keyword(names: Sequence[str], says: _Says) -> dict[str, list[str]]:
    return _grouped(
        (split, name) for split, words in _KEYWORDS.items() for name in names if says(words, name)
    )


def _folder_says(words: str, name: str) -> bool:
    whole = re.compile(f"(?:^|.*{_SEPARATOR})(?:{words})(?:$|{_SEPARATOR}.*)")
    return any(whole.fullmatch(part) for part in name.split("/")[:-1])


def _file_says(words: str, name: str) -> bool:
    return re.match(f"(?:|.*{_SEPARATOR})(?:{words}){_SEPARATOR}", name.rpartition("/")[2]) is not None


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for split, name in pairs:
        groups.setdefault(split, []).append(name)
    return groups

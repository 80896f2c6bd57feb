"""What a file's name says: its kind, whether it is read at all, and which files of a folder are the data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

COMPRESSION_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TAB_SUFFIXES = (".tsv", ".tab")
COLUMNAR_SUFFIXES = (".parquet", ".arrow", ".feather")
TEXT_SUFFIX = ".txt"
READABLE_SUFFIXES = (*JSON_SUFFIXES, ".csv", *TAB_SUFFIXES, *COLUMNAR_SUFFIXES, TEXT_SUFFIX)
# As messages list them.
READABLE_NAMES = ".jsonl, .json, .csv, .tsv, .parquet, .arrow and .txt, each also .gz or .zst"

# Names that never are rows: said before anything is fetched. Everything else is told by content.
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".lz4")
_DOCUMENTS = (
    ".xlsx",
    ".xls",
    ".ods",
    ".doc",
    ".docx",
    ".pdf",
    ".html",
    ".htm",
    ".xml",
    ".yaml",
    ".yml",
    ".md",
)
_MODELS = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npy", ".npz", ".h5", ".hdf5")
_OTHERS = (
    ".db",
    ".sqlite",
    ".avro",
    ".orc",
    ".tfrecord",
    ".png",
    ".jpg",
    ".jpeg",
    ".mp3",
    ".wav",
    ".mp4",
    ".py",
    ".ipynb",
)
_UNREADABLE_SUFFIXES = frozenset((*_ARCHIVES, *_DOCUMENTS, *_MODELS, *_OTHERS))
# What tools put beside the rows.
_BESIDE_ROWS = re.compile(
    r"(readme|licen[sc]e|changelog|requirements)(\..*)?|(dataset_infos?|dataset_dict|state)\.json",
    re.IGNORECASE,
)
_OTHER_SPLIT = re.compile(r"(?:^|[^a-z])(validation|valid|val|dev|eval|test)(?:[^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class FolderChoice:
    """The files of a folder that are read, sorted, and the others."""

    chosen: tuple[str, ...]
    skipped: tuple[str, ...]


def kind_suffix(name: str) -> str:
    """The ending that tells the kind: `.csv` of rows.csv.gz; empty where there is none."""
    path = PurePosixPath(name.rstrip("/").lower())
    while path.suffix in COMPRESSION_SUFFIXES:
        path = path.with_suffix("")
    return path.suffix


def is_never_rows(name: str) -> bool:
    """Whether a name ends like something that is not read."""
    return kind_suffix(name) in _UNREADABLE_SUFFIXES


def choose_data_files(names: Iterable[str]) -> FolderChoice:
    """Choose the data among the files below a folder, by their names relative to it.

    Hidden names, those that begin with `_` and what tools put beside rows are left out, and .txt files where there are
    others: beside data they are notes.
    """
    ordered = sorted(names)
    readable = [name for name in ordered if _is_data(name)]
    structured = [name for name in readable if kind_suffix(name) != TEXT_SUFFIX]
    chosen = tuple(structured or readable)
    return FolderChoice(chosen, tuple(name for name in ordered if name not in set(chosen)))


def other_split(name: str) -> str | None:
    """The word in a file's name by which people mark rows that are not for training."""
    found = _OTHER_SPLIT.search(PurePosixPath(name).name)
    return found[1].lower() if found else None


def shortened(names: Iterable[str], shown: int = 10) -> str:
    """A list of names as messages write it."""
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(listed[:shown]) + more


def _is_data(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_hidden = any(part.startswith((".", "_")) for part in parts)
    return not is_hidden and not _BESIDE_ROWS.fullmatch(parts[-1]) and kind_suffix(name) in READABLE_SUFFIXES

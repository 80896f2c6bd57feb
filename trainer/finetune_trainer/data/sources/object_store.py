"""Rows in an object store: one object, or all readable objects below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.data.sources.folders import readable_names
from finetune_trainer.data.sources.local import LocalFile
from finetune_trainer.errors import ObjectMissing

if TYPE_CHECKING:  # boto3 would be imported wherever rows are read
    from finetune_trainer.storage import ObjectStore


def fetch_objects(store: ObjectStore, uri: str, field: str, directory: Path) -> list[LocalFile]:
    """Download the object, or the folder of that name. Raises ObjectMissing where there is neither."""
    if uri.endswith("/"):
        return _fetch_folder(store, uri, field, directory)
    path = directory / "0"
    try:
        store.download_file(uri, path)
    except ObjectMissing as missing:
        return _fetch_folder(store, uri, field, directory, missing)
    return [LocalFile(uri, path)]


def _fetch_folder(
    store: ObjectStore, uri: str, field: str, directory: Path, missing: ObjectMissing | None = None
) -> list[LocalFile]:
    listed = {info.name: info for info in store.list_objects(uri)}
    if missing is not None and not listed:
        raise missing
    # Numbered here: an object's name may be one that no file can have, or that leaves the folder.
    files = [
        LocalFile(listed[name].uri, directory / str(number))
        for number, name in enumerate(readable_names(uri, field, listed))
    ]
    store.download_files({file.label: file.path for file in files})
    return files

"""Puts what trackers wrote to the pod's disk into the store: TensorBoard's event files, SwanLab's offline runs."""

from __future__ import annotations

import logging
from pathlib import Path

from finetune_trainer.errors import StageError
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def publish_event_files(store: ObjectStore, uri: str, folder: Path) -> bool:
    """Upload every file of the folder, and return whether it worked: a tracker's files never stop a run."""
    files = {f"{uri}/{path.relative_to(folder).as_posix()}": path for path in list_event_files(folder)}
    try:
        store.upload_files(files)
    except (StageError, OSError) as error:
        logger.warning("%d files of trackers did not get to %s: %s", len(files), uri, error)
        return False
    return True


def list_event_files(folder: Path) -> list[Path]:
    """The files that trackers want to show, sorted; not those that they hide."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not _is_hidden(path.relative_to(folder)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

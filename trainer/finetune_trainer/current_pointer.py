"""`current.json`: which run of a model is the one to use. Moves forward by conditional write, never back."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from finetune_api.layout import CurrentPointer, RunLayout
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)

_ATTEMPTS = 5


def move_current(store: ObjectStore, layout: RunLayout, pointer: CurrentPointer) -> None:
    """Point at this run, unless a run that ended later is already there."""
    data = (pointer.model_dump_json(indent=2) + "\n").encode()
    for _ in range(_ATTEMPTS):
        version = store.read_version(layout.current_uri)
        standing = _parse(version[0]) if version else None
        if standing is not None and (standing.run == pointer.run or standing.completed > pointer.completed):
            logger.info("%s points at run %s already", layout.current_uri, standing.run)
            return
        if store.replace_bytes(layout.current_uri, data, etag=version[1] if version else None):
            logger.info("%s points at run %s", layout.current_uri, pointer.run)
            return
    raise _contended(layout)


def remove_current(store: ObjectStore, layout: RunLayout) -> None:
    """Remove the pointer if it points at this run; one that another run has moved meanwhile stays."""
    for _ in range(_ATTEMPTS):
        version = store.read_version(layout.current_uri)
        standing = _parse(version[0]) if version else None
        if version is None or standing is None or standing.run != layout.run_id:
            return
        if store.delete_version(layout.current_uri, version[1]):
            logger.info("%s pointed at this run and was removed", layout.current_uri)
            return
    raise _contended(layout)


def _contended(layout: RunLayout) -> StorageUnavailable:
    return StorageUnavailable(
        f"{layout.current_uri} was changed by others {_ATTEMPTS} times in a row. The stage is tried again."
    )


def _parse(data: bytes) -> CurrentPointer | None:
    try:
        return CurrentPointer.model_validate_json(data)
    except ValidationError:
        logger.warning("the pointer to the current run cannot be read")
        return None

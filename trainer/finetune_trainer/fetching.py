"""Brings what an attempt needs onto the pod's disk: the very base model that prepare looked at, and the rows."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.run_file import BaseModelFacts, ModelFile
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def fetch_base_model(store: ObjectStore, model: BaseModelFacts, directory: Path) -> None:
    """Download the files that run.json names, and only if they are still those that prepare saw."""
    began = time.monotonic()
    ensure_unchanged(store, model)
    store.download_folder(model.uri, directory, names=[file.name for file in model.files])
    size_bytes = sum(file.size_bytes for file in model.files)
    logger.info(
        "base model %s: %d files, %.1f MB in %.1f s",
        model.uri,
        len(model.files),
        size_bytes / 1e6,
        time.monotonic() - began,
    )


def ensure_unchanged(store: ObjectStore, model: BaseModelFacts) -> None:
    """Raise UserError if the base model in the store is no longer the one this run was prepared for."""
    found = {
        info.name: ModelFile(name=info.name, size_bytes=info.size_bytes, etag=info.etag)
        for info in store.list_objects(model.uri)
    }
    changed = [file.name for file in model.files if found.get(file.name) != file]
    if changed:
        raise UserError(
            f"The base model at {model.uri} was changed after this run was prepared ({', '.join(changed[:5])}). "
            f"{_remedy(model)}"
        )


def _remedy(model: BaseModelFacts) -> str:
    if model.source.rstrip("/") in ("", model.uri):
        return "Put the former files back, or delete and re-apply the FineTuneJob to start from the new ones."
    return f"It is the store's copy of {model.source}: delete and re-apply the FineTuneJob, which brings it again."

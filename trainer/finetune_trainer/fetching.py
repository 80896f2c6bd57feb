"""Brings what an attempt needs onto the pod's disk: the very base model and adapter that prepare looked at."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.run_file import AdapterFacts, BaseModelFacts, ModelFile
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def fetch_base_model(store: ObjectStore, model: BaseModelFacts, directory: Path) -> None:
    """Download the files that run.json names, and only if they are still those that prepare saw."""
    ensure_unchanged(store, model)
    _fetch(store, "base model", model.uri, model.files, directory)


def fetch_adapter(store: ObjectStore, adapter: AdapterFacts, directory: Path) -> None:
    """Download the earlier adapter that run.json names, and only if it is still the one that prepare saw.

    `store` is that of adapter_source.adapter_store.
    """
    _refuse_changes(store, "adapter", adapter)
    _fetch(store, "adapter", adapter.uri, adapter.files, directory)


def ensure_unchanged(store: ObjectStore, model: BaseModelFacts) -> None:
    """Raise UserError if the base model in the store is no longer the one this run was prepared for."""
    _refuse_changes(store, "base model", model)


def _fetch(store: ObjectStore, what: str, uri: str, files: Sequence[ModelFile], directory: Path) -> None:
    began = time.monotonic()
    names = [file.name for file in files]
    store.download_folder(uri, directory, names=names)
    size_bytes = sum(file.size_bytes for file in files)
    logger.info(
        "%s %s: %d files, %.1f MB in %.1f s",
        what,
        uri,
        len(names),
        size_bytes / 1e6,
        time.monotonic() - began,
    )


def _refuse_changes(store: ObjectStore, what: str, facts: BaseModelFacts | AdapterFacts) -> None:
    found = {
        info.name: ModelFile(name=info.name, size_bytes=info.size_bytes, etag=info.etag)
        for info in store.list_objects(facts.uri)
    }
    changed = [file.name for file in facts.files if found.get(file.name) != file]
    if changed:
        raise UserError(
            f"The {what} at {facts.uri} was changed after this run was prepared ({', '.join(changed[:5])}). "
            f"{_remedy(facts)}"
        )


def _remedy(facts: BaseModelFacts | AdapterFacts) -> str:
    if facts.source.rstrip("/") in ("", facts.uri):
        return "Put the former files back, or delete and re-apply the FineTuneJob to start from the new ones."
    return f"It is the store's copy of {facts.source}: delete and re-apply the FineTuneJob, which brings it again."

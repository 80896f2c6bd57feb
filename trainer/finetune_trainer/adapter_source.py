"""`model.adapterSource`: finds an earlier adapter, holds it against the job, and brings it into the store.

It stands there as a base model does, at models/<digest>/, unless it is in a store already.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finetune_api.layout import RunLayout
from finetune_api.spec import FineTuneJobSpec, Store
from finetune_trainer.adapter_config import (
    AdapterConfig,
    refuse_other_config,
    refuse_other_head,
    refuse_other_tensors,
)
from finetune_trainer.base_model import STORE_SCHEME, StoreOpener, bring_model, is_complete, open_origin
from finetune_trainer.errors import UserError
from finetune_trainer.hubs.retrying import Patience
from finetune_trainer.model_files import InspectedModel, StoredFolder, digest_of_files, model_file
from finetune_trainer.model_folder import ModelFolder, read_text_file
from finetune_trainer.model_origins import FolderKind, ModelOrigin
from finetune_trainer.run_file import AdapterFacts
from finetune_trainer.safetensors_header import read_tensor_infos
from finetune_trainer.storage import ObjectStore
from finetune_trainer.trained_shapes import adapter_tensors

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_FILES = (CONFIG_FILE, WEIGHTS_FILE)


def adapter_store(spec: FineTuneJobSpec) -> Store:
    """The store that every pod reads the earlier adapter from."""
    is_in_store = (spec.model.adapter_source or "").startswith(STORE_SCHEME)
    return spec.model.store if is_in_store and spec.model.store is not None else spec.output.store


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter whose configuration fits the job; `coming_from` is set while its weights are not in the store."""

    store: ObjectStore
    uri: str
    source: str
    revision: str | None
    coming_from: ModelOrigin | None

    def ensure_fitting(self, spec: FineTuneJobSpec, model: InspectedModel) -> AdapterFacts:
        """Bring the adapter into the store and hold its tensors against the base model. Raises UserError."""
        if self.coming_from is not None:
            bring_model(self.coming_from, _FILES, self.store, self.uri, self.coming_from.digest)
        folder = StoredFolder(self.store, self.uri, self.source)
        tensors = read_tensor_infos(self.store, folder.listed[WEIGHTS_FILE])
        expected = adapter_tensors(spec.method, model.modules, model.widths)
        refuse_other_tensors(self.source, spec.method, expected, tensors)
        if spec.labels:
            refuse_other_head(self.source, len(spec.labels), model.widths.hidden_size, tensors)
        files = tuple(model_file(folder.listed[name]) for name in _FILES)
        facts = AdapterFacts(
            uri=self.uri,
            source=self.source,
            revision=self.revision,
            digest=digest_of_files(files),
            files=files,
        )
        logger.info("training goes on from the adapter %s", facts.described)
        return facts


def find_adapter(
    spec: FineTuneJobSpec,
    layout: RunLayout,
    open_store: StoreOpener,
    work: Path,
    patience: Patience | None = None,
) -> FoundAdapter | None:
    """Find the adapter that model.adapterSource names, None where it names none. Raises UserError for another one."""
    if spec.model.adapter_source is None:
        return None
    source, store = spec.model.adapter_source.rstrip("/"), open_store(adapter_store(spec))
    if source.startswith(STORE_SCHEME):
        found = FoundAdapter(store, source, source, None, None)
        folder: ModelFolder = StoredFolder(store, source)
    else:
        origin = open_origin(spec.model, source, ADAPTER, work, patience)
        _require_files(origin)
        uri = layout.models_uri(origin.digest)
        is_there = is_complete(store, uri, origin.digest)
        found = FoundAdapter(store, uri, source, origin.revision, None if is_there else origin)
        folder = origin
    refuse_other_config(source, _read_config(folder), spec.method, spec.task)
    return found


def _read_config(folder: ModelFolder) -> AdapterConfig:
    _require_files(folder)
    try:
        return AdapterConfig.model_validate_json(read_text_file(folder, CONFIG_FILE))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        raise UserError(
            f"{folder.origin}/{CONFIG_FILE} cannot be read ({where}: {problem['msg']}). Save the adapter again with "
            "peft's save_pretrained, or remove model.adapterSource."
        ) from error


def _require_files(folder: ModelFolder) -> None:
    missing = next((name for name in _FILES if name not in folder.sizes), None)
    if missing is None:
        return
    pickled = next((name for name in sorted(folder.sizes) if name.endswith(".bin")), None)
    instead = (
        f", only pickled weights ({pickled}), which can run code when they are loaded" if pickled else ""
    )
    present = f" (it holds {', '.join(sorted(folder.sizes)[:5])})" if folder.sizes and not pickled else ""
    raise UserError(
        f"model.adapterSource {folder.origin} has no {missing}{instead}{present}. Name a folder as peft's "
        f"save_pretrained writes it: {CONFIG_FILE} and {WEIGHTS_FILE}."
    )


def _candidates(names: Collection[str]) -> list[str]:
    return sorted(name for name in names if name in _FILES)


def _files(folder: ModelFolder) -> tuple[str, ...]:
    _require_files(folder)
    return _FILES


ADAPTER = FolderKind("model.adapterSource", "the adapter", _candidates, _files)

"""The digest of a prepared data set: equal digests mean equal rows, so that nothing is prepared twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pydantic import JsonValue

from finetune_api.spec import Dataset
from finetune_trainer.data.pipeline import DataRequest
from finetune_trainer.data.sources import LocalSource
from finetune_trainer.file_entries import sha256_of_file

# Raise it when the same rows and settings would give other tokens, another mask or another choice of rows, also when
# the default of a setting changes.
PREPARATION_VERSION = 2
_SETS = ("noise", "redact")
# What of a source makes its rows; the rest is how it is reached.
_MAKES_ROWS = {"format", "columns", "max_rows", "inline", "weight"}


def dataset_digest(request: DataRequest) -> str:
    """SHA-256 over everything that the rows depend on: files, settings, tokenizer and template."""
    ingredients = {
        "version": PREPARATION_VERSION,
        "task": request.task,
        "labels": request.labels,
        # Only what was set: a field that a later release adds must not make other data of the same rows.
        "settings": _settings(request.dataset),
        "max_length": request.max_length,
        "seed": request.seed,
        "words": request.words,
        "sources": [_source(source) for source in request.sources],
        "encoder": request.encoder.fingerprint(),
    }
    encoded = json.dumps(ingredients, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(encoded.encode()).hexdigest()


def _settings(dataset: Dataset) -> dict[str, object]:
    settings: dict[str, object] = dataset.model_dump(
        mode="json",
        exclude={"train", "test", "chat_template", "validation", "preparation"},
        exclude_defaults=True,
    )
    preparation = dataset.preparation.model_dump(mode="json", exclude_defaults=True)
    return {
        **settings,
        "preparation": {name: _unordered(name, value) for name, value in preparation.items()},
        "fraction": dataset.validation.fraction if dataset.validation else None,
    }


def _unordered(name: str, value: JsonValue) -> JsonValue:
    return sorted(value, key=str) if name in _SETS and isinstance(value, list) else value


def _source(source: LocalSource) -> dict[str, object]:
    reading = source.settings.model_dump(mode="json", include=_MAKES_ROWS, exclude_defaults=True)
    # The report names the files, so equal rows from another place are another data set.
    files: Sequence[tuple[str, str]] = [(file.label, sha256_of_file(file.path)) for file in source.files]
    if source.settings.inline is not None:
        # As it was written: a template may show the keys of an object in their order.
        reading["inline"] = json.dumps(source.settings.inline, ensure_ascii=False)
    return {**reading, "label": source.label, "split": source.split, "files": files}

"""Looks at the base model in the store before any GPU does: what its files declare, whether the method fits it.

Reads config.json, the tokenizer's files and the headers of the safetensors files; never the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from finetune_api.spec import LoRA
from finetune_trainer.errors import UserError
from finetune_trainer.model_folder import (
    WEIGHTS_INDEX_FILE,
    DeclaredModel,
    ModelConfig,
    read_declared_model,
)
from finetune_trainer.run_file import BaseModelFacts, ModelFile
from finetune_trainer.safetensors_header import TensorInfo, read_tensor_infos
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.target_modules import decide_target_modules, linear_layers
from finetune_trainer.unsupported_models import refuse_attention_sinks

_WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32"})


class StoredFolder:
    """A model's folder in the store; `origin` is how the job names it, where that is another place."""

    def __init__(self, store: ObjectStore, uri: str, origin: str | None = None) -> None:
        self._store = store
        self._origin = (origin or uri).rstrip("/")
        self.listed = {info.name: info for info in store.list_objects(uri)}

    @property
    def origin(self) -> str:
        """model.source as the job names it."""
        return self._origin

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every file with its size."""
        return {name: info.size_bytes for name, info in self.listed.items()}

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return self._store.read_bytes(self.listed[name].uri)


def inspect_model(store: ObjectStore, uri: str, lora: LoRA, *, origin: str | None = None) -> BaseModelFacts:
    """Check the model's files and the adapter's settings against them. Raises UserError with what to do.

    `origin` is how the job names the model, for messages, where its files stand in the cache.
    """
    folder = StoredFolder(store, uri, origin)
    declared = read_declared_model(folder)
    tensors = _read_all_tensors(store, folder, declared)
    refuse_attention_sinks(folder.origin, tensors)
    files = tuple(_model_file(folder.listed[name]) for name in declared.files)
    return BaseModelFacts(
        uri=uri.rstrip("/"),
        source=folder.origin,
        digest=digest_of_files(files),
        files=files,
        architecture=declared.architecture,
        model_type=declared.config.model_type,
        context_length=declared.context_length,
        vocabulary_size=_vocabulary_size(declared.config, tensors),
        parameter_count=sum(info.element_count for info in tensors.values()),
        weight_dtypes=tuple(sorted({info.dtype for info in tensors.values()})),
        target_modules=decide_target_modules(lora, linear_layers(tensors)),
    )


def digest_of_files(files: Iterable[ModelFile]) -> str:
    """SHA-256 over names, sizes and etags: tells models apart without reading their weights."""
    lines = (f"{file.name}\t{file.size_bytes}\t{file.etag}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _model_file(info: ObjectInfo) -> ModelFile:
    return ModelFile(name=info.name, size_bytes=info.size_bytes, etag=info.etag)


# --- tensors ---------------------------------------------------------------------------------------------------


def _read_all_tensors(
    store: ObjectStore, folder: StoredFolder, declared: DeclaredModel
) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    found: dict[str, str] = {}
    for name in declared.weight_files:
        for tensor, info in read_tensor_infos(store, folder.listed[name]).items():
            tensors[tensor], found[tensor] = info, name
    if declared.index is not None:
        _compare_with_index(folder.origin, declared.index, found)
    _refuse_other_dtypes(folder.origin, tensors)
    return tensors


def _compare_with_index(origin: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = sorted(tensor for tensor, name in expected.items() if found.get(tensor) != name)
    if wrong:
        raise UserError(
            f"{WEIGHTS_INDEX_FILE} of {origin} says that {wrong[0]} is in {expected[wrong[0]]}, and it is not there "
            f"({len(wrong)} such tensors). The files must all be of one version: upload them again, or name another "
            "model."
        )


def _refuse_other_dtypes(origin: str, tensors: Mapping[str, TensorInfo]) -> None:
    other = {name: info.dtype for name, info in tensors.items() if info.dtype not in _WEIGHT_DTYPES}
    if other:
        name, dtype = next(iter(other.items()))
        raise UserError(
            f"Tensor {name} of {origin} has the type {dtype}; weights must be BF16, F16 or F32. "
            "Name the unquantised model."
        )


def _vocabulary_size(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> int:
    rows = [info.shape[0] for name, info in tensors.items() if name.endswith("embed_tokens.weight")]
    return min(rows) if rows else config.vocab_size


def refuse_large_tokenizer(facts: BaseModelFacts, tokenizer_size: int) -> None:
    """Raise UserError where the tokenizer has tokens outside the model's vocabulary."""
    if tokenizer_size > facts.vocabulary_size:
        raise UserError(
            f"The tokenizer of {facts.source or facts.uri} has token ids up to {tokenizer_size - 1}, the model's "
            f"vocabulary ends at {facts.vocabulary_size - 1}. Use the tokenizer that belongs to the model."
        )

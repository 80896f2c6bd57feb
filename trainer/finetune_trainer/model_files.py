"""Looks at the base model in the store before any GPU does: what its files declare, whether the method fits it.

Reads config.json, the tokenizer's files and the headers of the safetensors files; never the weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_api.spec import Method, Task
from finetune_trainer.errors import UserError
from finetune_trainer.model_folder import (
    WEIGHTS_INDEX_FILE,
    DeclaredModel,
    ModelConfig,
    read_declared_model,
)
from finetune_trainer.model_layers import ModelLayers, read_layers
from finetune_trainer.model_shapes import block_numbers, embedding_of, refuse_other_shapes
from finetune_trainer.run_file import BaseModelFacts, MethodFacts, ModelFile
from finetune_trainer.safetensors_header import TensorInfo, read_tensor_infos
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.target_modules import TrainedModules, decide_trained_modules
from finetune_trainer.trained_shapes import ModelWidths, count_quantized, count_trainable
from finetune_trainer.unsupported_models import refuse_attention_sinks, refuse_unfitting_type

_HEADS = (".lm_head.weight", ".embed_out.weight")
# What old files hold beside weights, and models compute themselves: masks and frequencies. Nobody loads them.
_COMPUTED = re.compile(r"(^|\.)((attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq)$")
_WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32"})


class StoredFolder:
    """A model's folder in the store; `origin` is how the job names it, where that is another place."""

    def __init__(self, store: ObjectStore, uri: str, origin: str | None = None) -> None:
        self._store = store
        self.uri = uri.rstrip("/")
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


@dataclass(frozen=True)
class InspectedModel:
    """What the files declare: facts for run.json, and the layers that an earlier adapter is held against."""

    facts: BaseModelFacts
    method: MethodFacts
    layers: ModelLayers
    modules: TrainedModules
    widths: ModelWidths


def inspect_model(
    store: ObjectStore,
    uri: str,
    method: Method,
    *,
    task: Task = Task.CAUSAL_LM,
    label_count: int = 0,
    origin: str | None = None,
) -> InspectedModel:
    """Check the model's files and the method's settings against them. Raises UserError with what to do.

    `origin` is how the job names the model, for messages, where its files stand in the cache.
    """
    folder = StoredFolder(store, uri, origin)
    declared = read_declared_model(folder)
    config = declared.config
    refuse_unfitting_type(folder.origin, config.model_type, task, method.type)
    tensors = _read_all_tensors(store, folder, declared)
    refuse_attention_sinks(folder.origin, tensors)
    refuse_other_shapes(folder.origin, config, tensors)
    layers = read_layers(folder.origin, tensors, tied_embeddings=_has_tied_embeddings(config, tensors))
    modules = decide_trained_modules(method, task, layers)
    widths = ModelWidths(
        config.num_hidden_layers or len(block_numbers(tensors)),
        config.hidden_size or _embedding_width(config, tensors),
        config.key_value_size or _embedding_width(config, tensors),
    )
    return InspectedModel(
        facts=_facts(folder, declared, tensors, modules, widths),
        method=MethodFacts(
            target_modules=modules.targets,
            feedforward_modules=modules.feedforward,
            fully_trained_modules=modules.fully_trained,
            trainable_count=count_trainable(method, modules, layers, widths, label_count),
            quantized_count=count_quantized(method, modules, layers),
        ),
        layers=layers,
        modules=modules,
        widths=widths,
    )


def _facts(
    folder: StoredFolder,
    declared: DeclaredModel,
    tensors: Mapping[str, TensorInfo],
    modules: TrainedModules,
    widths: ModelWidths,
) -> BaseModelFacts:
    files = tuple(model_file(folder.listed[name]) for name in declared.files)
    config, sizes = declared.config, [info.element_count for info in tensors.values()]
    return BaseModelFacts(
        uri=folder.uri,
        source=folder.origin,
        digest=digest_of_files(files),
        files=files,
        architecture=declared.architecture,
        model_type=config.model_type,
        context_length=declared.context_length,
        vocabulary_size=_vocabulary_size(config, tensors),
        parameter_count=sum(sizes),
        weight_dtypes=tuple(sorted({info.dtype for info in tensors.values()})),
        target_modules=modules.targets,
        hidden_size=widths.hidden_size,
        layer_count=widths.layer_count,
        tied_embeddings=_has_tied_embeddings(config, tensors),
        largest_tensor_count=max(sizes),
    )


def _has_tied_embeddings(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> bool:
    if config.tie_word_embeddings is not None:
        return config.tie_word_embeddings
    return not any(f".{name}".endswith(_HEADS) for name in tensors)


def _embedding_width(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> int:
    found = embedding_of(config, tensors)
    return found[1].shape[-1] if found is not None else 0


def digest_of_files(files: Iterable[ModelFile]) -> str:
    """SHA-256 over names, sizes and etags: tells models apart without reading their weights."""
    lines = (f"{file.name}\t{file.size_bytes}\t{file.etag}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_file(info: ObjectInfo) -> ModelFile:
    """A file as run.json records it."""
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
    weights = leave_out_computed(tensors)
    _refuse_other_dtypes(folder.origin, weights)
    return weights


def leave_out_computed(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors that a model loads."""
    return {name: info for name, info in tensors.items() if not _COMPUTED.search(name)}


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
    found = embedding_of(config, tensors)
    return found[1].shape[0] if found is not None else config.vocab_size


def refuse_large_tokenizer(facts: BaseModelFacts, tokenizer_size: int) -> None:
    """Raise UserError where the tokenizer has tokens outside the model's vocabulary."""
    if tokenizer_size > facts.vocabulary_size:
        raise UserError(
            f"The tokenizer of {facts.source or facts.uri} has token ids up to {tokenizer_size - 1}, the model's "
            f"vocabulary ends at {facts.vocabulary_size - 1}. Use the tokenizer that belongs to the model."
        )

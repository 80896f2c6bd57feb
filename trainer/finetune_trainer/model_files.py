"""Looks at the base model before any GPU does: which files it has, what they declare, whether the method fits it.

Reads config.json, the tokenizer's files and the headers of the safetensors files; never the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from finetune_api.spec import LoRA
from finetune_trainer.data.tokenization import TOKENIZER_FILE
from finetune_trainer.errors import UserError
from finetune_trainer.run_file import BaseModelFacts, ModelFile
from finetune_trainer.safetensors_header import TensorInfo, read_tensor_infos
from finetune_trainer.storage import ObjectInfo, ObjectStore
from finetune_trainer.unsupported_models import refuse_attention_sinks, refuse_unsupported_logits

CONFIG_FILE = "config.json"
SINGLE_WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS_SUFFIX = ".safetensors"
_WEIGHT_DTYPES = frozenset({"BF16", "F16", "F32"})
# What else belongs to a model and is text. Pickles, code and other frameworks' weights are never fetched.
_OTHER_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_MAX_TEXT_FILE_BYTES = 64 * 1024 * 1024
AUTO_TARGET = "auto"


class _ModelConfig(BaseModel):
    """What we read of config.json."""

    # The rest is kept for unsupported_models.py to look at.
    model_config = ConfigDict(extra="allow")

    architectures: list[str] | None = None
    model_type: str = ""
    vocab_size: int = 0
    max_position_embeddings: int | None = None
    n_positions: int | None = None
    auto_map: dict[str, JsonValue] | None = None
    quantization_config: dict[str, JsonValue] | None = None


class _WeightsIndex(BaseModel):
    model_config = ConfigDict(extra="ignore")

    weight_map: dict[str, str]


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer inside the model's repeated blocks: its path, and its two dimensions."""

    path: str
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The last part of the path, as targetModules names it."""
        return self.path.rpartition(".")[2]


def inspect_model(store: ObjectStore, uri: str, lora: LoRA) -> BaseModelFacts:
    """Check the model's files and the adapter's settings against them. Raises UserError with what to do."""
    listed = {info.name: info for info in store.list_objects(uri)}
    _require_files(uri, listed)
    config = _read_config(store, listed[CONFIG_FILE])
    architecture = _causal_architecture(uri, config)
    refuse_unsupported_logits(uri, config.model_extra or {})
    tensors = _read_all_tensors(store, uri, listed)
    refuse_attention_sinks(uri, tensors)
    vocabulary_size = _vocabulary_size(config, tensors)
    layers = linear_layers(tensors)
    files = tuple(
        ModelFile(name=info.name, size_bytes=info.size_bytes, etag=info.etag) for info in _used(listed)
    )
    return BaseModelFacts(
        uri=uri.rstrip("/"),
        digest=digest_of_files(files),
        files=files,
        architecture=architecture,
        model_type=config.model_type,
        context_length=config.max_position_embeddings or config.n_positions,
        vocabulary_size=vocabulary_size,
        parameter_count=sum(info.element_count for info in tensors.values()),
        weight_dtypes=tuple(sorted({info.dtype for info in tensors.values()})),
        target_modules=decide_target_modules(lora, layers),
    )


def digest_of_files(files: Iterable[ModelFile]) -> str:
    """SHA-256 over names, sizes and etags: tells models apart without reading their weights."""
    lines = (f"{file.name}\t{file.size_bytes}\t{file.etag}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# --- files -----------------------------------------------------------------------------------------------------


def _require_files(uri: str, listed: Mapping[str, ObjectInfo]) -> None:
    if not listed:
        raise UserError(
            f"model.source {uri} holds no files. Upload the model's folder there or correct the URI."
        )
    if CONFIG_FILE not in listed:
        hint = " It holds an adapter; name the base model instead." if "adapter_config.json" in listed else ""
        raise UserError(f"model.source {uri} has no {CONFIG_FILE}.{hint} {_shape_of_a_model(listed)}")
    if TOKENIZER_FILE not in listed:
        raise UserError(
            f"model.source {uri} has no {TOKENIZER_FILE}. Save the tokenizer there in its fast form, with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    if not any(name.endswith(_WEIGHTS_SUFFIX) for name in _top_level(listed)):
        raise UserError(
            f"model.source {uri} has no {_WEIGHTS_SUFFIX} file. Only safetensors weights are read; convert others with "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)."
        )


def _shape_of_a_model(listed: Mapping[str, ObjectInfo]) -> str:
    folder = next((PurePosixPath(name).parent for name in listed if name.endswith(f"/{CONFIG_FILE}")), None)
    if folder is not None:
        return f"There is one in the folder {folder}: add it to the URI."
    return "The folder must be as save_pretrained writes it: config.json, *.safetensors, tokenizer.json."


def _top_level(listed: Mapping[str, ObjectInfo]) -> list[str]:
    return [name for name in listed if "/" not in name]


def _used(listed: Mapping[str, ObjectInfo]) -> list[ObjectInfo]:
    wanted = _OTHER_FILES | {CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_INDEX_FILE}
    weights = set(_weight_files(listed))
    return [listed[name] for name in sorted(listed) if name in wanted or name in weights]


def _weight_files(listed: Mapping[str, ObjectInfo]) -> list[str]:
    # As transformers chooses: the index only where there is no single file.
    if SINGLE_WEIGHTS_FILE in listed:
        return [SINGLE_WEIGHTS_FILE]
    return [name for name in _top_level(listed) if name.endswith(_WEIGHTS_SUFFIX)]


def _read_config(store: ObjectStore, file: ObjectInfo) -> _ModelConfig:
    try:
        config = _ModelConfig.model_validate_json(_read_text_file(store, file))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise UserError(
            f"{file.uri} cannot be read ({problem}). Upload the model's own {CONFIG_FILE} again."
        ) from error
    if config.auto_map:
        raise UserError(
            f"{file.uri} asks for code of its own (auto_map), which is never run. Use a model whose architecture "
            "transformers knows, or remove auto_map if it does."
        )
    if config.quantization_config:
        raise UserError(
            f"{file.uri} describes quantised weights (quantization_config). Name the unquantised model: the adapter is "
            "merged into it."
        )
    return config


def _read_text_file(store: ObjectStore, file: ObjectInfo) -> bytes:
    if file.size_bytes > _MAX_TEXT_FILE_BYTES:
        raise UserError(
            f"{file.uri} has {file.size_bytes} bytes, far more than such a file needs. Upload it again."
        )
    return store.read_bytes(file.uri)


def _causal_architecture(uri: str, config: _ModelConfig) -> str:
    for architecture in config.architectures or []:
        if architecture.endswith(_CAUSAL_SUFFIXES):
            return architecture
    named = ", ".join(config.architectures or []) or "none"
    raise UserError(
        f"{CONFIG_FILE} of {uri} names the architectures {named}; only causal language models (…ForCausalLM) can be "
        "tuned. Use such a model."
    )


# --- tensors ---------------------------------------------------------------------------------------------------


def _read_all_tensors(
    store: ObjectStore, uri: str, listed: Mapping[str, ObjectInfo]
) -> dict[str, TensorInfo]:
    names = _weight_files(listed)
    expected = _indexed_tensors(store, uri, listed) if names != [SINGLE_WEIGHTS_FILE] else None
    tensors: dict[str, TensorInfo] = {}
    found: dict[str, str] = {}
    for name in names:
        for tensor, info in read_tensor_infos(store, listed[name]).items():
            tensors[tensor], found[tensor] = info, name
    if expected is not None:
        _compare_with_index(uri, expected, found)
    _refuse_other_dtypes(uri, tensors)
    return tensors


def _indexed_tensors(store: ObjectStore, uri: str, listed: Mapping[str, ObjectInfo]) -> dict[str, str]:
    if WEIGHTS_INDEX_FILE not in listed:
        raise UserError(
            f"model.source {uri} has neither {SINGLE_WEIGHTS_FILE} nor {WEIGHTS_INDEX_FILE}. "
            "Upload the index beside the shards, or save the model again with save_pretrained."
        )
    try:
        index = _WeightsIndex.model_validate_json(
            _read_text_file(store, listed[WEIGHTS_INDEX_FILE])
        ).weight_map
    except ValidationError as error:
        raise UserError(f"{listed[WEIGHTS_INDEX_FILE].uri} cannot be read. Upload it again.") from error
    missing = sorted(set(index.values()) - set(listed))
    if missing:
        raise UserError(
            f"{WEIGHTS_INDEX_FILE} of {uri} names {len(missing)} files that are not there: {', '.join(missing[:5])}. "
            "Upload them."
        )
    return index


def _compare_with_index(uri: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = sorted(tensor for tensor, name in expected.items() if found.get(tensor) != name)
    if wrong:
        raise UserError(
            f"{WEIGHTS_INDEX_FILE} of {uri} says that {wrong[0]} is in {expected[wrong[0]]}, and it is not there "
            f"({len(wrong)} such tensors). Upload the model's files again, all of one version."
        )


def _refuse_other_dtypes(uri: str, tensors: Mapping[str, TensorInfo]) -> None:
    other = {name: info.dtype for name, info in tensors.items() if info.dtype not in _WEIGHT_DTYPES}
    if other:
        name, dtype = next(iter(other.items()))
        raise UserError(
            f"Tensor {name} of {uri} has the type {dtype}; weights must be BF16, F16 or F32. "
            "Name the unquantised model."
        )


def _vocabulary_size(config: _ModelConfig, tensors: Mapping[str, TensorInfo]) -> int:
    rows = [info.shape[0] for name, info in tensors.items() if name.endswith("embed_tokens.weight")]
    return min(rows) if rows else config.vocab_size


def linear_layers(tensors: Mapping[str, TensorInfo]) -> list[LinearLayer]:
    """The linear layers inside the model's numbered blocks: neither embeddings nor the output head stand there."""
    layers = []
    for name, info in tensors.items():
        path, _, kind = name.rpartition(".")
        is_in_block = any(part.isdecimal() for part in path.split("."))
        if kind == "weight" and len(info.shape) == 2 and is_in_block:
            layers.append(LinearLayer(path, (info.shape[0], info.shape[1])))
    return layers


# --- the adapter -----------------------------------------------------------------------------------------------


def decide_target_modules(lora: LoRA, layers: list[LinearLayer]) -> tuple[str, ...]:
    """Resolve targetModules to names of linear layers that exist. Raises UserError for one that does not."""
    _refuse_experts(layers)
    available = sorted({layer.name for layer in layers})
    if lora.target_modules == [AUTO_TARGET]:
        wanted = available
    else:
        wanted = sorted(set(lora.target_modules))
        _require_known(wanted, layers, available)
    _refuse_large_rank(lora.rank, wanted, layers)
    return tuple(wanted)


def _matches(layer: LinearLayer, target: str) -> bool:
    # As peft matches: the whole path, or its end after a dot.
    return layer.path == target or layer.path.endswith(f".{target}")


def _require_known(wanted: list[str], layers: list[LinearLayer], available: list[str]) -> None:
    if AUTO_TARGET in wanted:
        raise UserError(
            f"method.lora.targetModules mixes {AUTO_TARGET} with names. Write [{AUTO_TARGET}] alone, or names."
        )
    for target in wanted:
        if not any(_matches(layer, target) for layer in layers):
            raise UserError(
                f"method.lora.targetModules names {target}, which is no linear layer of the model's blocks. "
                f"It has {', '.join(available)}."
            )


def _refuse_experts(layers: list[LinearLayer]) -> None:
    expert = next((layer for layer in layers if ".experts." in layer.path), None)
    if expert is not None:
        raise UserError(
            f"The model is a mixture of experts ({expert.path}), which cannot be tuned yet. Use a dense model."
        )


def _refuse_large_rank(rank: int, wanted: list[str], layers: list[LinearLayer]) -> None:
    targets = [layer for layer in layers if any(_matches(layer, target) for target in wanted)]
    if not targets:
        raise UserError(
            "The model's files declare no linear layer in numbered blocks, so there is nothing to adapt."
        )
    smallest = min(targets, key=lambda layer: min(layer.shape))
    if rank > min(smallest.shape):
        raise UserError(
            f"method.lora.rank {rank} is larger than the smallest dimension of {smallest.path} "
            f"({smallest.shape[0]} x {smallest.shape[1]}). Set rank to at most {min(smallest.shape)}."
        )


def refuse_unfit_lengths(facts: BaseModelFacts, max_length: int, tokenizer_size: int) -> None:
    """Raise UserError where rows would be longer than the model's context, or tokens outside its vocabulary."""
    if facts.context_length is not None and max_length > facts.context_length:
        raise UserError(
            f"dataset.preparation.maxLength {max_length} is longer than the model's context of {facts.context_length} "
            f"tokens. Set maxLength to at most {facts.context_length}."
        )
    if tokenizer_size > facts.vocabulary_size:
        raise UserError(
            f"The tokenizer of {facts.uri} has token ids up to {tokenizer_size - 1}, the model's vocabulary ends at "
            f"{facts.vocabulary_size - 1}. Use the tokenizer that belongs to the model."
        )

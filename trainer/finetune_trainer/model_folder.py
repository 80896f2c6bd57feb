"""A base model's folder, in a store, at a hub or on a claim: which files are the model, and what config.json declares.

Everything that can be refused without a weight is refused here, so that a hub's shards are never fetched in vain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from finetune_trainer.data.tokenization import TOKENIZER_FILE
from finetune_trainer.errors import UserError
from finetune_trainer.unsupported_models import refuse_unproven_type, refuse_unsupported_logits

CONFIG_FILE = "config.json"
SINGLE_WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS_SUFFIX = ".safetensors"
_ADAPTER_CONFIG_FILE = "adapter_config.json"
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
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
# Phi-3 had the second name first.
_LONG_ROPES = ("longrope", "su")
_MAX_TEXT_FILE_BYTES = 64 * 1024 * 1024
# Places whose files the user can change; a hub's repository is mostly somebody else's.
_OWN_SCHEMES = ("s3://", "pvc://")


class ModelFolder(Protocol):
    """Files with sizes, read one at a time."""

    @property
    def origin(self) -> str:
        """model.source as the job names it, without a slash at the end."""
        ...

    @property
    def sizes(self) -> Mapping[str, int]:
        """Every file, also of folders below, with its size in bytes."""
        ...

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        ...


class DeclaredContext(BaseModel):
    """How long a row the model can read, as config.json says."""

    model_config = ConfigDict(extra="ignore")

    max_position_embeddings: int | None = None
    n_positions: int | None = None
    original_max_position_embeddings: int | None = None
    rope_parameters: dict[str, JsonValue] | None = Field(
        default=None, validation_alias=AliasChoices("rope_parameters", "rope_scaling")
    )

    @property
    def context_length(self) -> int | None:
        """The longest row in tokens; None where config.json does not say.

        Of RoPE's type longrope only the length it began with: a longer row would change the frequencies of the rows
        beside it. Source: transformers, modeling_rope_utils.py, dynamic_rope_update.
        """
        longest = self.max_position_embeddings or self.n_positions
        rope = self.rope_parameters or {}
        if rope.get("rope_type", rope.get("type")) not in _LONG_ROPES or longest is None:
            return longest
        original = rope.get("original_max_position_embeddings") or self.original_max_position_embeddings
        return min(longest, original) if isinstance(original, int) else longest


class ModelConfig(DeclaredContext):
    """What we read of config.json."""

    # The rest is kept for unsupported_models.py to look at.
    model_config = ConfigDict(extra="allow")

    architectures: list[str] | None = None
    model_type: str = ""
    vocab_size: int = 0
    hidden_size: int = Field(default=0, validation_alias=AliasChoices("hidden_size", "n_embd"))
    num_hidden_layers: int = Field(default=0, validation_alias=AliasChoices("num_hidden_layers", "n_layer"))
    num_attention_heads: int = Field(
        default=0, validation_alias=AliasChoices("num_attention_heads", "n_head")
    )
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    # OPT: the embedding may be narrower than the hidden states.
    word_embed_proj_dim: int | None = None
    tie_word_embeddings: bool | None = None
    auto_map: dict[str, JsonValue] | None = None
    quantization_config: dict[str, JsonValue] | None = None

    @property
    def key_value_size(self) -> int:
        """Width of one token's keys in one layer, over all key-value heads; 0 where config.json does not say."""
        if not self.num_attention_heads:
            return self.hidden_size
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        return head_dim * (self.num_key_value_heads or self.num_attention_heads)


class _WeightsIndex(BaseModel):
    model_config = ConfigDict(extra="ignore")

    weight_map: dict[str, str]


@dataclass(frozen=True)
class DeclaredModel:
    """A model as its folder declares it."""

    config: ModelConfig
    architecture: str
    weight_files: tuple[str, ...]
    index: Mapping[str, str] | None
    """The file of each tensor; None where all are in one."""
    files: tuple[str, ...]
    """All that belongs to the model, sorted: what is fetched, and nothing else."""

    @property
    def context_length(self) -> int | None:
        """The longest row that the model can read, in tokens."""
        return self.config.context_length


def read_declared_model(folder: ModelFolder) -> DeclaredModel:
    """Check a folder's files, config.json and index. Raises UserError with what to do."""
    _require_files(folder)
    config = _read_config(folder)
    architecture = _causal_architecture(folder.origin, config)
    refuse_unsupported_logits(folder.origin, config.model_extra or {})
    refuse_unproven_type(folder.origin, config.model_type)
    index = None if SINGLE_WEIGHTS_FILE in folder.sizes else _read_index(folder)
    # As transformers chooses: the index only where there is no single file, and of shards only those that it names.
    weights = tuple(sorted(set(index.values()))) if index is not None else (SINGLE_WEIGHTS_FILE,)
    return DeclaredModel(config, architecture, weights, index, _files_of(folder, weights))


def candidate_files(names: Collection[str]) -> list[str]:
    """What may belong to a model, by its name alone; sorted."""
    return sorted(name for name in names if _is_text_file(name) or _is_weights_file(name))


def _files_of(folder: ModelFolder, weights: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in candidate_files(folder.sizes) if _is_text_file(name) or name in weights)


def _is_text_file(name: str) -> bool:
    return name in _OTHER_FILES or name in (CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_INDEX_FILE)


def _is_weights_file(name: str) -> bool:
    return name.endswith(_WEIGHTS_SUFFIX) and "/" not in name


# --- files -----------------------------------------------------------------------------------------------------


def _require_files(folder: ModelFolder) -> None:
    origin, names = folder.origin, folder.sizes
    if not names:
        raise UserError(f"model.source {origin} holds no files. {_put_there(origin, 'the model')}")
    if CONFIG_FILE not in names:
        raise UserError(f"model.source {origin} has no {CONFIG_FILE}. {_instead_of_a_model(origin, names)}")
    if TOKENIZER_FILE not in names:
        raise UserError(
            f"model.source {origin} has no {TOKENIZER_FILE}. Save the tokenizer there in its fast form, with "
            f"AutoTokenizer.from_pretrained(...).save_pretrained(...).{_or_another(origin)}"
        )
    if not any(_is_weights_file(name) for name in names):
        raise UserError(
            f"model.source {origin} has no {_WEIGHTS_SUFFIX} file{_other_weights(names)}. Only safetensors weights "
            "are read; convert others with "
            f"AutoModelForCausalLM.from_pretrained(...).save_pretrained(...).{_or_another(origin)}"
        )


def _instead_of_a_model(origin: str, names: Collection[str]) -> str:
    if _ADAPTER_CONFIG_FILE in names:
        return "It holds an adapter; name the base model instead."
    if any(name.endswith(".gguf") for name in names):
        return (
            "It holds GGUF files, made from a model for llama.cpp; name the model that they were made from."
        )
    folder = next((PurePosixPath(name).parent for name in names if name.endswith(f"/{CONFIG_FILE}")), None)
    if folder is not None and origin.startswith(_OWN_SCHEMES):
        return f"There is one in the folder {folder}: add it to the URI."
    shape = "config.json, *.safetensors, tokenizer.json"
    return f"The folder must be as save_pretrained writes it: {shape}.{_or_another(origin)}"


def _other_weights(names: Collection[str]) -> str:
    pickled = next((name for name in sorted(names) if name.endswith(_PICKLE_SUFFIXES)), None)
    if pickled is not None:
        return f", only pickled weights ({pickled}), which can run code when they are loaded"
    gguf = next((name for name in sorted(names) if name.endswith(".gguf")), None)
    return f", only GGUF ({gguf})" if gguf is not None else ""


def _put_there(origin: str, what: str) -> str:
    if origin.startswith(_OWN_SCHEMES):
        return f"Upload {what}'s folder there or correct the URI."
    return "Correct model.source or model.revision."


def _again(origin: str) -> str:
    """What to do about a damaged file: upload it, or take another model where it is not the user's."""
    return "Upload it again." if origin.startswith(_OWN_SCHEMES) else "Set model.source to another model."


def _or_another(origin: str) -> str:
    return "" if origin.startswith(_OWN_SCHEMES) else " Or set model.source to another model."


# --- what they say ---------------------------------------------------------------------------------------------


def _read_config(folder: ModelFolder) -> ModelConfig:
    name = f"{folder.origin}/{CONFIG_FILE}"
    try:
        config = ModelConfig.model_validate_json(read_text_file(folder, CONFIG_FILE))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise UserError(f"{name} cannot be read ({problem}). {_again(folder.origin)}") from error
    if config.auto_map:
        raise UserError(
            f"{name} asks for code of its own (auto_map), which is never run. Use a model whose architecture "
            "transformers knows, or a copy without auto_map if it does."
        )
    if config.quantization_config:
        raise UserError(
            f"{name} describes quantised weights (quantization_config). Name the unquantised model: the adapter is "
            "merged into it."
        )
    return config


def _read_index(folder: ModelFolder) -> dict[str, str]:
    origin, names = folder.origin, folder.sizes
    if WEIGHTS_INDEX_FILE not in names:
        raise UserError(
            f"model.source {origin} has neither {SINGLE_WEIGHTS_FILE} nor {WEIGHTS_INDEX_FILE}. "
            f"Upload the index beside the shards, or save the model again with save_pretrained.{_or_another(origin)}"
        )
    try:
        index = _WeightsIndex.model_validate_json(read_text_file(folder, WEIGHTS_INDEX_FILE)).weight_map
    except ValidationError as error:
        raise UserError(f"{origin}/{WEIGHTS_INDEX_FILE} cannot be read. {_again(origin)}") from error
    wanted = set(index.values())
    missing = sorted(wanted - set(names))
    if missing:
        raise UserError(
            f"{WEIGHTS_INDEX_FILE} of {origin} names {len(missing)} files that are not there: "
            f"{', '.join(missing[:5])}. {'Upload them.' if origin.startswith(_OWN_SCHEMES) else _again(origin)}"
        )
    foreign = sorted(name for name in wanted if not _is_weights_file(name))
    if foreign or not wanted:
        raise UserError(
            f"{WEIGHTS_INDEX_FILE} of {origin} names {foreign[0] if foreign else 'no file'}, which is no "
            f"{_WEIGHTS_SUFFIX} file beside it. {_again(origin)}"
        )
    return index


def read_text_file(folder: ModelFolder, name: str) -> bytes:
    """All bytes of a file that is text. Raises UserError where it is far too large for that."""
    size_bytes = folder.sizes[name]
    if size_bytes > _MAX_TEXT_FILE_BYTES:
        raise UserError(
            f"{folder.origin}/{name} has {size_bytes} bytes, far more than such a file needs. {_again(folder.origin)}"
        )
    return folder.read(name)


def _causal_architecture(origin: str, config: ModelConfig) -> str:
    for architecture in config.architectures or []:
        if architecture.endswith(_CAUSAL_SUFFIXES):
            return architecture
    named = ", ".join(config.architectures or []) or "none"
    raise UserError(
        f"{CONFIG_FILE} of {origin} names the architectures {named}; only causal language models (…ForCausalLM) can "
        "be tuned. Use such a model."
    )

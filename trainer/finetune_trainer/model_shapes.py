"""Holds the tensors that a model's files declare against its config.json: both must be of one model. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_trainer.errors import UserError
from finetune_trainer.model_folder import CONFIG_FILE, ModelConfig
from finetune_trainer.safetensors_header import TensorInfo

# What these types call their embedding; all others say embed_tokens.
_EMBEDDING_NAMES = {"gpt2": "wte", "gpt_bigcode": "wte", "gpt_neox": "embed_in"}
_USUAL_EMBEDDING = "embed_tokens"


def embedding_of(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> tuple[str, TensorInfo] | None:
    """The input embedding, by the name that this kind of model gives it."""
    name = f"{_EMBEDDING_NAMES.get(config.model_type, _USUAL_EMBEDDING)}.weight"
    return next(((t, info) for t, info in tensors.items() if f".{t}".endswith(f".{name}")), None)


def refuse_other_shapes(origin: str, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise UserError where the tensors are another model's than config.json describes."""
    found = embedding_of(config, tensors)
    if found is None:
        wanted = _EMBEDDING_NAMES.get(config.model_type, _USUAL_EMBEDDING)
        raise UserError(
            f"{CONFIG_FILE} of {origin} says model_type {config.model_type}, whose embedding is {wanted}.weight, but "
            f"the files have no such tensor; the first they have is {min(tensors, default='none')}. {_same(origin)}"
        )
    _refuse_other_embedding(origin, config, *found)
    _refuse_other_blocks(origin, config, tensors)


def _refuse_other_embedding(origin: str, config: ModelConfig, name: str, info: TensorInfo) -> None:
    width = config.word_embed_proj_dim or config.hidden_size
    declared = (config.vocab_size or info.shape[0], width or info.shape[-1])
    if tuple(info.shape) != declared:
        fields = f"vocab_size {declared[0]} and hidden size {declared[1]}"
        raise UserError(
            f"Tensor {name} of {origin} is {_shape(info.shape)}, but {CONFIG_FILE} says {_shape(declared)} ({fields}). "
            f"{_same(origin)}"
        )


def _refuse_other_blocks(origin: str, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> None:
    declared, present = config.num_hidden_layers, block_numbers(tensors)
    if not declared or present == set(range(declared)):
        return
    missing = sorted(set(range(declared)) - present)
    beyond = sorted(present - set(range(declared)))
    what = f"block {missing[0]} has no tensor" if missing else f"{_first_of(beyond[0], tensors)} is there"
    raise UserError(
        f"{CONFIG_FILE} of {origin} says num_hidden_layers {declared}, but the files have {len(present)} numbered "
        f"blocks: {what}. {_same(origin)}"
    )


def block_numbers(tensors: Mapping[str, TensorInfo]) -> set[int]:
    """The numbers of the model's repeated blocks."""
    parts = (next((part for part in name.split(".") if part.isdecimal()), None) for name in tensors)
    return {int(part) for part in parts if part is not None}


def _first_of(block: int, tensors: Mapping[str, TensorInfo]) -> str:
    return min(name for name in tensors if f".{block}." in f".{name}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _same(origin: str) -> str:
    return f"Put the {CONFIG_FILE} and the weights of one model into {origin}, or set model.source to another model."

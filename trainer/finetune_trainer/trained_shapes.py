"""The tensors that a method trains, by place and shape: to count them, and to compare an earlier adapter. Pure.

Shapes are those that peft 0.21 makes; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from finetune_api.spec import LoRAVariant, Method, MethodType, PrefixTuning
from finetune_trainer.model_layers import INPUT_EMBEDDING, OUTPUT_HEAD, Layer, ModelLayers, contains
from finetune_trainer.target_modules import TrainedModules

PROMPT_PLACE, PROMPT_KIND = "", "prompt_embeddings"


@dataclass(frozen=True)
class ModelWidths:
    """Of the model's configuration, what decides how large virtual tokens are."""

    layer_count: int
    hidden_size: int
    key_value_size: int
    """Width of the keys of one token in one layer, over all key-value heads."""


@dataclass(frozen=True)
class TrainedTensor:
    """A tensor of an adapter: the layer's place (`0.self_attn.q_proj`), which of its tensors, and the shape."""

    place: str
    kind: str
    shape: tuple[int, ...]


def adapter_tensors(method: Method, modules: TrainedModules, widths: ModelWidths) -> list[TrainedTensor]:
    """The tensors of an adapter's file, without modules that are trained whole and DoRA's magnitudes."""
    if method.type in (MethodType.LORA, MethodType.QLORA):
        return [tensor for layer in modules.layers for tensor in _lora_tensors(layer, method.lora.rank)]
    if method.type is MethodType.ADA_LORA:
        return [
            tensor
            for layer in modules.layers
            for tensor in _ada_lora_tensors(layer, method.ada_lora.initial_rank)
        ]
    if method.type is MethodType.IA3:
        return [_ia3_tensor(layer, modules) for layer in modules.layers]
    if method.type is MethodType.PREFIX_TUNING:
        shape = (method.prefix_tuning.virtual_tokens, 2 * widths.layer_count * widths.key_value_size)
        return [TrainedTensor(PROMPT_PLACE, PROMPT_KIND, shape)]
    if method.type is MethodType.PROMPT_TUNING:
        shape = (method.prompt_tuning.virtual_tokens, widths.hidden_size)
        return [TrainedTensor(PROMPT_PLACE, PROMPT_KIND, shape)]
    return []


def count_trainable(
    method: Method, modules: TrainedModules, model: ModelLayers, widths: ModelWidths, label_count: int
) -> int:
    """Number of trained parameters; `label_count` is 0 for a causal language model."""
    head = label_count * widths.hidden_size
    if method.type is MethodType.FULL:
        replaced = model.elements_inside([OUTPUT_HEAD]) if label_count else 0
        return sum(model.element_counts.values()) - replaced + head
    if method.type is MethodType.PREFIX_TUNING and method.prefix_tuning.projection:
        return _projected_prefix(method.prefix_tuning, widths) + head
    adapter = sum(prod(tensor.shape) for tensor in adapter_tensors(method, modules, widths))
    return adapter + _magnitudes(method, modules) + _whole_modules(modules, model) + head


def count_quantized(method: Method, modules: TrainedModules, model: ModelLayers) -> int:
    """Number of weights that QLoRA keeps in 4 or 8 bits: linear layers of the blocks, but those trained whole."""
    if method.type is not MethodType.QLORA:
        return 0
    return sum(
        prod(layer.shape)
        for layer in model.blocks
        if not any(contains(module, layer.path) for module in modules.fully_trained)
    )


def _lora_tensors(layer: Layer, rank: int) -> Iterator[TrainedTensor]:
    if layer.name == INPUT_EMBEDDING:
        rows, width = layer.shape
        yield TrainedTensor(layer.place, "lora_embedding_A", (rank, rows))
        yield TrainedTensor(layer.place, "lora_embedding_B", (width, rank))
    else:
        outputs, inputs = layer.shape
        yield TrainedTensor(layer.place, "lora_A.weight", (rank, inputs))
        yield TrainedTensor(layer.place, "lora_B.weight", (outputs, rank))


def _ada_lora_tensors(layer: Layer, rank: int) -> Iterator[TrainedTensor]:
    outputs, inputs = layer.shape
    yield TrainedTensor(layer.place, "lora_A", (rank, inputs))
    yield TrainedTensor(layer.place, "lora_B", (outputs, rank))
    yield TrainedTensor(layer.place, "lora_E", (rank, 1))


def _ia3_tensor(layer: Layer, modules: TrainedModules) -> TrainedTensor:
    outputs, inputs = layer.shape
    shape = (1, inputs) if layer in modules.feedforward_layers else (outputs, 1)
    return TrainedTensor(layer.place, "ia3_l", shape)


def _magnitudes(method: Method, modules: TrainedModules) -> int:
    is_lora = method.type in (MethodType.LORA, MethodType.QLORA)
    if is_lora and method.lora.variant is LoRAVariant.DORA:
        return sum(layer.shape[0] for layer in modules.layers)
    return 0


def _whole_modules(modules: TrainedModules, model: ModelLayers) -> int:
    """Elements of the copies that are trained; a tied head has one of its own, though the files hold it once."""
    count = model.elements_inside(modules.fully_trained)
    has_own_tensor = any(f".{OUTPUT_HEAD}." in f".{name}" for name in model.element_counts)
    if OUTPUT_HEAD in modules.fully_trained and not has_own_tensor and model.head is not None:
        count += prod(model.head.shape)
    return count


def _projected_prefix(prefix: PrefixTuning, widths: ModelWidths) -> int:
    """Source: peft, tuners/prefix_tuning/model.py: an embedding, then two linear layers with biases."""
    inner = prefix.projection_hidden_size or widths.hidden_size
    outputs = 2 * widths.layer_count * widths.key_value_size
    embedding = prefix.virtual_tokens * widths.key_value_size
    return embedding + (widths.key_value_size + 1) * inner + (inner + 1) * outputs

"""Which of the model's modules the method trains: `auto` resolved, names held against what there is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from finetune_api.spec import IA3, AdaLoRA, LoRA, LoRAVariant, Method, MethodType, Task
from finetune_trainer.errors import UserError
from finetune_trainer.model_layers import (
    INPUT_EMBEDDING,
    OUTPUT_HEAD,
    Layer,
    ModelLayers,
    contains,
    is_in_block,
    matches,
)

AUTO_TARGET = "auto"
# IA3 scales keys, values and the feed-forward layer's inner activations (Liu et al. 2022, arXiv:2205.05638). The first
# of each that a model has is taken; where keys and values share a layer with the queries, that layer, as in peft.
_KEYS_AND_VALUES = (("k_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",))
_FEEDFORWARD = (("down_proj",), ("dense_4h_to_h",), ("fc2",), ("mlp.c_proj",))


@dataclass(frozen=True)
class TrainedModules:
    """Names as peft matches them, sorted, and the layers that they stand for."""

    targets: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()
    fully_trained: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    feedforward_layers: tuple[Layer, ...] = ()
    left_out: tuple[str, ...] = ()
    """What `auto` would have taken, were it not trained whole."""


def decide_trained_modules(method: Method, task: Task, model: ModelLayers) -> TrainedModules:
    """Resolve the names that the method's settings hold. Raises UserError for what the model does not have."""
    if method.type in (MethodType.LORA, MethodType.QLORA):
        return _for_lora(method.lora, task, model)
    if method.type is MethodType.ADA_LORA:
        return _for_ada_lora(method.ada_lora, task, model)
    if method.type is MethodType.IA3:
        return _for_ia3(method.ia3, model)
    return TrainedModules()


def _for_lora(lora: LoRA, task: Task, model: ModelLayers) -> TrainedModules:
    whole = _fully_trained(lora, task, model)
    field = "method.lora.targetModules"
    left_out: tuple[str, ...] = ()
    if _is_auto(lora.target_modules, field):
        targets = _auto_beside(whole, model)
        left_out = tuple(sorted(set(model.block_names) - set(targets)))
    else:
        targets = _named(lora.target_modules, field, _adaptable(task, model), model)
        _refuse_overlap(targets, whole, model)
    layers = _layers_of(targets, (*model.blocks, *model.outside), whole)
    _refuse_embedding_variant(lora.variant, layers)
    _refuse_large_rank("method.lora.rank", lora.rank, layers)
    return TrainedModules(targets, fully_trained=whole, layers=layers, left_out=left_out)


def _for_ada_lora(ada_lora: AdaLoRA, task: Task, model: ModelLayers) -> TrainedModules:
    field = "method.adaLora.targetModules"
    if _is_auto(ada_lora.target_modules, field):
        targets = tuple(model.block_names)
    else:
        # peft has no AdaLoRA for embeddings.
        adaptable = [layer for layer in _adaptable(task, model) if layer.name != INPUT_EMBEDDING]
        targets = _named(ada_lora.target_modules, field, adaptable, model)
    layers = _layers_of(targets, (*model.blocks, *model.outside))
    _refuse_large_rank("method.adaLora.initialRank", ada_lora.initial_rank, layers)
    return TrainedModules(targets, layers=layers)


def _for_ia3(ia3: IA3, model: ModelLayers) -> TrainedModules:
    targets_field, feedforward_field = "method.ia3.targetModules", "method.ia3.feedforwardModules"
    if _is_auto(ia3.target_modules, targets_field):
        keys_and_values = _first_present(_KEYS_AND_VALUES, "keys and values", model)
        feedforward = _first_present(_FEEDFORWARD, "a feed-forward layer", model)
        targets = tuple(sorted({*keys_and_values, *feedforward}))
    else:
        targets = _named(ia3.target_modules, targets_field, model.blocks, model)
        feedforward = _named(ia3.feedforward_modules, feedforward_field, model.blocks, model)
    inputs = _layers_of(feedforward, model.blocks)
    return TrainedModules(targets, feedforward, (), _layers_of(targets, model.blocks), inputs)


# --- names -----------------------------------------------------------------------------------------------------


def _is_auto(names: Sequence[str], field: str) -> bool:
    if AUTO_TARGET in names and len(names) > 1:
        raise UserError(f"{field} mixes {AUTO_TARGET} with names. Write [{AUTO_TARGET}] alone, or names.")
    return AUTO_TARGET in names


def _adaptable(task: Task, model: ModelLayers) -> list[Layer]:
    """The linear layers of the blocks, and what of head and embedding the task leaves in place."""
    outside = [layer for layer in model.outside if not _is_replaced(layer.name, task)]
    return [*model.blocks, *outside]


def _is_replaced(name: str, task: Task) -> bool:
    return task is Task.SEQUENCE_CLASSIFICATION and name == OUTPUT_HEAD


def _named(
    names: Iterable[str], field: str, adaptable: Collection[Layer], model: ModelLayers
) -> tuple[str, ...]:
    wanted = tuple(sorted(set(names)))
    for name in wanted:
        if not any(matches(layer.path, name) for layer in adaptable):
            outside = sorted({layer.name for layer in adaptable} - set(model.block_names))
            beside = f" Beside them, {' and '.join(outside)} can be named." if outside else ""
            raise UserError(
                f"{field} names {name}, which is no linear layer of the model's blocks. "
                f"It has {', '.join(model.block_names)}.{beside}"
            )
    return wanted


def _auto_beside(whole: tuple[str, ...], model: ModelLayers) -> tuple[str, ...]:
    """All linear layers of the blocks but those inside modules that are trained whole."""
    left = {layer.name for layer in model.blocks if not _is_inside(layer.path, whole)}
    if not left:
        raise UserError(
            f"method.lora.fullyTrainedModules {', '.join(whole)} leaves no linear layer for an adapter. Set "
            "method.type: Full, or train fewer modules whole."
        )
    return tuple(sorted(left))


def _layers_of(
    targets: tuple[str, ...], candidates: Iterable[Layer], whole: tuple[str, ...] = ()
) -> tuple[Layer, ...]:
    return tuple(
        layer
        for layer in candidates
        if any(matches(layer.path, target) for target in targets) and not _is_inside(layer.path, whole)
    )


def _first_present(choices: Iterable[tuple[str, ...]], what: str, model: ModelLayers) -> tuple[str, ...]:
    for names in choices:
        if all(any(matches(layer.path, name) for layer in model.blocks) for name in names):
            return names
    raise UserError(
        f"method.ia3.targetModules [{AUTO_TARGET}] finds no {what} among the model's linear layers by the names it "
        f"knows. Name them in method.ia3.targetModules and feedforwardModules: the model has "
        f"{', '.join(model.block_names)}."
    )


# --- modules that are trained whole ----------------------------------------------------------------------------


def _fully_trained(lora: LoRA, task: Task, model: ModelLayers) -> tuple[str, ...]:
    names = tuple(sorted(set(lora.fully_trained_modules or ())))
    for name in names:
        if _is_replaced(name, task):
            raise UserError(
                f"method.lora.fullyTrainedModules names {name}, in whose place task SequenceClassification puts a head "
                "of its own, which is trained whole anyway. Remove it."
            )
        if name not in model.module_names and not _is_a_module(name, model):
            raise UserError(
                f"method.lora.fullyTrainedModules names {name}, which the model does not have. It has "
                f"{', '.join(model.module_names)}."
            )
        _refuse_whole_model(name, model)
        _refuse_end_of_another(name, model)
    return names


def _is_a_module(name: str, model: ModelLayers) -> bool:
    return any(contains(name, tensor.rpartition(".")[0]) for tensor in model.element_counts)


def _refuse_whole_model(name: str, model: ModelLayers) -> None:
    for layer in model.blocks:
        before, found, _ = f".{layer.path}.".partition(f".{name}.")
        if found and not is_in_block(f"{before}.{name}"):
            raise UserError(
                f"method.lora.fullyTrainedModules names {name}, which holds all of the model's blocks. Name modules "
                "inside them, or set method.type: Full."
            )


def _refuse_end_of_another(name: str, model: ModelLayers) -> None:
    # peft compares the ends of paths without regard to dots (utils/other.py, _set_trainable).
    for tensor in model.element_counts:
        path = tensor.rpartition(".")[0]
        other = next((part for part in path.split(".") if part.endswith(name) and part != name), None)
        if other is not None:
            raise UserError(
                f"method.lora.fullyTrainedModules names {name}, with which the name of {other} ends too, so that both "
                "would be trained whole. Name modules whose names stand for themselves."
            )


def _refuse_overlap(targets: tuple[str, ...], whole: tuple[str, ...], model: ModelLayers) -> None:
    for target in targets:
        for layer in (*model.blocks, *model.outside):
            inside = next((name for name in whole if contains(name, layer.path)), None)
            if inside is not None and matches(layer.path, target):
                raise UserError(
                    f"method.lora.targetModules {target} and method.lora.fullyTrainedModules {inside} both take "
                    f"{layer.path}, which is trained whole or gets an adapter, not both. Remove it from one of them."
                )


def _is_inside(path: str, whole: tuple[str, ...]) -> bool:
    return any(contains(name, path) for name in whole)


# --- shapes ----------------------------------------------------------------------------------------------------


def _refuse_embedding_variant(variant: LoRAVariant, layers: Iterable[Layer]) -> None:
    if variant in (LoRAVariant.DORA, LoRAVariant.PISSA):
        embedding = next((layer for layer in layers if layer.name == INPUT_EMBEDDING), None)
        if embedding is not None:
            raise UserError(
                f"method.lora.targetModules names {INPUT_EMBEDDING}, an embedding, for which there is no "
                f"method.lora.variant {variant.value}. Remove it, or set variant: Standard or RSLoRA."
            )


def _refuse_large_rank(field: str, rank: int, layers: Collection[Layer]) -> None:
    smallest = min(layers, key=lambda layer: min(layer.shape))
    if rank > min(smallest.shape):
        raise UserError(
            f"{field} {rank} is larger than the smallest dimension of {smallest.path} "
            f"({smallest.shape[0]} x {smallest.shape[1]}). Set {field.rpartition('.')[2]} to at most "
            f"{min(smallest.shape)}."
        )

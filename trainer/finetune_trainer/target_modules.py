"""Which of the model's linear layers get an adapter: `auto` resolved, names and rank checked against them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.spec import LoRA
from finetune_trainer.errors import UserError
from finetune_trainer.safetensors_header import TensorInfo

AUTO_TARGET = "auto"


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer inside the model's repeated blocks: its path, and its two dimensions."""

    path: str
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The last part of the path, as targetModules names it."""
        return self.path.rpartition(".")[2]


def linear_layers(tensors: Mapping[str, TensorInfo]) -> list[LinearLayer]:
    """The linear layers inside the model's numbered blocks: neither embeddings nor the output head stand there."""
    layers = []
    for name, info in tensors.items():
        path, _, kind = name.rpartition(".")
        is_in_block = any(part.isdecimal() for part in path.split("."))
        if kind == "weight" and len(info.shape) == 2 and is_in_block:
            layers.append(LinearLayer(path, (info.shape[0], info.shape[1])))
    return layers


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

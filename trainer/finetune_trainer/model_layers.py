"""What layers a model has, told from the names and shapes of its tensors alone. Pure.

Layers are named as peft matches them: by the whole path, or by its end after a dot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from finetune_trainer.errors import UserError
from finetune_trainer.safetensors_header import TensorInfo

OUTPUT_HEAD, INPUT_EMBEDDING = "lm_head", "embed_tokens"


@dataclass(frozen=True)
class Layer:
    """A layer with a weight of two dimensions: its path, and its outputs and inputs (an embedding: rows and width)."""

    path: str
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The last part of the path, as targetModules names it."""
        return self.path.rpartition(".")[2]

    @property
    def place(self) -> str:
        """The path from the number of its block on, or its name: equal however a checkpoint begins its names."""
        parts = self.path.split(".")
        first = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
        return ".".join(parts[first:])


@dataclass(frozen=True)
class ModelLayers:
    """The layers that can be adapted, and the sizes of everything that can be trained whole."""

    blocks: tuple[Layer, ...]
    """The linear layers inside the model's numbered blocks."""
    embedding: Layer | None
    head: Layer | None
    """The output head; a model with tied embeddings has the module too, without a tensor in its files."""
    element_counts: Mapping[str, int]
    """Elements of each tensor, by its name."""

    @property
    def block_names(self) -> list[str]:
        """Names of the linear layers inside the blocks, sorted."""
        return sorted({layer.name for layer in self.blocks})

    @property
    def outside(self) -> tuple[Layer, ...]:
        """Output head and input embedding, where the model has them under their usual names."""
        return tuple(layer for layer in (self.head, self.embedding) if layer is not None)

    @property
    def module_names(self) -> list[str]:
        """Names of what can be trained whole: layers, and containers of layers, inside the blocks or beside them."""
        inside = {
            part
            for tensor in self.element_counts
            for part in Layer(tensor.rpartition(".")[0], (0, 0)).place.split(".")
            if is_in_block(tensor) and not part.isdecimal()
        }
        return sorted(inside | {layer.name for layer in self.outside})

    def elements_inside(self, modules: Collection[str]) -> int:
        """Elements of all tensors inside the named modules."""
        return sum(
            count
            for tensor, count in self.element_counts.items()
            if any(contains(module, tensor.rpartition(".")[0]) for module in modules)
        )


def read_layers(origin: str, tensors: Mapping[str, TensorInfo], *, tied_embeddings: bool) -> ModelLayers:
    """Find the layers. Raises UserError for a mixture of experts, and for a model without linear layers."""
    expert = next((name for name in tensors if ".experts." in name), None)
    if expert is not None:
        raise UserError(
            f"The model is a mixture of experts ({expert}), which cannot be tuned yet. Use a dense model."
        )
    blocks = tuple(layer for layer in _matrices(tensors) if is_in_block(layer.path))
    if not blocks:
        raise UserError(
            f"The files of {origin} declare no linear layer in numbered blocks, so there is nothing to train. Set "
            "spec.model.source to a causal language model as save_pretrained writes it."
        )
    outside = {layer.name: layer for layer in _matrices(tensors) if not is_in_block(layer.path)}
    embedding, head = outside.get(INPUT_EMBEDDING), outside.get(OUTPUT_HEAD)
    if tied_embeddings and embedding is not None:
        head = Layer(OUTPUT_HEAD, embedding.shape)
    if tied_embeddings:
        # Some checkpoints hold the tied head a second time; it is not a weight of its own.
        tensors = {name: info for name, info in tensors.items() if not contains(OUTPUT_HEAD, name)}
    counts = {name: info.element_count for name, info in tensors.items()}
    return ModelLayers(blocks, embedding, head, counts)


def matches(path: str, target: str) -> bool:
    """Whether peft takes the module at this path for the target."""
    return path == target or path.endswith(f".{target}")


def contains(module: str, path: str) -> bool:
    """Whether the path is that of a module of this name, or lies inside one."""
    return f".{module}." in f".{path}."


def is_in_block(path: str) -> bool:
    """Whether a path leads into one of the model's repeated blocks, which are numbered."""
    return any(part.isdecimal() for part in path.split("."))


def _matrices(tensors: Mapping[str, TensorInfo]) -> Iterator[Layer]:
    for name, info in tensors.items():
        path, _, kind = name.rpartition(".")
        if kind == "weight" and len(info.shape) == 2:
            yield Layer(path, (info.shape[0], info.shape[1]))

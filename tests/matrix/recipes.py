"""How a cell of the table is trained small: on which model and rows, for how many steps, at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.spec import FineTuneJobSpec, Task
from finetune_trainer.data.prepared import write_rows
from finetune_trainer.model_layers import ModelLayers, read_layers
from finetune_trainer.run_file import MethodFacts
from finetune_trainer.safetensors_header import TensorInfo
from finetune_trainer.target_modules import decide_trained_modules
from finetune_trainer.tensor_files import TensorFiles
from tests.builders.rows import make_rows
from tests.builders.tiny_models import write_model
from tests.matrix.axes import Combination
from tests.matrix.runner import Cell, make_spec

LABELS = ("good", "bad", "neither")
# All rows are in every step, so that the loss is that of the same rows each time.
ROW_LENGTHS = (5, 17, 3, 9, 33, 12)
# Several micro-batches a step, several chunks of the vocabulary's logits a micro-batch.
MICRO_BATCH_TOKENS = 24
CHUNK_POSITIONS = 4
# Of a run's steps, before AdaLoRA's ranks shrink and after they are settled.
_ADALORA_INITIAL, _ADALORA_FINAL = 0.2, 0.3


@dataclass(frozen=True)
class Recipe:
    """Steps, learning rate, and the share of the first loss that must be gone at the end."""

    steps: int = 8
    learning_rate: float = 5e-3
    fall: float = 0.05


_LORA = Recipe()
_RECIPES: Mapping[str, Recipe] = {
    "Full": Recipe(learning_rate=2e-3),
    "AdaLoRA": Recipe(steps=24, learning_rate=3e-2),
    # A few factors for each layer, or a few tokens, can do little to a model that knows nothing yet.
    "IA3": Recipe(steps=12, learning_rate=0.3, fall=0.03),
    "PrefixTuning": Recipe(steps=12, learning_rate=0.3, fall=0.03),
    "PromptTuning": Recipe(steps=12, learning_rate=0.3, fall=0.01),
}


def recipe_of(cell: Combination) -> Recipe:
    """The recipe of the cell's method."""
    return _RECIPES.get(cell.method, _LORA)


@dataclass(frozen=True)
class Kitchen:
    """The folder that base models and rows stand in, and runs beside them."""

    folder: Path

    def run_of(
        self, combination: Combination, *, architecture: str = "qwen3", world_size: int | None = None
    ) -> Cell:
        """The cell, ready to be trained in a folder of its own."""
        recipe, model = recipe_of(combination), self.model(architecture)
        spec = make_spec(
            **{
                **combination.changes(),
                "parallelism__gpusPerNode": 0,
                "training__learningRate": recipe.learning_rate,
                "training__globalBatchSize": len(ROW_LENGTHS),
                "training__scheduler": "Constant",
            }
        )
        return Cell(
            spec=spec,
            model=model,
            rows=self.rows,
            facts=decide_facts(spec, model, recipe.steps),
            folder=self._new_folder(),
            world_size=world_size or (1 if combination.way == "one process" else 2),
            steps=recipe.steps,
            micro_batch_tokens=MICRO_BATCH_TOKENS,
            chunk_positions=CHUNK_POSITIONS,
        )

    def model(self, architecture: str) -> Path:
        """A base model whose biases and norms are not what every model begins with."""
        path = self.folder / architecture
        return path if path.exists() else write_base(path, architecture)

    @property
    def rows(self) -> Path:
        """Rows with a class each, for both tasks."""
        path = self.folder / "rows.arrow"
        if not path.exists():
            rows = make_rows(ROW_LENGTHS)
            write_rows(path, [replace(row, label=n % len(LABELS)) for n, row in enumerate(rows)])
        return path

    def _new_folder(self) -> Path:
        runs = self.folder / "runs"
        runs.mkdir(exist_ok=True)
        folder = runs / str(len(list(runs.iterdir())))
        folder.mkdir()
        return folder


def write_base(folder: Path, architecture: str, **settings: Any) -> Path:
    """Write a base model; a bias of zero would stay zero under IA3."""
    import torch
    from safetensors.torch import load_file, save_file

    path = write_model(folder, architecture, **settings) / "model.safetensors"
    torch.manual_seed(9)
    tensors = {
        name: tensor + 0.1 * torch.randn(tensor.shape) if tensor.dim() == 1 else tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def layers_of(model: Path) -> ModelLayers:
    """The layers that prepare finds in the headers of a model's files."""
    with TensorFiles(model) as files:
        tensors = {
            name: TensorInfo(dtype="F32", shape=files.plan(name).shape, data_offsets=(0, 0)) for name in files
        }
    return read_layers(str(model), tensors, tied_embeddings=True)


def decide_facts(spec: FineTuneJobSpec, model: Path, steps: int) -> MethodFacts:
    """What prepare makes of the method's settings for this model."""
    modules = decide_trained_modules(spec.method, Task(spec.task), layers_of(model))
    return MethodFacts(
        target_modules=modules.targets,
        feedforward_modules=modules.feedforward,
        fully_trained_modules=modules.fully_trained,
        initial_steps=round(_ADALORA_INITIAL * steps),
        final_steps=round(_ADALORA_FINAL * steps),
    )

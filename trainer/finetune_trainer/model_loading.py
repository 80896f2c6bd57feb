"""A run's model from its files: the base, what the method adds, and what an earlier attempt or run has made of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from transformers import set_seed

from finetune_api.spec import FineTuneJobSpec, MethodType
from finetune_trainer.adapters import build_adapter_config
from finetune_trainer.model import (
    BaseModelSettings,
    ComputePrecision,
    load_base_model,
    packs_rows,
    recomputes_activations,
)
from finetune_trainer.parallelism import ParallelPlan
from finetune_trainer.quantization import build_quantization
from finetune_trainer.run_file import MethodFacts
from finetune_trainer.tensor_files import TensorFiles
from finetune_trainer.tuned_model import TunedModel, tune


@dataclass(frozen=True)
class ModelRecipe:
    """What a run's model is made of. `base`, `earlier_adapter` and `checkpoint` are folders."""

    spec: FineTuneJobSpec
    facts: MethodFacts
    base: Path
    plan: ParallelPlan
    precision: ComputePrecision
    device: torch.device
    total_steps: int
    earlier_adapter: Path | None = None
    checkpoint: Path | None = None
    is_memory_tight: bool = False
    # Whether no step is left: then no engine will bring back what it has split up.
    is_finished: bool = False


def load_tuned_model(recipe: ModelRecipe) -> TunedModel:
    """Load the base and add what is trained: the same on every rank, from the seed or from the checkpoint."""
    spec = recipe.spec
    # A new head is drawn while the base is loaded, an adapter after it.
    set_seed(spec.training.seed)
    base = load_base_model(recipe.base, base_model_settings(recipe))
    set_seed(spec.training.seed)
    return tune(
        base,
        spec.method,
        build_adapter_config(
            spec.method, recipe.facts, spec.task, total_steps=recipe.total_steps, tokenizer=recipe.base
        ),
        model_source=spec.model.source,
        earlier_adapter=recipe.earlier_adapter,
        checkpoint=recipe.checkpoint,
        with_values=recipe.is_finished or not recipe.plan.splits_parameters,
    )


def base_model_settings(recipe: ModelRecipe) -> BaseModelSettings:
    """How the base model is loaded.

    What is split up stays in the files, which all ranks of a pod map, until the engine takes each rank's part: fp32
    copies of a whole model in every rank are more than a node has.
    """
    spec, precision, is_split = recipe.spec, recipe.precision, recipe.plan.splits_parameters
    is_mapped = is_split and spec.method.type is MethodType.FULL
    return BaseModelSettings(
        weights=stored_dtype(recipe.base) if is_mapped else precision.weights,
        # What is split up goes to the device part by part.
        device=torch.device("cpu") if is_split else recipe.device,
        task=spec.task,
        labels=tuple(spec.labels or ()),
        is_packed=packs_rows(spec.method, spec.training.packing),
        quantization=build_quantization(spec.method, precision.autocast, recipe.facts.fully_trained_modules),
        recomputes_activations=recomputes_activations(
            spec, recipe.device.type, is_tight=recipe.is_memory_tight
        ),
    )


def stored_dtype(directory: Path) -> torch.dtype:
    """The number format that holds all weights of a model's files exactly; what config.json says may round them."""
    with TensorFiles(directory) as files:
        dtypes = {files.plan(name).dtype for name in files}
    return reduce(torch.promote_types, (dtype for dtype in dtypes if dtype.is_floating_point))

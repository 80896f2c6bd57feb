"""PiSSA: LoRA that starts from the base model's largest singular vectors, and leaves as plain LoRA.

Source: Meng et al. 2024, arXiv:2404.02948. Training changes W - s·B0·A0 + s·B·A, where B0·A0 is what it started from.
Relative to the model that people have, that is W + s·(B·A - B0·A0): a LoRA of twice the rank, whose matrices are
[B, -B0] and [A; A0]. So B0 and A0 belong to a run's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from finetune_trainer.adapters import SAFETENSORS_METADATA, add_adapter

INITIAL_NAME = "pissa.safetensors"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_ADAPTER_NAME = "default"


def start_pissa(
    model: PreTrainedModel, config: LoraConfig, model_source: str
) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Add the adapter and take its part out of the base weights; also return what it started from, by peft's names.

    peft's own start is not used: it rounds the matrices to the base weights' format after it has taken them out.
    """
    adapted = add_adapter(model, config, model_source)
    initial = {}
    for name, layer in _lora_layers(adapted):
        initial[name + _A], initial[name + _B] = principal_matrices(layer)
    _begin_from(adapted, initial)
    return adapted, initial


def resume_pissa(
    model: PreTrainedModel, config: LoraConfig, model_source: str, directory: Path
) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """Do it again with the matrices of a checkpoint: singular vectors computed anew may differ in sign and digits."""
    initial = load_file(directory / INITIAL_NAME)
    adapted = add_adapter(model, config, model_source)
    _begin_from(adapted, initial)
    return adapted, initial


def principal_matrices(layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank] of a layer's largest singular values, fp32, so that s·B·A is that part of W."""
    rank, scaling = layer.r[_ADAPTER_NAME], layer.scaling[_ADAPTER_NAME]
    u, values, vh = torch.linalg.svd(layer.get_base_layer().weight.data.float(), full_matrices=False)
    roots = torch.sqrt(values[:rank] / scaling)
    return (roots[:, None] * vh[:rank]).cpu().contiguous(), (u[:, :rank] * roots).cpu().contiguous()


def save_initial(directory: Path, initial: Mapping[str, torch.Tensor]) -> None:
    """Put what the adapter started from beside a checkpoint."""
    save_file(dict(sorted(initial.items())), directory / INITIAL_NAME, metadata=SAFETENSORS_METADATA)


def as_plain_lora(
    weights: Mapping[str, torch.Tensor],
    initial: Mapping[str, torch.Tensor],
    config: Mapping[str, JsonValue],
) -> tuple[dict[str, torch.Tensor], dict[str, JsonValue]]:
    """Make a trained PiSSA adapter one of the unchanged base model: twice the rank, the same scale."""
    converted = dict(weights)
    for name, tensor in weights.items():
        if name.endswith(_A):
            converted[name] = torch.cat([tensor.cpu(), initial[name]], dim=0)
        elif name.endswith(_B):
            converted[name] = torch.cat([tensor.cpu(), -initial[name]], dim=1)
    rank, alpha = cast(int, config["r"]), cast(float, config["lora_alpha"])
    return converted, {**config, "r": 2 * rank, "lora_alpha": 2 * alpha, "init_lora_weights": True}


def _begin_from(model: PeftModel, initial: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, layer in _lora_layers(model):
            a, b = initial[name + _A], initial[name + _B]
            layer.lora_A[_ADAPTER_NAME].weight.copy_(a)
            layer.lora_B[_ADAPTER_NAME].weight.copy_(b)
            weight = layer.get_base_layer().weight
            start = layer.scaling[_ADAPTER_NAME] * (b.to(weight.device) @ a.to(weight.device))
            weight.copy_(weight.float() - start)


def _lora_layers(model: PeftModel) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]

"""LoRA, with every way of scaling it: base + scaling · B·A. Source: peft, tuners/lora/layer.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from peft.utils.other import get_pattern_key

from finetune_trainer.merging.adapter_tensors import base_name, cannot_merge, group_by_module
from finetune_trainer.merging.changes import Adjustment
from finetune_trainer.merging.dora import MAGNITUDE_ENDING, DoraAdjustment
from finetune_trainer.merging.low_rank import EMBEDDING_ENDINGS, LINEAR_ENDINGS, LowRankPair
from finetune_trainer.tensor_files import TensorFiles

ENDINGS = (*LINEAR_ENDINGS, *EMBEDDING_ENDINGS, MAGNITUDE_ENDING)


@dataclass(frozen=True)
class LoraAdjustment:
    """Adds the pair's product to a weight."""

    pair: LowRankPair

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """base + scaling · B·A."""
        return self.pair.product().add_(weight)


def read_lora(files: TensorFiles, config: Mapping[str, Any]) -> dict[str, Adjustment]:
    """What a LoRA adapter, DoRA's too, does to which weight."""
    adjusted: dict[str, Adjustment] = {}
    for module, endings in group_by_module(files, ENDINGS).items():
        is_embedding = not endings.isdisjoint(EMBEDDING_ENDINGS)
        if endings - {MAGNITUDE_ENDING} != set(EMBEDDING_ENDINGS if is_embedding else LINEAR_ENDINGS):
            raise cannot_merge(module + min(endings), "LoRA")
        pair = LowRankPair(files, module, is_embedding)
        pair = pair.scaled(decide_scaling(config, base_name(module), pair.rank))
        has_magnitude = MAGNITUDE_ENDING in endings
        adjusted[base_name(module, ".weight")] = (
            DoraAdjustment(pair) if has_magnitude else LoraAdjustment(pair)
        )
    return adjusted


def decide_scaling(config: Mapping[str, Any], module_path: str, rank: int) -> float:
    """The factor before B·A: alpha / rank, alpha / √rank with rsLoRA; alpha may differ by module."""
    alphas = config.get("alpha_pattern") or {}
    alpha = float(alphas.get(get_pattern_key(list(alphas), module_path), config["lora_alpha"]))
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)

"""IA3: one factor for every activation: outputs of most layers, inputs of feed-forward ones.

Source: Liu et al. 2022, arXiv:2205.05638; peft, tuners/ia3/layer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune_trainer.merging.adapter_tensors import base_name, group_by_module
from finetune_trainer.merging.changes import Adjustment
from finetune_trainer.tensor_files import TensorFiles

_FACTORS = ".ia3_l"
ENDINGS = (_FACTORS,)


@dataclass(frozen=True)
class Ia3Adjustment:
    """Factors are [out, 1] before a layer's outputs, or [1, in] before its inputs."""

    files: TensorFiles
    name: str

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """Scale a weight's rows or columns, or a bias, which is one number an output."""
        factors = self.files.load(self.name).float()
        return weight.float() * (factors.reshape(weight.shape) if weight.dim() == 1 else factors)


def read_ia3(files: TensorFiles, base: TensorFiles) -> dict[str, Adjustment]:
    """What an IA3 adapter does to which tensor; a bias is scaled with the outputs that it is part of."""
    adjusted: dict[str, Adjustment] = {}
    for module in group_by_module(files, ENDINGS):
        adjustment = Ia3Adjustment(files, module + _FACTORS)
        adjusted[base_name(module, ".weight")] = adjustment
        bias = base_name(module, ".bias")
        scales_outputs = files.plan(adjustment.name).shape[1] == 1
        if scales_outputs and bias in base:
            adjusted[bias] = adjustment
    return adjusted

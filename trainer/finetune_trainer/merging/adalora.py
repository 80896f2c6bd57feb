"""AdaLoRA: LoRA with a factor for every rank; ranks that were taken away are not in the file any more.

Source: Zhang et al. 2023, arXiv:2303.10512; peft, tuners/adalora/layer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.merging.adapter_tensors import base_name, cannot_merge, group_by_module
from finetune_trainer.merging.changes import Adjustment
from finetune_trainer.tensor_files import TensorFiles

_A, _B, _E = ".lora_A", ".lora_B", ".lora_E"
# Older files say how many ranks there were; peft goes by the configuration.
_RANK_COUNT = ".ranknum"
ENDINGS = (_A, _B, _E, _RANK_COUNT)
# Added to the number of ranks in peft's divisor.
_DIVISOR_OFFSET = 1e-5


@dataclass(frozen=True)
class AdaLoraAdjustment:
    """A is [rank, in], E [rank, 1], B [out, rank]; a rank of 0 changes nothing."""

    files: TensorFiles
    module: str
    scaling: float

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """base + scaling · B·(A·E)."""
        a, b, e = (self.files.load(self.module + ending).float() for ending in (_A, _B, _E))
        return (b @ (a * e)).mul_(self.scaling).add_(weight)


def read_adalora(files: TensorFiles, config: Mapping[str, Any]) -> dict[str, Adjustment]:
    """What an AdaLoRA adapter does to which weight. The scaling is that of the first rank, also after pruning."""
    initial_rank = float(config["init_r"])
    alpha = float(config["lora_alpha"])
    scaling = (alpha if alpha > 0 else initial_rank) / (initial_rank + _DIVISOR_OFFSET)
    adjusted: dict[str, Adjustment] = {}
    for module, endings in group_by_module(files, ENDINGS).items():
        if endings - {_RANK_COUNT} != {_A, _B, _E}:
            raise cannot_merge(module + min(endings), "AdaLoRA")
        adjusted[base_name(module, ".weight")] = AdaLoraAdjustment(files, module, scaling)
    return adjusted

"""What AdaLoRA knows beside its weights: how much each rank matters, and which are left. It is in no state_dict.

Source: Zhang et al. 2023, arXiv:2303.10512; peft, tuners/adalora/layer.py, RankAllocator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from finetune_trainer.adapters import SAFETENSORS_METADATA

IMPORTANCE_NAME = "adalora.safetensors"
RANKS_NAME = "adalora.json"
_ADAPTER_NAME = "default"
_SEPARATOR = "|"
# The allocator's memories of each parameter: what it saw last, its smoothed mean, its smoothed spread.
_MEMORIES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = TypeAdapter(dict[str, list[bool]])


class RankAllocation:
    """Moves ranks, penalises directions that are not apart, goes in and out of checkpoints."""

    def __init__(self, model: PeftModel, orthogonal_weight: float) -> None:
        self._tuner: Any = model.base_model
        self._weight = orthogonal_weight
        self._directions = [
            (parameter, "lora_A" in name)
            for name, parameter in model.named_parameters()
            if ("lora_A" in name or "lora_B" in name) and _ADAPTER_NAME in name
        ]

    def update(self, step: int) -> None:
        """Weigh the ranks by the gradients of a step, counted from 0, and take away those that matter least."""
        allocator = self._tuner.rankallocator
        # peft asks for the 0th smallest of them where none is to go (targetRank is initialRank).
        if allocator.target_bgt < allocator.init_bgt:
            self._forget_overflow()
            self._tuner.update_and_allocate(step)

    def _forget_overflow(self) -> None:
        """Gradients of a step that fp16 left out are not finite, and would stay in the averages for good."""
        for parameter in self._tuner.parameters():
            if parameter.grad is not None:
                torch.nan_to_num_(parameter.grad, nan=0.0, posinf=0.0, neginf=0.0)

    def penalty(self) -> torch.Tensor:
        """How far the adapter's directions are from being orthogonal: the mean Frobenius norm of P·Pᵀ - 1, weighted.

        peft adds it to each forward's mean loss; here it is added once a step, however many micro-batches that has.
        """
        norms = []
        for parameter, is_a in self._directions:
            products = parameter @ parameter.T if is_a else parameter.T @ parameter
            norms.append(
                torch.linalg.matrix_norm(products - torch.eye(len(products), device=products.device))
            )
        return self._weight * torch.stack(norms).mean()

    def save(self, directory: Path) -> None:
        """Put it beside a checkpoint."""
        allocator = self._tuner.rankallocator
        memories = {
            f"{name}{_SEPARATOR}{memory}": tensor.detach().cpu().contiguous()
            for memory in _MEMORIES
            for name, tensor in getattr(allocator, memory).items()
        }
        save_file(dict(sorted(memories.items())), directory / IMPORTANCE_NAME, metadata=SAFETENSORS_METADATA)
        pattern = self._tuner.peft_config[_ADAPTER_NAME].rank_pattern or {}
        (directory / RANKS_NAME).write_bytes(_PATTERN.dump_json(pattern, indent=2))

    def restore(self, directory: Path) -> None:
        """Go on as the checkpoint had it."""
        allocator, config = self._tuner.rankallocator, self._tuner.peft_config[_ADAPTER_NAME]
        device = self._directions[0][0].device
        for memory in _MEMORIES:
            getattr(allocator, memory).clear()
        for key, tensor in load_file(directory / IMPORTANCE_NAME).items():
            name, _, memory = key.rpartition(_SEPARATOR)
            getattr(allocator, memory)[name] = tensor.to(device)
        config.rank_pattern = _PATTERN.validate_json((directory / RANKS_NAME).read_bytes())

"""DoRA: length and direction of every output apart.

Source: Liu et al. 2024, arXiv:2402.09353; peft, tuners/lora/dora.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from finetune_trainer.merging.low_rank import LowRankPair

MAGNITUDE_ENDING = ".lora_magnitude_vector"


@dataclass(frozen=True)
class DoraAdjustment:
    """Gives every output of base + scaling · B·A the length that was trained."""

    pair: LowRankPair

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """magnitude · (base + scaling · B·A) / its length, output by output."""
        direction = self.pair.product().add_(weight)
        # Outputs are rows of a linear layer's weight, and columns of an embedding's.
        lengths = torch.linalg.norm(direction, dim=0 if self.pair.is_embedding else 1)
        factors = self.pair.files.load(self.pair.module + MAGNITUDE_ENDING).float() / lengths
        return direction.mul_(factors if self.pair.is_embedding else factors[:, None])

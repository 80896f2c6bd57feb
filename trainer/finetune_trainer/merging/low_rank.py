"""The two matrices that LoRA and DoRA train for one weight."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from finetune_trainer.tensor_files import TensorFiles

LINEAR_ENDINGS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_ENDINGS = (".lora_embedding_A", ".lora_embedding_B")


@dataclass(frozen=True)
class LowRankPair:
    """A is [rank, in], B is [out, rank]. An embedding's weight lies the other way round: [in, out]."""

    files: TensorFiles
    module: str
    is_embedding: bool
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """The module's own rank; they may differ within an adapter."""
        return self.files.plan(self._names[0]).shape[0]

    def scaled(self, scaling: float) -> LowRankPair:
        """The same pair with this factor."""
        return replace(self, scaling=scaling)

    def product(self) -> torch.Tensor:
        """scaling · B·A, fp32, lying as the weight does."""
        a, b = (self.files.load(name).float() for name in self._names)
        product = (b @ a).mul_(self.scaling)
        return product.T if self.is_embedding else product

    @property
    def _names(self) -> tuple[str, str]:
        a, b = EMBEDDING_ENDINGS if self.is_embedding else LINEAR_ENDINGS
        return self.module + a, self.module + b

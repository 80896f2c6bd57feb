"""What training did to the base's tensors, whatever the method: some are adjusted, some were trained whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from finetune_trainer.tensor_files import TensorFiles


class Adjustment(Protocol):
    """What an adapter does to one tensor of the base."""

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The tensor's new value, fp32, from the base's own; that one is left as it is."""


@dataclass(frozen=True)
class Replacement:
    """A tensor that was trained whole: it stands in `files` under `name`."""

    files: TensorFiles
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, without reading it."""
        return self.files.plan(self.name).shape

    def load(self) -> torch.Tensor:
        """The tensor as trained."""
        return self.files.load(self.name)


@dataclass(frozen=True)
class Changes:
    """Everything that was trained, by the names of the base's tensors.

    `keeps_tie`: input and output embedding were trained as the one tensor that they are in a tied base.
    `is_whole`: every parameter of the model is among `replaced`.
    """

    adjusted: Mapping[str, Adjustment]
    replaced: Mapping[str, Replacement]
    keeps_tie: bool = False
    is_whole: bool = False

    @property
    def names(self) -> set[str]:
        """The tensors that are not the base's any more."""
        return {*self.adjusted, *self.replaced}

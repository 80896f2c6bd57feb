"""What every engine offers: a step's gradients, the step, and the trained state by name, whole, on any rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from finetune_trainer.state_files import Fragment, SavedState

LossScale = dict[str, float]
OptimizerFactory = Callable[[nn.Module], Optimizer]


class StateTensors(Protocol):
    """What training changes, by name: each rank's share of it, and any parameter whole."""

    @property
    def is_collective(self) -> bool:
        """Whether `parameter` brings parts of all ranks together, so that all must ask for the same, in one order."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The trained parameters, in an order that is the same on every rank."""
        ...

    def shape(self, name: str) -> torch.Size:
        """The whole parameter's shape."""
        ...

    def parameter(self, name: str) -> torch.Tensor:
        """The whole parameter, fp32, on the CPU."""
        ...

    def fragments(self) -> list[Fragment]:
        """This rank's share of parameters (fp32) and moments, live; the ranks' shares together are everything once."""
        ...

    def load(self, saved: SavedState) -> None:
        """Put parameters and moments back, each rank what it holds. Every rank calls this, before the first step."""
        ...


class Engine(ABC):
    """One strategy. Unless an engine says otherwise, gradients are clipped before the step and nothing is scaled."""

    @abstractmethod
    def prepare(self, model: nn.Module, make_optimizer: OptimizerFactory) -> tuple[nn.Module, Optimizer]:
        """Lay the model out over the processes; what is called for a forward pass, and what Trainer steps."""

    @abstractmethod
    def accumulate(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward of one micro-batch; gradients are added up over ranks with a step's last."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients."""

    @abstractmethod
    def clip(self, max_norm: float) -> float | None:
        """Clip the gradients and return their norm before; None where the step itself does that."""

    def applied_norm(self) -> float | None:
        """The norm that the step found, where it clips itself."""
        return None

    def loss_scale(self) -> LossScale:
        """The state of fp16's loss scaling; empty where there is none."""
        return {}

    def set_loss_scale(self, saved: LossScale) -> None:  # noqa: B027 (nothing to do is what most engines do)
        """Go on with it."""

    @property
    @abstractmethod
    def schedules(self) -> Optimizer:
        """The optimizer whose learning rates the schedule sets."""

    @property
    @abstractmethod
    def state(self) -> StateTensors:
        """What training changes."""

"""What every engine offers: a step's gradients, the step, and the trained state by name, whole, on any rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

# Tensors of the optimizer's state of one parameter, by torch's names: exp_avg, exp_avg_sq, step.
Moments = dict[str, torch.Tensor]
LossScale = dict[str, float]
OptimizerFactory = Callable[[nn.Module], Optimizer]


class StateTensors(Protocol):
    """Trained parameters and their moments by name, whole and on the CPU, wherever they are kept.

    `parameter` and `moment` may be collectives: every rank asks for the same names in the same order.
    """

    @property
    def is_collective(self) -> bool:
        """Whether reading brings parts of all ranks together, so that all must read."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The trained parameters, in an order that is the same on every rank."""
        ...

    def shape(self, name: str) -> torch.Size:
        """The whole parameter's shape."""
        ...

    def parameter(self, name: str) -> torch.Tensor:
        """The whole parameter, fp32."""
        ...

    def moment_kinds(self, name: str) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """Type and shape of each of a parameter's moments, without bringing them together."""
        ...

    def moment(self, name: str, key: str) -> torch.Tensor:
        """One of a parameter's moments, whole."""
        ...

    def set_parameter(self, name: str, value: torch.Tensor) -> None:
        """Put a whole parameter in its place; each rank keeps its part."""
        ...

    def set_moments(self, values: Mapping[str, Moments]) -> None:
        """Put the moments of all parameters in their places; each rank keeps its part."""
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

"""One process, or several with a copy of the model each (DDP), as accelerate prepares them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from finetune_trainer.engines.engine import Engine, LossScale, OptimizerFactory
from finetune_trainer.state_files import Fragment, SavedState


class ReplicatedEngine(Engine):
    """accelerate's own way: autocast, loss scaling, DDP."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._model: nn.Module | None = None
        self._optimizer: Optimizer | None = None
        self._plain: Optimizer | None = None

    def prepare(self, model: nn.Module, make_optimizer: OptimizerFactory) -> tuple[nn.Module, Optimizer]:
        """Wrap model and optimizer."""
        accelerator = self._accelerator
        self._state = ReplicatedState(
            model, rank=accelerator.process_index, world_size=accelerator.num_processes
        )
        self._plain = make_optimizer(model)
        # accelerate takes LOCAL_RANK for a sign of DDP, which one rank alone does not need.
        is_alone = self._accelerator.num_processes == 1
        self._model = self._accelerator.prepare_model(model, evaluation_mode=is_alone)
        self._optimizer = self._accelerator.prepare_optimizer(self._plain)
        self._state.optimizer = self._plain
        return self._model, self._optimizer

    def accumulate(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients stay with each rank until the last micro-batch."""
        context = nullcontext() if is_last else self._accelerator.no_sync(self._model)
        return cast(AbstractContextManager[None], context)

    def backward(self, loss: torch.Tensor) -> None:
        """Scale where fp16 needs it, and compute gradients."""
        self._accelerator.backward(loss)

    def clip(self, max_norm: float) -> float | None:
        """Clip by the norm over all parameters, which is the same on every rank."""
        assert self._model is not None, "prepared before the first step"
        return float(self._accelerator.clip_grad_norm_(self._model.parameters(), max_norm))

    def loss_scale(self) -> LossScale:
        """torch's GradScaler."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else {key: float(value) for key, value in scaler.state_dict().items()}

    def set_loss_scale(self, saved: LossScale) -> None:
        """Go on with it."""
        scaler = self._accelerator.scaler
        if scaler is not None and saved:
            counts = {key: int(saved[key]) for key in ("growth_interval", "_growth_tracker")}
            scaler.load_state_dict({**saved, **counts})

    @property
    def schedules(self) -> Optimizer:
        """accelerate's wrapper; the schedule goes on also with a step that loss scaling leaves out."""
        assert self._optimizer is not None, "prepared before the schedule"
        return self._optimizer

    @property
    def state(self) -> ReplicatedState:
        """Every rank has all of it."""
        return self._state


class ReplicatedState:
    """Parameters and moments as torch and bitsandbytes keep them."""

    def __init__(self, model: nn.Module, *, rank: int = 0, world_size: int = 1) -> None:
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._shares = split_evenly(
            {name: each.numel() for name, each in self._parameters.items()}, world_size
        )
        self._rank = rank
        self.optimizer: Optimizer | None = None

    @property
    def is_collective(self) -> bool:
        """Every rank has all of it."""
        return False

    @property
    def names(self) -> tuple[str, ...]:
        """The trained parameters."""
        return tuple(self._parameters)

    def shape(self, name: str) -> torch.Size:
        """Its shape."""
        return self._parameters[name].shape

    def parameter(self, name: str) -> torch.Tensor:
        """The parameter itself, on the CPU."""
        return self._parameters[name].detach().to("cpu", torch.float32)

    def fragments(self) -> list[Fragment]:
        """Whole tensors: every rank has them all, and saves some."""
        kept = self._optimizer().state
        found = []
        for name in self._shares[self._rank]:
            parameter = self._parameters[name]
            found.append(Fragment(name, parameter.detach().float()))
            found += [
                Fragment(name, torch.as_tensor(value).detach(), key) for key, value in kept[parameter].items()
            ]
        return found

    def load(self, saved: SavedState) -> None:
        """Copy the parameters, and give the optimizer a state of its own kind."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(saved.whole(name, parameter.shape))
        optimizer = self._optimizer()
        state = optimizer.state_dict()
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        ordered = [names[id(each)] for group in optimizer.param_groups for each in group["params"]]
        state["state"] = {index: self._moments(saved, name) for index, name in enumerate(ordered)}
        optimizer.load_state_dict(state)

    def _moments(self, saved: SavedState, name: str) -> dict[str, torch.Tensor | int]:
        shape = self._parameters[name].shape
        return {key: _as_kept(key, saved.whole(name, shape, key)) for key in saved.keys(name)}

    def _optimizer(self) -> Optimizer:
        assert self.optimizer is not None, "prepared before its state is asked for"
        return self.optimizer


def split_evenly(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Deal names out so that the sums of their sizes are nearly the same: the largest first, to whom has least."""
    shares: list[list[str]] = [[] for _ in range(count)]
    sums = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = sums.index(min(sums))
        shares[least].append(name)
        sums[least] += sizes[name]
    return shares


def _as_kept(key: str, tensor: torch.Tensor) -> torch.Tensor | int:
    # bitsandbytes counts steps in Python; torch in a tensor of fp32. What comes from a file is mapped: the optimizer
    # would go on writing, and reading, where another file may stand by then.
    return int(tensor) if key == "step" and tensor.dtype is torch.int64 else tensor.clone()

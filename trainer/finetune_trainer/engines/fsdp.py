"""FSDP2: every process holds a part of each parameter; a layer's parts are brought together when it computes.

Source: torch.distributed.fsdp.fully_shard. Parameters are fp32 and computed with in the run's number format; gradients
are added up in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from finetune_trainer.engines.engine import Engine, Moments, OptimizerFactory


class FSDPEngine(Engine):
    """Shards the numbered blocks one by one, and the rest as one unit that stays whole during a step."""

    def __init__(
        self, device: torch.device, world_size: int, compute: torch.dtype | None, *, offloads: bool
    ) -> None:
        self._device = device
        self._mesh: DeviceMesh = init_device_mesh(device.type, (world_size,))
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        self._settings: dict[str, Any] = {
            "mesh": self._mesh,
            "mp_policy": precision if compute is not None else MixedPrecisionPolicy(),
            "offload_policy": CPUOffloadPolicy(pin_memory=device.type == "cuda")
            if offloads
            else OffloadPolicy(),
        }
        self._model: FSDPModule | None = None
        self._optimizer: Optimizer | None = None

    def prepare(self, model: nn.Module, make_optimizer: OptimizerFactory) -> tuple[nn.Module, Optimizer]:
        """Shard in place."""
        for block in numbered_blocks(model):
            fully_shard(block, **self._settings)
        self._model = fully_shard(model, **self._settings)
        _move_buffers(model, self._device)
        self._optimizer = make_optimizer(model)
        self._state = ShardedState(model, self._optimizer, self._mesh)
        return model, self._optimizer

    def accumulate(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are kept whole on each rank until the last micro-batch."""
        return self._syncing(is_last)

    @contextmanager
    def _syncing(self, is_last: bool) -> Iterator[None]:
        assert self._model is not None, "prepared before the first step"
        self._model.set_requires_gradient_sync(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients."""
        torch.autograd.backward(loss)

    def clip(self, max_norm: float) -> float | None:
        """Clip by the norm over the parts of all ranks."""
        parameters = [each for each in cast(nn.Module, self._model).parameters() if each.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @property
    def schedules(self) -> Optimizer:
        """The optimizer over the parts."""
        assert self._optimizer is not None, "prepared before the schedule"
        return self._optimizer

    @property
    def state(self) -> ShardedState:
        """Brought together by name."""
        return self._state


class ShardedState:
    """Parameters and moments as DTensors."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, mesh: DeviceMesh) -> None:
        found = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
        self._parameters = {name: cast(DTensor, each) for name, each in found}
        self._optimizer = optimizer
        self._mesh = mesh

    @property
    def is_collective(self) -> bool:
        """Reading brings the parts of all ranks together."""
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """The trained parameters."""
        return tuple(self._parameters)

    def shape(self, name: str) -> torch.Size:
        """The whole shape."""
        return self._parameters[name].shape

    def parameter(self, name: str) -> torch.Tensor:
        """Bring the parts together."""
        return self._parameters[name].full_tensor().detach().to("cpu", torch.float32)

    def moment_kinds(self, name: str) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """What the optimizer keeps of it."""
        return {key: (each.dtype, each.shape) for key, each in self._kept(name).items()}

    def moment(self, name: str, key: str) -> torch.Tensor:
        """Bring the parts of a moment together; counts have none."""
        tensor = self._kept(name)[key].detach()
        return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor.cpu()

    def set_parameter(self, name: str, value: torch.Tensor) -> None:
        """Keep this rank's part."""
        target = self._parameters[name]
        with torch.no_grad():
            target.to_local().copy_(self._part_of(value, target).to_local())

    def set_moments(self, values: Mapping[str, Moments]) -> None:
        """Keep this rank's parts."""
        for name, moments in values.items():
            target = self._parameters[name]
            self._optimizer.state[target] = {
                key: self._part_of(tensor, target) if tensor.shape == target.shape else tensor.clone()
                for key, tensor in moments.items()
            }

    def _part_of(self, value: torch.Tensor, like: DTensor) -> DTensor:
        # src_data_rank None: every rank has the whole tensor and takes its part, nothing is sent.
        device = like.to_local().device
        return distribute_tensor(
            value.to(device, like.dtype), self._mesh, like.placements, src_data_rank=None
        )

    def _kept(self, name: str) -> Moments:
        kept = self._optimizer.state[self._parameters[name]]
        return {key: torch.as_tensor(each) for key, each in kept.items()}


def numbered_blocks(model: nn.Module) -> list[nn.Module]:
    """The model's repeated blocks: the members of its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest = max(lists, key=len, default=nn.ModuleList())
    return list(longest)


def _move_buffers(model: nn.Module, device: torch.device) -> None:
    # fully_shard moves parameters alone where the model was loaded on the CPU.
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)

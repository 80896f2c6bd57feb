"""FSDP2: every process holds a part of each parameter; a layer's parts are brought together when it computes.

Source: torch.distributed.fsdp.fully_shard. Parameters are fp32 and computed with in the run's number format; gradients
are added up in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from finetune_trainer.engines.blocks import move_buffers, numbered_blocks
from finetune_trainer.engines.engine import Engine, Moments, OptimizerFactory


class FSDPEngine(Engine):
    """Shards the numbered blocks one by one, and the rest as one unit that stays whole during a step."""

    def __init__(
        self, device: torch.device, world_size: int, compute: torch.dtype | None, *, offloads: bool
    ) -> None:
        self._device = device
        precision = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        self._settings: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (world_size,)),
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
            self._shard(block)
        self._model = self._shard(model)
        move_buffers(model, self._device)
        self._optimizer = make_optimizer(model)
        self._state = ShardedState(model, self._optimizer)
        return model, self._optimizer

    def _shard(self, module: nn.Module) -> FSDPModule:
        # Block by block: until here a model that is trained whole may stand in memory as its files have it.
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.dtype is not torch.float32:
                parameter.data = parameter.data.float()
        return fully_shard(module, **self._settings)

    def accumulate(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are added up over ranks with each micro-batch: until then every rank would keep whole ones."""
        return nullcontext()

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

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        found = ((name, each) for name, each in model.named_parameters() if each.requires_grad)
        self._parameters = {name: cast(DTensor, each) for name, each in found}
        self._optimizer = optimizer

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
            target.to_local().copy_(own_rows(value, target))

    def set_moments(self, values: Mapping[str, Moments]) -> None:
        """Keep this rank's parts, where its parts of the parameters are."""
        for name, moments in values.items():
            target = self._parameters[name]
            self._optimizer.state[target] = {
                key: _part_of(tensor, target) if tensor.shape == target.shape else self._count(tensor, target)
                for key, tensor in moments.items()
            }

    def _count(self, tensor: torch.Tensor, target: DTensor) -> torch.Tensor:
        # A fused step reads the count where the parameters are; other steps read it on the host.
        is_fused = bool(self._optimizer.param_groups[0].get("fused"))
        return tensor.to(target.to_local().device if is_fused else "cpu", copy=True)

    def _kept(self, name: str) -> Moments:
        kept = self._optimizer.state[self._parameters[name]]
        return {key: torch.as_tensor(each) for key, each in kept.items()}


def own_rows(value: torch.Tensor, like: DTensor) -> torch.Tensor:
    """This rank's part of a whole value: FSDP cuts the first dimension; the last parts may be shorter or empty."""
    assert like.placements == (Shard(0),), like.placements
    longest = -(-like.shape[0] // like.device_mesh.size())
    begin = like.device_mesh.get_local_rank() * longest
    return value[begin : begin + like.to_local().shape[0]]


def _part_of(value: torch.Tensor, like: DTensor) -> DTensor:
    # Not distribute_tensor: it brings everything to the mesh's device, also what is offloaded to the host.
    part = cast(DTensor, torch.zeros_like(like.detach()))
    part.to_local().copy_(own_rows(value, like))
    return part

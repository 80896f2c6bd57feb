"""FSDP2: every process holds a part of each parameter; a layer's parts are brought together when it computes.

Source: torch.distributed.fsdp.fully_shard. Parameters are fp32 and computed with in the run's number format; gradients
are added up in fp32.
"""

from __future__ import annotations

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
from finetune_trainer.engines.engine import Engine, OptimizerFactory
from finetune_trainer.state_files import Fragment, SavedState


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

    def fragments(self) -> list[Fragment]:
        """Rows: of the flattened whole a range. With them goes the count of steps, which all ranks have."""
        found = []
        for name, parameter in self._parameters.items():
            begin = first_row(parameter) * parameter.stride(0)
            for key, tensor in {"": parameter, **self._optimizer.state[parameter]}.items():
                each = torch.as_tensor(tensor).detach()
                if isinstance(each, DTensor):
                    found.append(Fragment(name, each.to_local().flatten(), key, begin))
                elif parameter.to_local().numel():
                    found.append(Fragment(name, each, key))
        return [each for each in found if each.tensor.numel()]

    def load(self, saved: SavedState) -> None:
        """Take this rank's rows."""
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                self._take(parameter.to_local(), parameter, saved, name)
            self._optimizer.state[parameter] = {
                key: self._moment(parameter, saved, name, key) for key in saved.keys(name)
            }

    def _moment(self, parameter: DTensor, saved: SavedState, name: str, key: str) -> torch.Tensor:
        if key == "step":
            return self._count(saved.count(name), parameter)
        # Not distribute_tensor: it brings everything to the mesh's device, also what is offloaded to the host.
        moment = cast(DTensor, torch.zeros_like(parameter.detach()))
        self._take(moment.to_local(), parameter, saved, name, key)
        return moment

    def _take(
        self, target: torch.Tensor, parameter: DTensor, saved: SavedState, name: str, key: str = ""
    ) -> None:
        if target.numel():
            begin = first_row(parameter) * parameter.stride(0)
            target.copy_(saved.part(name, begin, target.numel(), key).reshape(target.shape))

    def _count(self, tensor: torch.Tensor, target: DTensor) -> torch.Tensor:
        # A fused step reads the count where the parameters are; other steps read it on the host.
        is_fused = bool(self._optimizer.param_groups[0].get("fused"))
        return tensor.to(target.to_local().device if is_fused else "cpu", copy=True)


def first_row(parameter: DTensor) -> int:
    """Where this rank's rows begin: FSDP cuts the first dimension; the last parts may be shorter or empty."""
    assert parameter.placements == (Shard(0),), parameter.placements
    longest = -(-parameter.shape[0] // parameter.device_mesh.size())
    return min(parameter.shape[0], parameter.device_mesh.get_local_rank() * longest)

"""DeepSpeed's ZeRO: every process holds a part of the optimizer's state (1), the gradients (2), the parameters (3).

DeepSpeed's own saving and loading are never called: both pickle. State is read and set by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from pydantic import JsonValue
from torch import nn
from torch.optim import Optimizer

from finetune_trainer.engines.blocks import move_buffers, numbered_blocks
from finetune_trainer.engines.engine import Engine, Moments, OptimizerFactory

_MOMENTS = ("exp_avg", "exp_avg_sq")
# The fp32 tensors that torch's optimizer steps, by DeepSpeed's names: stage 3, stage 1 and 2, stage 1 in 16 bits.
_FLAT_PARTITIONS = (
    "fp32_partitioned_groups_flat",
    "single_partition_of_fp32_groups",
    "fp32_groups_flat_partition",
)


class ZeroEngine(Engine):
    """One DeepSpeed engine, which clips and steps itself."""

    def __init__(
        self, config: Mapping[str, JsonValue], device: torch.device, compute: torch.dtype | None
    ) -> None:
        self._config = dict(config)
        self._device = device
        self._compute = compute or torch.float32
        self._engine: Any = None
        self._plain: Optimizer | None = None

    def prepare(self, model: nn.Module, make_optimizer: OptimizerFactory) -> tuple[nn.Module, Optimizer]:
        """Make the engine. Parameters that are split up go to the device part by part."""
        import deepspeed  # seconds, for runs that use it

        # Its sums in shared memory, for CPUs, would be compiled on first use. The image has no compiler, and nothing of
        # ours calls them.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("nccl" if self._device.type == "cuda" else "gloo")
        if self._stage == 3:
            # Block by block, so that no process holds a whole model in the number format it computes in.
            for part in (*numbered_blocks(model), model):
                self._split(part)
            move_buffers(model, self._device)
        self._plain = make_optimizer(model)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=self._plain, config=self._config)
        self._state = ZeroState(model, self._engine.optimizer)
        return self._engine, cast(Optimizer, _EngineSteps(self._engine, self._plain))

    def _split(self, module: nn.Module) -> None:
        import deepspeed

        # Init splits parameters up as they are, and leaves those alone that it has split up. Buffers stay fp32: angles
        # from rounded rotary frequencies are wrong by more with every position.
        for parameter in module.parameters():
            parameter.data = parameter.data.to(self._compute)
        deepspeed.zero.Init(module=module, config_dict_or_path=self._config, dtype=self._compute)

    @property
    def _stage(self) -> int:
        section = self._config["zero_optimization"]
        assert isinstance(section, dict), "made by build_deepspeed_config"
        return cast(int, section["stage"])

    def accumulate(self, *, is_last: bool) -> AbstractContextManager[None]:
        """DeepSpeed adds gradients up over ranks with each micro-batch, and is told which one is the last."""
        return self._bounded(is_last)

    @contextmanager
    def _bounded(self, is_last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients."""
        self._engine.backward(loss)

    def clip(self, max_norm: float) -> float | None:
        """Part of the step."""
        return None

    def applied_norm(self) -> float | None:
        """The norm that the last step found."""
        return float(self._engine.get_global_grad_norm())

    @property
    def schedules(self) -> Optimizer:
        """torch's optimizer, over DeepSpeed's flat partitions."""
        assert self._plain is not None, "prepared before the schedule"
        return self._plain

    @property
    def state(self) -> ZeroState:
        """Brought together by name."""
        return self._state


class _EngineSteps:
    """What Trainer takes for the optimizer: its step is DeepSpeed's, which clips, steps and forgets the gradients."""

    def __init__(self, engine: Any, plain: Optimizer) -> None:  # noqa: ANN401 (DeepSpeed has no types)
        self._engine = engine
        self._plain = plain

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Learning rates and flat partitions."""
        return self._plain.param_groups

    def step(self) -> None:
        """Take the step."""
        self._engine.step()

    def zero_grad(self) -> None:
        """Done with the step."""


class ZeroState:
    """fp32 parameters and moments, wherever ZeRO put their parts."""

    def __init__(self, model: nn.Module, optimizer: Any) -> None:  # noqa: ANN401 (DeepSpeed has no types)
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._zero = optimizer

    @property
    def is_collective(self) -> bool:
        """Reading brings the parts of all ranks together."""
        return True

    @property
    def names(self) -> tuple[str, ...]:
        """The trained parameters."""
        return tuple(self._parameters)

    def shape(self, name: str) -> torch.Size:
        """The whole shape; a parameter of stage 3 is empty while nobody computes with it."""
        parameter = self._parameters[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def parameter(self, name: str) -> torch.Tensor:
        """Bring the fp32 parts together."""
        from deepspeed.utils import safe_get_full_fp32_param

        return self._whole(safe_get_full_fp32_param(self._parameters[name]), name)

    def moment_kinds(self, name: str) -> dict[str, tuple[torch.dtype, torch.Size]]:
        """AdamW's two moments and its count."""
        kinds = {key: (torch.float32, self.shape(name)) for key in _MOMENTS}
        return {**kinds, "step": (torch.float32, torch.Size([]))}

    def moment(self, name: str, key: str) -> torch.Tensor:
        """Bring the parts of a moment together; the count is the same everywhere."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if key == "step":
            counts = (state["step"] for state in self._base.state.values() if "step" in state)
            return torch.as_tensor(next(counts)).detach().cpu().float()
        return self._whole(safe_get_full_optimizer_state(self._parameters[name], key), name)

    def set_parameter(self, name: str, value: torch.Tensor) -> None:
        """Set the fp32 parts; what is computed with was set when the model was made."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        parameter = self._parameters[name]
        if hasattr(parameter, "ds_id"):
            safe_set_local_fp32_param(parameter, _own_part(value, parameter))
        else:
            safe_set_full_fp32_param(parameter, value.to(parameter.device, torch.float32))

    def set_moments(self, values: Mapping[str, Moments]) -> None:
        """Make the state that the first step would make, then fill it."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        self._make_state(next(iter(values.values()))["step"])
        for name, moments in values.items():
            parameter = self._parameters[name]
            for key in _MOMENTS:
                if hasattr(parameter, "ds_id"):
                    safe_set_local_optimizer_state(parameter, _own_part(moments[key], parameter), key)
                else:
                    value = moments[key].to(parameter.device, torch.float32)
                    safe_set_full_optimizer_state(parameter, value, key)

    @property
    def _base(self) -> Optimizer:
        return cast(Optimizer, self._zero.optimizer)

    def _make_state(self, step: torch.Tensor) -> None:
        group = self._base.param_groups[0]
        is_fused = bool(group.get("fused") or group.get("capturable"))
        for flat in self._flat_partitions():
            self._base.state[flat] = {
                "step": step.to(flat.device if is_fused else "cpu", torch.float32, copy=True),
                **{key: torch.zeros_like(flat) for key in _MOMENTS},
            }
        # ZeRO-1 and -2 note where each parameter's moments are when the first step has made them.
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._lazy_init_hp_params_optimizer_state()

    def _flat_partitions(self) -> list[torch.Tensor]:
        """The fp32 tensors that torch's optimizer steps."""
        for name in _FLAT_PARTITIONS:
            if (found := getattr(self._zero, name, None)) is not None:
                return list(found)
        raise AssertionError(f"{type(self._zero).__name__} is none of the optimizers of stages 1 to 3")

    def _whole(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        return tensor.detach().reshape(self.shape(name)).to("cpu", torch.float32)


def _own_part(value: torch.Tensor, parameter: Any) -> torch.Tensor:  # noqa: ANN401 (DeepSpeed's attributes)
    """This rank's part of a whole value in stage 3, fp32; parts are equally long, the last one is filled up.

    DeepSpeed's own cutting (zero/stage3.py, set_full_hp_param) fails where the last part is not full.
    """
    length, rank = parameter.partition_numel(), dist.get_rank()
    flat = value.to(torch.float32).flatten()[rank * length : (rank + 1) * length]
    return nn.functional.pad(flat, (0, length - flat.numel()))

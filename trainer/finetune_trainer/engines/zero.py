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
from finetune_trainer.engines.engine import Engine, OptimizerFactory
from finetune_trainer.state_files import Fragment, SavedState

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

    def fragments(self) -> list[Fragment]:
        """Ranges of the flattened parameters. With them goes the count of steps, which all ranks have."""
        found = []
        self._link_moments()
        for name, parameter in self._parameters.items():
            if (held := _held_range(parameter)) is not None:
                begin, length = held
                found += [
                    Fragment(name, _own_part(parameter, key)[:length], key, begin) for key in ("", *_MOMENTS)
                ]
                found.append(Fragment(name, self._count(), "step"))
        return found

    def load(self, saved: SavedState) -> None:
        """Take this rank's ranges; what is computed with is made from all ranks' fp32 values, as after a step."""
        self._make_state(saved.count(next(iter(self._parameters))))
        for name, parameter in self._parameters.items():
            if (held := _held_range(parameter)) is None:
                continue
            begin, length = held
            for key in ("", *_MOMENTS):
                _own_part(parameter, key)[:length].copy_(saved.part(name, begin, length, key))
            if hasattr(parameter, "ds_tensor"):
                parameter.ds_tensor.data[:length].copy_(saved.part(name, begin, length))

    def _count(self) -> torch.Tensor:
        counts = (state["step"] for state in self._base.state.values() if "step" in state)
        return torch.as_tensor(next(counts)).detach().float()

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
        self._link_moments()

    def _link_moments(self) -> None:
        # ZeRO-1 and -2 note where each parameter's moments are when the first group of them has taken its first step:
        # too early for the others. Source: DeepSpeed, runtime/zero/stage_1_and_2.py, _optimizer_step.
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _flat_partitions(self) -> list[torch.Tensor]:
        """The fp32 tensors that torch's optimizer steps."""
        for name in _FLAT_PARTITIONS:
            if (found := getattr(self._zero, name, None)) is not None:
                return list(found)
        raise AssertionError(f"{type(self._zero).__name__} is none of the optimizers of stages 1 to 3")

    def _whole(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        return tensor.detach().reshape(self.shape(name)).to("cpu", torch.float32)


def _held_range(parameter: Any) -> tuple[int, int] | None:  # noqa: ANN401 (DeepSpeed's attributes)
    """First element and number of elements that this rank holds of a flattened parameter; None where it has none."""
    if hasattr(parameter, "ds_id"):
        # Parts are equally long; the last one is filled up.
        longest = parameter.partition_numel()
        begin = dist.get_rank() * longest
        length = min(longest, parameter.ds_numel - begin)
        return (begin, length) if length > 0 else None
    if parameter._hp_mapping is None:
        return None
    address = parameter._hp_mapping.lp_fragment_address
    return address.start, address.numel


def _own_part(parameter: Any, key: str) -> torch.Tensor:  # noqa: ANN401
    """The live fp32 values, or moments, that this rank holds of a parameter, [elements]."""
    if not hasattr(parameter, "ds_id"):
        return cast(torch.Tensor, parameter._hp_mapping.get_hp_fragment(key or None)).detach()
    zero = parameter._z3_optimizer
    group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
    flat = zero.fp32_partitioned_groups_flat[group]
    whole = zero.optimizer.state[flat][key] if key else flat
    return cast(torch.Tensor, whole.detach().narrow(0, offset, length))

"""Decides how the processes of a run share the work, and what DeepSpeed is told about it. Pure, torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import JsonValue

from finetune_api.spec import (
    DeepSpeed,
    FineTuneJobSpec,
    MethodType,
    Offload,
    Optimizer,
    Parallelism,
    Precision,
    QuantizationType,
    Strategy,
)
from finetune_trainer.checkpoint_files import Split

_ZERO_STAGES = {Strategy.ZERO1: 1, Strategy.ZERO2: 2, Strategy.ZERO3: 3}
SHARDED = frozenset({Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3, Strategy.FSDP})
# What Auto takes, the first that fits.
_AUTO_ORDER = (Strategy.DDP, Strategy.ZERO2, Strategy.ZERO3)
# Of a device's memory; the rest is for activations, buffers and what is lost to fragments.
_USABLE_SHARE = 0.7
# The fields of the allow-list, and DeepSpeed's own names. Source: DeepSpeed, runtime/zero/config.py.
_TUNING_KEYS = {
    "reduce_bucket_size": "reduce_bucket_size",
    "allgather_bucket_size": "allgather_bucket_size",
    "overlap_comm": "overlap_comm",
    "contiguous_gradients": "contiguous_gradients",
    "reduce_scatter": "reduce_scatter",
    "round_robin_gradients": "round_robin_gradients",
    "sub_group_size": "sub_group_size",
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
}
# Never printed, never tuned by DeepSpeed itself.
_NEVER = 2**31 - 1


@dataclass(frozen=True)
class ParallelPlan:
    """How processes share the work. `strategy` None: there is one process, which shares with nobody."""

    strategy: Strategy | None
    offload: Offload
    reason: str
    needed_bytes: int = 0
    """Of a process's device, without activations, as estimated."""

    @property
    def name(self) -> str:
        """The strategy as status shows it."""
        return "None" if self.strategy is None else self.strategy.value

    @property
    def zero_stage(self) -> int | None:
        """DeepSpeed's stage; None where DeepSpeed is not used."""
        return None if self.strategy is None else _ZERO_STAGES.get(self.strategy)

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only a part of the optimizer's state."""
        return self.strategy in SHARDED

    @property
    def split(self) -> Split:
        """What of the trained state a process holds only a part of."""
        if self.splits_parameters:
            return Split.EVERYTHING
        return Split.OPTIMIZER if self.is_sharded else Split.NOTHING

    @property
    def splits_parameters(self) -> bool:
        """Whether a process holds only a part of the parameters."""
        return self.strategy in (Strategy.ZERO3, Strategy.FSDP)


def needs_process_group(parallelism: Parallelism, world_size: int) -> bool:
    """Whether the ranks must meet: there are several, or a single one offloads as ZeRO and FSDP do."""
    return world_size > 1 or parallelism.strategy in SHARDED or parallelism.offload is not Offload.NONE


def may_use_deepspeed(parallelism: Parallelism, world_size: int) -> bool:
    """Whether DeepSpeed must be at hand: asked for, or what Auto may become."""
    if parallelism.strategy is Strategy.AUTO:
        return world_size > 1 or parallelism.offload is not Offload.NONE
    return parallelism.strategy in _ZERO_STAGES


def decide_plan(
    spec: FineTuneJobSpec,
    world_size: int,
    device_bytes: int | None,
    estimate_bytes: Callable[[Strategy], int],
) -> ParallelPlan:
    """Decide what `parallelism.strategy` means for this run.

    Auto takes the first of DDP, ZeRO2, ZeRO3 that fits and that the method allows. `estimate_bytes` tells a process's
    memory without activations; `device_bytes` None: not known, so everything fits.
    """
    plan = _decide(spec, world_size, device_bytes, estimate_bytes)
    return replace(plan, needed_bytes=estimate_bytes(plan.strategy or Strategy.DDP))


def _decide(
    spec: FineTuneJobSpec,
    world_size: int,
    device_bytes: int | None,
    estimate_bytes: Callable[[Strategy], int],
) -> ParallelPlan:
    wanted, offload = spec.parallelism.strategy, spec.parallelism.offload
    if wanted is Strategy.DDP and world_size == 1:
        return ParallelPlan(None, Offload.NONE, "there is one process")
    if wanted is not Strategy.AUTO:
        return ParallelPlan(wanted, offload, "parallelism.strategy asks for it")
    if offload is not Offload.NONE:
        strategy = Strategy.ZERO2 if offload is Offload.OPTIMIZER else Strategy.ZERO3
        return ParallelPlan(strategy, offload, f"parallelism.offload {offload.value} needs it")
    if world_size == 1:
        return ParallelPlan(None, Offload.NONE, "there is one process")
    return _first_that_fits(allowed_strategies(spec), device_bytes, estimate_bytes)


def allowed_strategies(spec: FineTuneJobSpec) -> tuple[Strategy, ...]:
    """What Auto may become with this method and optimizer; CEL refuses the others where they are asked for."""
    method, training, lora = spec.method, spec.training, spec.method.lora
    is_plain = training.optimizer is Optimizer.ADAM_W and training.precision is not Precision.FP16
    if method.type is MethodType.ADA_LORA or not is_plain:
        return (Strategy.DDP,)
    if method.type is MethodType.QLORA:
        is_int8 = method.quantization.type is QuantizationType.INT8
        return (Strategy.DDP,) if is_int8 else (Strategy.DDP, Strategy.ZERO2)
    starts_from_weights = lora.variant.value in ("DoRA", "PiSSA") and method.type is MethodType.LORA
    if starts_from_weights or method.type in (MethodType.PREFIX_TUNING, MethodType.PROMPT_TUNING):
        return (Strategy.DDP, Strategy.ZERO2)
    return _AUTO_ORDER


def _first_that_fits(
    allowed: tuple[Strategy, ...], device_bytes: int | None, estimate_bytes: Callable[[Strategy], int]
) -> ParallelPlan:
    usable = None if device_bytes is None else int(device_bytes * _USABLE_SHARE)
    passed_over: list[str] = []
    for strategy in allowed:
        needed = estimate_bytes(strategy)
        if usable is None or needed <= usable:
            why = "the first that fits" if passed_over else "the model fits in each process"
            return ParallelPlan(strategy, Offload.NONE, "; ".join([*passed_over, why]))
        passed_over.append(f"{strategy.value} needs {_gib(needed)} of {_gib(usable)}")
    return ParallelPlan(allowed[-1], Offload.NONE, "; ".join([*passed_over, "nothing smaller is allowed"]))


def _gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"


def build_deepspeed_config(
    plan: ParallelPlan,
    *,
    tuning: DeepSpeed | None,
    max_grad_norm: float,
    compute: str,
    world_size: int,
) -> dict[str, JsonValue]:
    """Build DeepSpeed's configuration; `compute` is the number format: `bf16` or `fp32`.

    Accumulation is ours: DeepSpeed is told at each micro-batch whether it is a step's last.
    """
    assert plan.zero_stage is not None, "ZeRO was decided for"
    config: dict[str, JsonValue] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": max_grad_norm,
        "steps_per_print": _NEVER,
        # AdamW is torch's own: DeepSpeed's would be compiled on first use, and the image has no compiler.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero_section(plan, tuning),
    }
    if compute == "bf16":
        # Gradients are added up over micro-batches and over ranks in fp32, as DDP and FSDP do it here.
        config |= {
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return config


def _zero_section(plan: ParallelPlan, tuning: DeepSpeed | None) -> dict[str, JsonValue]:
    stage = plan.zero_stage
    section: dict[str, JsonValue] = {"stage": stage, "contiguous_gradients": True}
    pinned = bool(tuning and tuning.pin_memory)
    if plan.offload is not Offload.NONE:
        section["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if plan.offload is Offload.OPTIMIZER_AND_PARAMETERS:
        section["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    if tuning is not None:
        wanted = tuning.model_dump(exclude_none=True, by_alias=False)
        section |= {key: wanted[field] for field, key in _TUNING_KEYS.items() if field in wanted}
    return section

"""The engine of a strategy."""

from __future__ import annotations

from accelerate import Accelerator

from finetune_api.spec import DeepSpeed as DeepSpeedTuning
from finetune_api.spec import Offload, Strategy, Training
from finetune_trainer.engines.engine import Engine
from finetune_trainer.engines.replicated import ReplicatedEngine
from finetune_trainer.gang import Gang
from finetune_trainer.model import ComputePrecision
from finetune_trainer.parallelism import ParallelPlan, build_deepspeed_config


def build_engine(
    plan: ParallelPlan,
    training: Training,
    tuning: DeepSpeedTuning | None,
    precision: ComputePrecision,
    gang: Gang,
    accelerator: Accelerator,
) -> Engine:
    """Make the engine that the plan asks for."""
    if plan.strategy is Strategy.FSDP:
        from finetune_trainer.engines.fsdp import FSDPEngine

        offloads = plan.offload is not Offload.NONE
        return FSDPEngine(gang.device, gang.world_size, precision.autocast, offloads=offloads)
    if plan.zero_stage is not None:
        from finetune_trainer.engines.zero import ZeroEngine

        config = build_deepspeed_config(
            plan,
            tuning=tuning,
            max_grad_norm=training.max_grad_norm,
            compute=precision.name,
            world_size=gang.world_size,
        )
        return ZeroEngine(config, gang.device, precision.autocast)
    return ReplicatedEngine(accelerator)

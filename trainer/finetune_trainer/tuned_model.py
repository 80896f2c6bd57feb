"""The model that is trained: the base with what the method adds, from the seed, an earlier adapter or a checkpoint.

Beside the parameters a method may have state of its own (PiSSA's start, AdaLoRA's ranks), which checkpoints keep.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import PreTrainedModel

from finetune_api.spec import LoRAVariant, Method, MethodType
from finetune_trainer.adapters import (
    adapter_weights,
    add_adapter,
    config_for_inference,
    load_adapter,
    save_adapter,
    write_adapter,
)
from finetune_trainer.engines import StateTensors
from finetune_trainer.pissa import as_plain_lora, resume_pissa, save_initial, start_pissa
from finetune_trainer.rank_allocation import RankAllocation
from finetune_trainer.state_files import SavedState, write_together
from finetune_trainer.tensor_files import WEIGHTS_NAME, TensorPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedModel:
    """The model, and what the method keeps beside its parameters."""

    model: PreTrainedModel | PeftModel
    pissa_start: Mapping[str, torch.Tensor] | None = None
    allocation: RankAllocation | None = None

    def count_parameters(self) -> tuple[int, int]:
        """Trained parameters, and all."""
        sizes = [(each.numel(), each.requires_grad) for each in self.model.parameters()]
        return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)

    def save_method_state(self, directory: Path) -> None:
        """Write what the method keeps into a checkpoint's folder."""
        if self.pissa_start is not None:
            save_initial(directory, self.pissa_start)
        if self.allocation is not None:
            self.allocation.save(directory)

    def save_result(self, directory: Path, state: StateTensors, *, is_leader: bool) -> None:
        """Write what export reads: an adapter as peft does, or all weights. Every rank calls this."""
        directory.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.model, PeftModel):
            plans = [TensorPlan(name, torch.float32, tuple(state.shape(name))) for name in state.names]
            write_together(
                directory / WEIGHTS_NAME,
                plans,
                state.parameter,
                is_collective=state.is_collective,
                is_leader=is_leader,
            )
            return
        if not (state.is_collective or is_leader):
            return
        trained = {name: state.parameter(name) for name in state.names}
        if is_leader and self.pissa_start is None:
            save_adapter(self.model, directory, trained)
        elif is_leader:
            weights = adapter_weights(self.model, trained)
            write_adapter(
                directory, *as_plain_lora(weights, self.pissa_start or {}, config_for_inference(self.model))
            )


def tune(
    base: PreTrainedModel,
    method: Method,
    config: PeftConfig | None,
    *,
    model_source: str,
    earlier_adapter: Path | None,
    checkpoint: Path | None,
    with_values: bool = True,
) -> TunedModel:
    """Add what the method trains, and restore it from a checkpoint where there is one.

    Without `with_values` the trained values are left to the engine: of a model that is split up, no rank reads all.
    """
    if config is None:
        tuned = TunedModel(base)
    elif method.type is MethodType.LORA and method.lora.variant is LoRAVariant.PISSA:
        lora = cast(LoraConfig, config)
        if checkpoint is None:
            tuned = TunedModel(*start_pissa(base, lora, model_source))
        else:
            tuned = TunedModel(*resume_pissa(base, lora, model_source, checkpoint))
    else:
        tuned = _with_adapter(base, method, config, model_source)
    if checkpoint is not None:
        _restore(tuned, checkpoint, with_values=with_values)
    elif earlier_adapter is not None:
        assert isinstance(tuned.model, PeftModel), "Full has no adapterSource"
        load_adapter(tuned.model, earlier_adapter)
    return tuned


def _with_adapter(base: PreTrainedModel, method: Method, config: PeftConfig, model_source: str) -> TunedModel:
    model = add_adapter(base, config, model_source)
    if method.type is MethodType.ADA_LORA:
        return TunedModel(model, allocation=RankAllocation(model, method.ada_lora.orthogonal_weight))
    return TunedModel(model)


def _restore(tuned: TunedModel, checkpoint: Path, *, with_values: bool) -> None:
    expected = {name: each for name, each in tuned.model.named_parameters() if each.requires_grad}
    with SavedState(checkpoint) as saved, torch.no_grad():
        if with_values:
            assert set(saved.names) == set(expected), "a checkpoint of this run has this run's parameters"
            for name, parameter in expected.items():
                value = saved.whole(name, parameter.shape)
                if parameter.dtype is torch.float32:
                    parameter.copy_(value)
                else:
                    parameter.data = value
    if tuned.allocation is not None:
        tuned.allocation.restore(checkpoint)

"""AdaLoRA: ranks move to where they help, between the optimizer's step and the moment its gradients are forgotten."""

from __future__ import annotations

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.rank_allocation import RankAllocation


class AdaLoRACallback(TrainerCallback):  # type: ignore[misc]
    """Runs on every rank: gradients are the same on all, and so are the ranks that stay."""

    def __init__(self, allocation: RankAllocation) -> None:
        self._allocation = allocation

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Look at the step's gradients. Trainer counts a step after this call."""
        self._allocation.update(state.global_step)

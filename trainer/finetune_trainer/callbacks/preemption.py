"""The pod is told to go: finish the step, save, end. Ranks agree on the step with the sum they make of its loss."""

from __future__ import annotations

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.step_figures import StepMeter


class PreemptionCallback(TrainerCallback):  # type: ignore[misc]
    """Ends training after the step in which any rank had been told to go; checkpointing then saves it."""

    def __init__(self, meter: StepMeter) -> None:
        self._meter = meter

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop the loop, on every rank at the same step."""
        if self._meter.figures.stop_requested:
            control.should_training_stop = True

"""Tells the launcher's watchdog of every finished step. Runs on every rank, after all that a step brings with it."""

from __future__ import annotations

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.heartbeat import Heart


class HeartbeatCallback(TrainerCallback):  # type: ignore[misc]
    """The last of the callbacks, so that saving a checkpoint is over when the next step begins to count."""

    def __init__(self, heart: Heart) -> None:
        self._heart = heart

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Note the step."""
        self._heart.finish_step(state.global_step)

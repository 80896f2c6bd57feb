"""`metrics.jsonl`: one line for every optimizer step of the run, whichever attempt computed it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ConfigDict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.base import ApiModel
from finetune_trainer.step_figures import StepMeter


class MetricsLine(ApiModel):
    """One line. The loss is the step's own, over all ranks, per learned token."""

    model_config = ConfigDict(alias_generator=None)

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    learned_tokens: int
    tokens: int
    seconds: float
    attempt: int
    # After the steps that are followed by an evaluation on the validation rows.
    eval_loss: float | None = None
    eval_accuracy: float | None = None
    eval_f1: float | None = None
    # By the training sources' addresses, where there are several.
    loss_by_source: dict[str, float] | None = None


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Appends the step's line to the local file; checkpointing takes the file along."""

    def __init__(self, path: Path, meter: StepMeter, attempt: int) -> None:
        self._path = path
        self._meter = meter
        self._attempt = attempt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Append one line."""
        figures, evaluation = self._meter.figures, self._meter.evaluation_of_step
        line = MetricsLine(
            step=figures.step,
            epoch=round(figures.epoch, 6),
            loss=figures.loss,
            learning_rate=figures.learning_rate,
            grad_norm=figures.grad_norm,
            learned_tokens=figures.learned_tokens,
            tokens=figures.tokens,
            seconds=round(figures.seconds, 6),
            attempt=self._attempt,
            loss_by_source=dict(figures.loss_by_source) or None,
            **(evaluation.as_metrics() if evaluation else {}),
        )
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json(exclude_none=True) + "\n")

"""What is known of the newest step and of the newest evaluation: left by the trainer, read by callbacks. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Saving(IntEnum):
    """Whether a checkpoint is on its way to the store."""

    NONE = 0
    MOVING = 1
    # On its way, but the store does not answer.
    STUCK = 2


@dataclass(frozen=True)
class StepSignals:
    """What a rank tells the others with each step's loss. `save_requested` and `saving` are rank 0's to say."""

    stop_requested: bool = False
    save_requested: bool = False
    saving: Saving = Saving.NONE
    save_failed: bool = False

    def as_numbers(self) -> tuple[float, ...]:
        """To be added up over ranks."""
        return (
            float(self.stop_requested),
            float(self.save_requested),
            float(self.saving),
            float(self.save_failed),
        )


@dataclass(frozen=True)
class StepFigures:
    """What is known of the optimizer step that just ended, over all ranks. The loss is per learned token."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    learned_tokens: int
    seconds: float
    stop_requested: bool
    # By rank 0's word: everyMinutes have passed; what becomes of the newest checkpoint.
    save_requested: bool = False
    saving: Saving = Saving.NONE
    # An uploader has given up.
    save_failed: bool = False
    loss_by_source: Mapping[str, float] = field(default_factory=dict)
    """Of each training source, where there are several and the step has rows of it."""


@dataclass(frozen=True)
class EvaluationFigures:
    """What was measured on the validation rows after a step."""

    step: int
    loss: float
    # By the names of metrics.jsonl: eval_accuracy, eval_f1.
    metrics: Mapping[str, float] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """All figures by the names of metrics.jsonl."""
        return {"eval_loss": self.loss, **self.metrics}


class StepMeter:
    """Where the trainer leaves the newest figures for the callbacks."""

    def __init__(self) -> None:
        self.newest: StepFigures | None = None
        self.newest_evaluation: EvaluationFigures | None = None

    @property
    def figures(self) -> StepFigures:
        """The newest step's figures. There is one whenever a callback's on_step_end runs."""
        assert self.newest is not None
        return self.newest

    @property
    def evaluation_of_step(self) -> EvaluationFigures | None:
        """The evaluation after the newest step; None where it was not evaluated."""
        evaluation = self.newest_evaluation
        return evaluation if evaluation is not None and evaluation.step == self.figures.step else None


def name_sources(sources: Sequence[str]) -> tuple[str, ...]:
    """Names by which losses of sources are told apart: their addresses, numbered where one stands twice."""
    return tuple(
        source if sources.count(source) == 1 else f"{source} #{number + 1}"
        for number, source in enumerate(sources)
    )


def loss_by_source(names: Sequence[str], sums_and_counts: Sequence[float]) -> dict[str, float]:
    """Loss per learned token of each source; `sums_and_counts` has all sums, then all counts."""
    count = len(sums_and_counts) // 2
    sums, counts = sums_and_counts[:count], sums_and_counts[count:]
    return {
        name: total / positions
        for name, total, positions in zip(names, sums, counts, strict=False)
        if positions > 0
    }

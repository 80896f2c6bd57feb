"""Decides when a run ends because validation stopped getting better. Pure; its state goes into checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from finetune_api.base import ApiModel
from finetune_api.spec import EarlyStopping, EarlyStoppingMetric
from finetune_trainer.step_figures import EvaluationFigures


class EarlyStoppingState(ApiModel):
    """What a checkpoint keeps."""

    best: float | None = None
    best_step: int = 0
    evaluations_without_improvement: int = 0
    has_ended: bool = False


@dataclass
class EarlyStoppingRule:
    """Follows the evaluations of a run."""

    settings: EarlyStopping
    state: EarlyStoppingState = field(default_factory=EarlyStoppingState)

    def note(self, evaluation: EvaluationFigures) -> bool:
        """Take an evaluation; True where it is the last of `patience` in a row without an improvement."""
        value, before = self._value(evaluation), self.state
        if self._is_best(value):
            self.state = EarlyStoppingState(best=value, best_step=evaluation.step)
            return False
        count = before.evaluations_without_improvement + 1
        has_ended = count >= self.settings.patience
        self.state = before.model_copy(
            update={"evaluations_without_improvement": count, "has_ended": has_ended}
        )
        return has_ended

    def describe(self) -> str:
        """Why the run ends."""
        best = "there was none"
        if self.state.best is not None:
            best = f"the best was {self.state.best:.6g} after step {self.state.best_step}"
        return (
            f"{self.settings.metric.value} has not improved by more than {self.settings.min_delta:g} in "
            f"{self.state.evaluations_without_improvement} evaluations: {best}"
        )

    def _is_best(self, value: float) -> bool:
        best = self.state.best
        if not math.isfinite(value):
            return False
        return best is None or self._improves(value, best)

    def _improves(self, value: float, best: float) -> bool:
        gain = best - value if self.settings.metric is EarlyStoppingMetric.VALIDATION_LOSS else value - best
        return gain > self.settings.min_delta

    def _value(self, evaluation: EvaluationFigures) -> float:
        match self.settings.metric:
            case EarlyStoppingMetric.VALIDATION_LOSS:
                return evaluation.loss
            case EarlyStoppingMetric.ACCURACY:
                return evaluation.metrics["eval_accuracy"]
            case EarlyStoppingMetric.F1:
                return evaluation.metrics["eval_f1"]

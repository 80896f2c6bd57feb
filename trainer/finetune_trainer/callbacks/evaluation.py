"""Looks at the validation rows every so many steps, and ends the run when they stop getting better. On every rank."""

from __future__ import annotations

import logging
from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.early_stopping import EarlyStoppingRule
from finetune_trainer.heartbeat import Heart, Phase
from finetune_trainer.step_figures import EvaluationFigures, StepMeter

logger = logging.getLogger(__name__)


class EvaluationCallback(TrainerCallback):  # type: ignore[misc]
    """Before those that write figures down."""

    def __init__(
        self,
        measure: Callable[[int], EvaluationFigures],
        meter: StepMeter,
        heart: Heart,
        *,
        every_steps: int,
        rule: EarlyStoppingRule | None,
    ) -> None:
        self._measure = measure
        self._meter = meter
        self._heart = heart
        self._every_steps = every_steps
        self._rule = rule

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Evaluate if it is time to, and after the last step."""
        step, is_last = state.global_step, state.global_step >= state.max_steps
        if step % self._every_steps != 0 and not is_last:
            return
        self._heart.enter(Phase.EVALUATING)
        evaluation = self._measure(step)
        self._meter.newest_evaluation = evaluation
        figures = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.as_metrics().items())
        logger.info("step %d/%d on the validation rows: %s", step, state.max_steps, figures)
        # All ranks have the same figures, so all come to the same end.
        if self._rule is not None and self._rule.note(evaluation) and not is_last:
            logger.info("ending early after step %d: %s", step, self._rule.describe())
            control.should_training_stop = True

"""Tells people and the operator where training stands: a line of the log, and a report that becomes `status`."""

from __future__ import annotations

import logging
import resource
from collections import deque
from datetime import UTC, datetime

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.progress import (
    CheckpointReport,
    EffectiveReport,
    Metric,
    Notice,
    NoticeReason,
    ProgressReport,
    TrainerStatus,
    TrainingReport,
)
from finetune_trainer.progress_reporter import ProgressReporter
from finetune_trainer.saving_outlook import SavingOutlook
from finetune_trainer.step_figures import StepFigures, StepMeter

logger = logging.getLogger(__name__)

# Steps whose mean time the ETA is reckoned from: enough to smooth, few enough to follow a change.
_RECENT_STEPS = 20


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Runs on rank 0 only."""

    def __init__(
        self,
        reporter: ProgressReporter,
        meter: StepMeter,
        *,
        effective: EffectiveReport,
        logging_steps: int,
        resumed_from: CheckpointReport | None,
        outlook: SavingOutlook,
    ) -> None:
        self._outlook = outlook
        self._reporter = reporter
        self._meter = meter
        self._effective = effective
        self._logging_steps = logging_steps
        self._resumed_from_step = resumed_from.step if resumed_from else None
        self._checkpoint = resumed_from
        self._total_steps = 0
        self._recent: deque[StepFigures] = deque(maxlen=_RECENT_STEPS)
        self._said: frozenset[NoticeReason] = frozenset()

    def note_checkpoint(self, checkpoint: CheckpointReport) -> None:
        """Take the newest committed checkpoint into the reports."""
        self._checkpoint = checkpoint
        self._outlook.note_checkpoint(checkpoint)

    def repeat(self) -> None:
        """Report the newest step once more, for what has changed beside it: where training waits for the store."""
        if self._recent:
            self._reporter.report(self._progress_report(self._recent[-1], self._total_steps, 0))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Report the plan before the first step is done."""
        self._total_steps = state.max_steps
        step = self._resumed_from_step or 0
        self._reporter.report(
            ProgressReport(
                trainer_status=TrainerStatus(
                    last_updated_time=_now(), progress_percentage=100 * step // state.max_steps
                ),
                finetune=TrainingReport(
                    step=step,
                    total_steps=state.max_steps,
                    resumed_from_step=self._resumed_from_step,
                    checkpoint=self._checkpoint,
                    effective=self._effective,
                    notices=self._notices(),
                ),
            )
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Report the step; every `loggingSteps`, and at the end, also as a line of the log."""
        figures = self._meter.figures
        self._recent.append(figures)
        self._outlook.note_step(figures.seconds)
        eta_seconds = self._eta_seconds(state.max_steps - figures.step)
        is_last = figures.step == state.max_steps or bool(control.should_training_stop)
        if figures.step % self._logging_steps == 0 or is_last:
            self._reporter.report(self._progress_report(figures, state.max_steps, eta_seconds))
            logger.info("%s", _log_line(figures, state.max_steps, self._tokens_per_second(), eta_seconds))

    def _progress_report(self, figures: StepFigures, total_steps: int, eta_seconds: int) -> ProgressReport:
        evaluation = self._meter.newest_evaluation
        metrics = {
            "loss": figures.loss,
            "learning_rate": figures.learning_rate,
            "grad_norm": figures.grad_norm,
            "epoch": figures.epoch,
            **(evaluation.as_metrics() if evaluation else {}),
        }
        return ProgressReport(
            trainer_status=TrainerStatus(
                last_updated_time=_now(),
                progress_percentage=min(100, 100 * figures.step // total_steps),
                estimated_remaining_seconds=eta_seconds,
                metrics=tuple(Metric(name=name, value=f"{value:.6g}") for name, value in metrics.items()),
            ),
            finetune=TrainingReport(
                step=figures.step,
                total_steps=total_steps,
                epoch=figures.epoch,
                loss=figures.loss,
                eval_loss=evaluation.loss if evaluation else None,
                learning_rate=figures.learning_rate,
                tokens_per_second=self._tokens_per_second(),
                peak_memory_bytes=_peak_memory_bytes(),
                resumed_from_step=self._resumed_from_step,
                checkpoint=self._checkpoint,
                stop_seconds=self._outlook.stop_seconds,
                effective=self._effective,
                notices=self._notices(),
            ),
        )

    def _notices(self) -> tuple[Notice, ...]:
        """What people should know now; the log has each once, when it begins."""
        notices = self._outlook.notices()
        for notice in notices:
            if notice.reason not in self._said:
                logger.warning("%s: %s", notice.reason, notice.message)
        self._said = frozenset(notice.reason for notice in notices)
        return notices

    def _eta_seconds(self, steps_left: int) -> int:
        mean_seconds = sum(figures.seconds for figures in self._recent) / len(self._recent)
        return round(steps_left * mean_seconds)

    def _tokens_per_second(self) -> float:
        seconds = sum(figures.seconds for figures in self._recent)
        return sum(figures.tokens for figures in self._recent) / max(seconds, 1e-9)


def _log_line(figures: StepFigures, total_steps: int, tokens_per_second: float, eta_seconds: int) -> str:
    return (
        f"step {figures.step}/{total_steps}  epoch {figures.epoch:.2f}  loss {figures.loss:.4f}  "
        f"lr {figures.learning_rate:.3g}  grad norm {figures.grad_norm:.3g}  {tokens_per_second:,.0f} tokens/s  "
        f"{eta_seconds} s left"
    )


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

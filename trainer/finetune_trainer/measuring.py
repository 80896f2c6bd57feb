"""Measures the model on the validation rows: loss per learned token, and for classes accuracy and macro F1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from finetune_api.spec import Task
from finetune_trainer.data.batches import StandingOrder
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.data.step_batches import StepBatches
from finetune_trainer.gang import Gang
from finetune_trainer.losses import LossOutput
from finetune_trainer.step_figures import EvaluationFigures

# Rows whose micro-batches are laid out together.
_ROWS_AT_ONCE = 256


def lay_out_evaluation(
    rows: PreparedRows, gang: Gang, *, micro_batch_tokens: int, task: Task, is_packed: bool
) -> StepBatches:
    """Spread the rows over ranks and micro-batches, in the order in which they stand."""
    order = StandingOrder(len(rows), _ROWS_AT_ONCE)
    return StepBatches(
        rows=rows,
        order=order,
        first_step=0,
        total_steps=order.steps_per_epoch,
        rank=gang.rank,
        world_size=gang.world_size,
        micro_batch_tokens=micro_batch_tokens,
        task=task,
        is_packed=is_packed,
    )


@torch.no_grad()
def measure(
    model: nn.Module, batches: StepBatches, gang: Gang, *, step: int, class_count: int = 0
) -> EvaluationFigures:
    """Run the model over all rows, without dropout. Every rank calls this, and gets the same figures.

    `class_count` is 0 for language models.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=gang.device)
    confusion = torch.zeros(class_count, class_count, dtype=torch.float64, device=gang.device)
    positions = 0
    for batch in batches:
        positions += batch.learned_tokens
        for rows in batch.micro_batches:
            rows = rows.to(gang.device)
            outputs: LossOutput = model(**rows.model_inputs())
            loss += outputs["position_losses"].double().sum()
            if class_count:
                places = rows.learned.targets * class_count + outputs["predictions"]
                confusion += torch.bincount(places, minlength=class_count**2).view_as(confusion)
    model.train()
    total, *counts = gang.total(float(loss), *confusion.flatten().tolist())
    metrics = class_metrics(torch.tensor(counts).view(class_count, class_count)) if class_count else {}
    return EvaluationFigures(step=step, loss=total / max(1, positions), metrics=metrics)


def class_metrics(confusion: torch.Tensor) -> Mapping[str, float]:
    """Accuracy and F1 averaged over the classes, of a confusion matrix [right, predicted].

    A class that neither stands in the rows nor was predicted counts as 0, as in scikit-learn's macro average.
    """
    hits = confusion.diagonal()
    wrong = confusion.sum(0) + confusion.sum(1) - 2 * hits
    f1 = torch.where(2 * hits + wrong > 0, 2 * hits / (2 * hits + wrong).clamp(min=1), torch.zeros_like(hits))
    return {
        "eval_accuracy": float(hits.sum() / confusion.sum().clamp(min=1)),
        "eval_f1": float(f1.mean()),
    }

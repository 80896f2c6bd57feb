"""What is measured on the validation rows, against scikit-learn and against plain transformers on each row alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from finetune_api.spec import FineTuneJobSpec, Task
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.measuring import class_metrics, lay_out_evaluation, measure
from finetune_trainer.step_figures import EvaluationFigures
from tests.builders.tiny_models import write_model
from tests.matrix.runner import Cell, make_spec, run_cell
from tests.unit.trainer.small_trainer import ALONE, LORA_FACTS, disturb, load_tuned, write_rows_of_sources

LENGTHS = (12, 5, 30, 2, 1, 17, 8, 8, 40, 3)
LABELS = ("no", "yes", "maybe")


# --- figures of classes --------------------------------------------------------------------------------------------


def confusion_of(right: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any], classes: int) -> torch.Tensor:
    confusion = torch.zeros(classes, classes, dtype=torch.float64)
    for wanted, found in zip(right, predicted, strict=True):
        confusion[wanted, found] += 1
    return confusion


@pytest.mark.parametrize(
    ("classes", "in_rows", "in_predictions"),
    [
        pytest.param(2, (0, 1), (0, 1), id="two classes"),
        pytest.param(7, tuple(range(7)), tuple(range(7)), id="seven classes"),
        pytest.param(4, (0, 1, 2), (0, 1, 2, 3), id="a class that no row has"),
        pytest.param(4, (0, 1, 2, 3), (1, 2), id="classes that are never predicted"),
        pytest.param(5, (0, 2), (2, 4), id="classes that are nowhere"),
        pytest.param(3, (0,), (1,), id="all wrong"),
        pytest.param(3, (2,), (2,), id="one class alone, all right"),
    ],
)
@pytest.mark.parametrize("rows", [1, 40])
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(
    classes: int, in_rows: tuple[int, ...], in_predictions: tuple[int, ...], rows: int
) -> None:
    draw = np.random.default_rng(classes * rows)
    for _ in range(20):
        right, predicted = draw.choice(in_rows, rows), draw.choice(in_predictions, rows)
        found = class_metrics(confusion_of(right, predicted, classes))
        f1 = f1_score(right, predicted, labels=range(classes), average="macro", zero_division=0)
        assert found == pytest.approx(
            {"eval_accuracy": accuracy_score(right, predicted), "eval_f1": f1}, rel=1e-12
        )


def test_no_rows_at_all_are_no_error() -> None:
    assert class_metrics(torch.zeros(3, 3)) == {"eval_accuracy": 0.0, "eval_f1": 0.0}


# --- a model's loss ------------------------------------------------------------------------------------------------


def spec_of(task: Task, dropout: float = 0.5, **changes: Any) -> FineTuneJobSpec:
    method = {"type": "LoRA", "lora": {"rank": 4, "dropout": dropout}}
    more = {"task": task.value, "labels": list(LABELS)} if task is Task.SEQUENCE_CLASSIFICATION else {}
    return make_spec(method=method, **more, **changes)


def measured(
    model: nn.Module, rows: PreparedRows, task: Task, *, packs: bool = True, tokens: int = 48
) -> EvaluationFigures:
    batches = lay_out_evaluation(rows, ALONE, micro_batch_tokens=tokens, task=task, is_packed=packs)
    class_count = len(LABELS) if task is Task.SEQUENCE_CLASSIFICATION else 0
    return measure(model, batches, ALONE, step=4, class_count=class_count)


def make_base(folder: Path) -> Path:
    return write_model(folder / "base", "llama")


def write_rows(folder: Path) -> PreparedRows:
    return write_rows_of_sources(folder / "rows", LENGTHS, classes=len(LABELS))


@torch.no_grad()
def test_loss_is_the_mean_over_learned_tokens_of_rows_by_themselves(tmp_path: Path) -> None:
    base, rows = make_base(tmp_path), write_rows(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    losses = []
    for row in range(len(rows)):
        ids = torch.tensor(rows.row_input_ids(row).tolist())
        learned = torch.tensor(rows.row_learned(row).tolist()[1:], dtype=torch.bool)
        logits = plain(input_ids=ids[None]).logits[0, :-1][learned]
        losses.append(cross_entropy(logits, ids[1:][learned], reduction="none"))
    found = measured(load_tuned(base, spec_of(Task.CAUSAL_LM)).model, rows, Task.CAUSAL_LM)
    assert found.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)
    assert (found.step, found.metrics) == (4, {})


@torch.no_grad()
def test_classes_are_those_of_each_rows_last_token(tmp_path: Path) -> None:
    base, rows = make_base(tmp_path), write_rows(tmp_path)
    model = load_tuned(base, spec_of(Task.SEQUENCE_CLASSIFICATION)).model
    disturb(model, spread=0.2)
    # In any row of ours the padding token may stand inside; transformers looks for it to find the last token.
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(LABELS))
    plain.config.pad_token_id = None
    plain.load_state_dict(model.merge_and_unload().state_dict())
    logits = torch.cat(
        [plain(torch.tensor([rows.row_input_ids(row).tolist()])).logits for row in range(len(rows))]
    )
    right = torch.tensor([rows.row_label(row) for row in range(len(rows))])
    predicted = logits.argmax(-1)
    assert 0 < (predicted == right).sum() < len(rows)

    found = measured(model, rows, Task.SEQUENCE_CLASSIFICATION)
    assert found.loss == pytest.approx(float(cross_entropy(logits, right)), rel=1e-5)
    assert found.metrics == pytest.approx(
        {
            "eval_accuracy": accuracy_score(right, predicted),
            "eval_f1": f1_score(right, predicted, labels=range(3), average="macro", zero_division=0),
        }
    )


@pytest.mark.parametrize("task", list(Task))
def test_figures_are_the_same_however_the_rows_are_laid_out(task: Task, tmp_path: Path) -> None:
    base, rows = make_base(tmp_path), write_rows(tmp_path)
    found = []
    for packing in ("Auto", "Disabled"):
        model = load_tuned(base, spec_of(task, training__packing=packing)).model
        disturb(model, spread=0.2)
        found += [measured(model, rows, task, packs=packing == "Auto", tokens=tokens) for tokens in (8, 1000)]
    for other in found[1:]:
        assert other.loss == pytest.approx(found[0].loss, rel=1e-6)
        assert other.metrics == found[0].metrics


def test_dropout_is_off_while_measuring_and_on_again_afterwards(tmp_path: Path) -> None:
    base, rows = make_base(tmp_path), write_rows(tmp_path)
    model = load_tuned(base, spec_of(Task.CAUSAL_LM)).model
    disturb(model, spread=0.2)
    model.train()
    without_dropout = load_tuned(base, spec_of(Task.CAUSAL_LM, dropout=0.0)).model
    disturb(without_dropout, spread=0.2)

    found = [measured(model, rows, Task.CAUSAL_LM).loss for _ in range(2)]
    assert found == [measured(without_dropout, rows, Task.CAUSAL_LM).loss] * 2
    assert all(module.training for module in model.modules())
    assert not any(each.grad is not None for each in model.parameters())


@pytest.mark.parametrize("task", list(Task))
def test_two_ranks_measure_what_one_does(task: Task, tmp_path: Path) -> None:
    write_rows(tmp_path)
    cell = Cell(
        spec=spec_of(task, dropout=0.0, training__learningRate=1e-3, training__globalBatchSize=4),
        model=make_base(tmp_path),
        rows=tmp_path / "rows",
        facts=LORA_FACTS,
        folder=tmp_path,
        steps=2,
        evaluation_rows=tmp_path / "rows",
        evaluation_steps=1,
    )
    one, two = (run_cell(replace(cell, world_size=count)).evaluations for count in (1, 2))
    assert len(one) == 2
    assert one[0] != one[1]
    for first, second in zip(one, two, strict=True):
        assert second == pytest.approx(first, rel=1e-5)

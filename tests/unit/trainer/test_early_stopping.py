"""When a run ends because validation stopped getting better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.spec import EarlyStopping
from finetune_trainer.early_stopping import EarlyStoppingRule, EarlyStoppingState
from finetune_trainer.run_file import MethodFacts
from finetune_trainer.snapshot import load_snapshot
from finetune_trainer.step_figures import EvaluationFigures
from tests.builders.rows import write_prepared_rows
from tests.builders.tiny_models import write_model
from tests.matrix.runner import Cell, make_spec, run_cell


def make_rule(**settings: object) -> EarlyStoppingRule:
    return EarlyStoppingRule(EarlyStopping.model_validate(settings))


def follow(rule: EarlyStoppingRule, values: list[float], metric: str = "loss") -> list[bool]:
    """The answer after each evaluation; steps are counted in tens. The other figures always get better."""
    answers = []
    for number, value in enumerate(values, start=1):
        loss, metrics = 1.0 / number, {"eval_accuracy": 0.01 * number, "eval_f1": 0.01 * number}
        figures = EvaluationFigures(10 * number, loss, metrics)
        figures = (
            replace(figures, loss=value)
            if metric == "loss"
            else replace(figures, metrics={**metrics, metric: value})
        )
        answers.append(rule.note(figures))
    return answers


@pytest.mark.parametrize(
    ("settings", "losses", "ends_after"),
    [
        pytest.param({"patience": 2}, [5, 4, 3, 2], None, id="always better"),
        pytest.param({"patience": 1}, [5, 5], 2, id="no better is not better"),
        pytest.param({"patience": 2}, [5, 6, 4, 5, 6], 5, id="a better one in between begins again"),
        pytest.param({"patience": 3}, [5, 6, 6, 6], 4, id="as often in a row as patience says"),
        pytest.param({"patience": 2}, [5, 6, 5.5, 5.2], 3, id="better than the last is not better than the best"),
        pytest.param({"patience": 1, "minDelta": 0.5}, [5, 4.6], 2, id="by less than minDelta"),
        pytest.param({"patience": 1, "minDelta": 0.5}, [5, 4.5], 2, id="by no more than minDelta"),
        pytest.param({"patience": 1, "minDelta": 0.5}, [5, 4.4, 3.8], None, id="by more than minDelta"),
        pytest.param({"patience": 2, "minDelta": 0.5}, [5, 4.7, 4.4], None, id="small gains add up to the best"),
        pytest.param({"patience": 1}, [5, float("nan")], 2, id="not a number is no improvement"),
        pytest.param({"patience": 2}, [float("nan"), 5, 6, 7], 4, id="any number is better than none"),
    ],
)  # fmt: skip
def test_patience_and_delta(settings: dict[str, object], losses: list[float], ends_after: int | None) -> None:
    answers = follow(make_rule(**settings), losses)
    assert (answers.index(True) + 1 if True in answers else None) == ends_after


@pytest.mark.parametrize(
    ("metric", "figure", "values", "answers"),
    [
        ("ValidationLoss", "loss", [1.0, 0.9, 0.95], [False, False, True]),
        ("Accuracy", "eval_accuracy", [0.5, 0.6, 0.6], [False, False, True]),
        ("F1", "eval_f1", [0.5, 0.6, 0.55], [False, False, True]),
    ],
)
def test_only_the_metric_that_is_named_counts(
    metric: str, figure: str, values: list[float], answers: list[bool]
) -> None:
    assert follow(make_rule(patience=1, metric=metric), values, figure) == answers


def test_state_knows_the_best_and_the_sentence_names_it() -> None:
    rule = make_rule(patience=2, minDelta=0.01)
    follow(rule, [0.5, 0.25, 0.3, 0.26])
    assert rule.state == EarlyStoppingState(
        best=0.25, best_step=20, evaluations_without_improvement=2, has_ended=True
    )
    assert rule.describe() == (
        "ValidationLoss has not improved by more than 0.01 in 2 evaluations: the best was 0.25 after step 20"
    )


def test_state_is_the_same_after_a_checkpoint() -> None:
    rule = make_rule(patience=3)
    follow(rule, [0.5, 0.6])
    saved = EarlyStoppingState.model_validate_json(rule.state.model_dump_json())
    again = EarlyStoppingRule(rule.settings, saved)
    assert follow(again, [0.7, 0.8]) == [False, True]


# --- a real run --------------------------------------------------------------------------------------------------


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    """Nothing improves by a million, so the first evaluation stays the best."""
    stopping = {"patience": 3, "minDelta": 1_000_000}
    write_prepared_rows(tmp_path / "rows", [5, 17, 3, 9, 33, 2])
    return Cell(
        spec=make_spec(
            method={"type": "LoRA", "lora": {"rank": 4}},
            training__earlyStopping=stopping,
            training__globalBatchSize=3,
            training__learningRate=1e-3,
        ),
        model=write_model(tmp_path / "base"),
        rows=tmp_path / "rows",
        facts=MethodFacts(target_modules=("q_proj", "v_proj")),
        folder=tmp_path,
        steps=12,
        evaluation_rows=tmp_path / "rows",
        evaluation_steps=2,
    )


@pytest.mark.parametrize("world_size", [1, 2], ids=["one rank", "two ranks"])
def test_run_ends_at_the_evaluation_that_was_one_too_many(cell: Cell, world_size: int) -> None:
    outcome = run_cell(replace(cell, world_size=world_size))
    assert [evaluation["step"] for evaluation in outcome.evaluations] == [2, 4, 6, 8]
    assert len(outcome.losses) == 8
    assert (cell.folder / "trained" / "adapter_model.safetensors").exists()


def test_a_restarted_run_ends_at_the_same_step(cell: Cell) -> None:
    run_cell(replace(cell, save_after=5))
    state = load_snapshot(cell.folder / "checkpoint").early_stopping
    assert state is not None
    assert (state.best_step, state.evaluations_without_improvement, state.has_ended) == (2, 1, False)
    resumed = run_cell(replace(cell, checkpoint=cell.folder / "checkpoint"))
    assert [evaluation["step"] for evaluation in resumed.evaluations] == [6, 8]
    assert len(resumed.losses) == 3


def test_run_without_the_rule_goes_on_to_the_end_and_evaluates_there(cell: Cell) -> None:
    spec = make_spec(method={"type": "LoRA", "lora": {"rank": 4}}, training__globalBatchSize=3)
    outcome = run_cell(replace(cell, spec=spec, steps=5))
    assert [evaluation["step"] for evaluation in outcome.evaluations] == [2, 4, 5]

"""What is known of a step: losses by source, and which evaluation belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.callbacks.metrics import MetricsLine
from finetune_trainer.data.prepared import PreparedRows
from finetune_trainer.step_figures import (
    EvaluationFigures,
    StepFigures,
    StepMeter,
    loss_by_source,
    name_sources,
)
from tests.unit.trainer.small_trainer import LENGTHS, SmallTrainer, write_rows_of_sources

SOURCES = ("s3://data/a.jsonl", "inline", "hf://tatsu-lab/alpaca")


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        pytest.param([], (), id="none"),
        pytest.param(["a"], ("a",), id="one"),
        pytest.param(["a", "b"], ("a", "b"), id="two"),
        pytest.param(["a", "b", "a"], ("a #1", "b", "a #3"), id="one that stands twice is numbered"),
        pytest.param(["inline", "inline"], ("inline #1", "inline #2"), id="rows in the job itself"),
    ],
)
def test_sources_are_told_apart_by_name(sources: list[str], names: tuple[str, ...]) -> None:
    assert name_sources(sources) == names


@pytest.mark.parametrize(
    ("names", "sums_and_counts", "losses"),
    [
        pytest.param((), (), {}, id="no sources"),
        pytest.param(("a",), (), {}, id="one alone is not told apart"),
        pytest.param(("a", "b"), (6.0, 5.0, 3.0, 10.0), {"a": 2.0, "b": 0.5}, id="sums, then counts"),
        pytest.param(("a", "b"), (6.0, 0.0, 3.0, 0.0), {"a": 2.0}, id="a source without rows has no loss"),
        pytest.param(("a", "b"), (0.0, 4.0, 3.0, 2.0), {"a": 0.0, "b": 2.0}, id="a loss of nothing is one"),
    ],
)
def test_loss_of_each_source(
    names: tuple[str, ...], sums_and_counts: tuple[float, ...], losses: dict[str, float]
) -> None:
    assert loss_by_source(names, sums_and_counts) == losses


def learned_by_source(rows: PreparedRows, chosen: list[int]) -> dict[str, int]:
    counts = dict.fromkeys(SOURCES, 0)
    for row in chosen:
        counts[SOURCES[rows.row_source(row)]] += int(rows.row_learned(row)[1:].sum())
    return counts


def test_losses_of_sources_weighted_by_what_they_teach_are_the_steps_loss(tmp_path: Path) -> None:
    rows = write_rows_of_sources(tmp_path / "rows", LENGTHS, sources=3)
    cell = SmallTrainer(tmp_path, rows=rows, source_names=SOURCES)
    for figures in cell.train():
        counts = learned_by_source(rows, cell.batches.order.rows_of_step(figures.step - 1))
        assert sum(counts.values()) == figures.learned_tokens
        assert set(figures.loss_by_source) == {name for name, count in counts.items() if count}
        weighted = sum(loss * counts[name] for name, loss in figures.loss_by_source.items())
        assert weighted / figures.learned_tokens == pytest.approx(figures.loss, rel=1e-9)


def test_loss_of_a_source_is_that_of_its_own_rows(tmp_path: Path) -> None:
    rows = write_rows_of_sources(tmp_path / "rows", LENGTHS, sources=3)
    cell = SmallTrainer(tmp_path, rows=rows, source_names=SOURCES)
    base = cell.model.get_base_model()
    sums, counts = dict.fromkeys(SOURCES, 0.0), dict.fromkeys(SOURCES, 0)
    for row in cell.batches.order.rows_of_step(0):
        ids = torch.tensor(rows.row_input_ids(row).tolist())
        with torch.no_grad():
            states = base.model(
                input_ids=ids[None], document_lengths=(len(ids),), use_cache=False
            ).last_hidden_state[0]
            logits = base.lm_head(states)
        learned = torch.tensor(rows.row_learned(row).tolist()[1:], dtype=torch.bool)
        source = SOURCES[rows.row_source(row)]
        sums[source] += float(cross_entropy(logits[:-1][learned], ids[1:][learned], reduction="sum"))
        counts[source] += int(learned.sum())
    wanted = {source: sums[source] / counts[source] for source in SOURCES if counts[source]}
    assert cell.train()[0].loss_by_source == pytest.approx(wanted, rel=1e-5)


def test_metrics_name_sources_only_where_there_are_several(tmp_path: Path) -> None:
    for count in (1, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        rows = write_rows_of_sources(folder / "rows", LENGTHS, sources=count)
        cell = SmallTrainer(folder, rows=rows, steps=1, source_names=SOURCES[:count])
        cell.train()
        line = MetricsLine.model_validate_json(cell.metrics.read_text())
        assert (line.loss_by_source is not None) == (count > 1)


def evaluation_of(step: int, evaluation: EvaluationFigures | None) -> EvaluationFigures | None:
    meter = StepMeter()
    meter.newest = StepFigures(step, 0.1, 1.0, 1e-3, 0.5, 10, 5, 0.1, stop_requested=False)
    meter.newest_evaluation = evaluation
    return meter.evaluation_of_step


def test_an_evaluation_belongs_to_the_step_it_followed() -> None:
    evaluation = EvaluationFigures(3, 0.5, {"eval_accuracy": 0.75})
    assert evaluation.as_metrics() == {"eval_loss": 0.5, "eval_accuracy": 0.75}
    assert evaluation_of(3, None) is None
    assert evaluation_of(3, evaluation) == evaluation
    assert evaluation_of(4, evaluation) is None

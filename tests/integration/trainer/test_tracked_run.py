"""A whole run with trackers, evaluation and two sources: what was measured stands in metrics.jsonl and in the trackers."""

from __future__ import annotations

from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.names import Stage
from tests.builders.training_runs import BUCKET, SETTINGS, TrainingRun, make_messages

STEPS = 6
TRACKED = {
    **SETTINGS,
    "training__maxSteps": STEPS,
    "training__evaluationSteps": 3,
    "checkpoints__everySteps": 4,
    "dataset__train": [
        {"source": f"s3://{BUCKET}/rows.jsonl"},
        {"inline": make_messages(9)},
    ],
    "dataset__validation": {"fraction": 0.2},
    "tracking": {"tensorBoard": {}, "swanLab": {"mode": "Offline"}},
}


@pytest.fixture(scope="module")
def tracked(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """The run, to its end."""
    run = TrainingRun(server, tmp_path_factory.mktemp("tracked"), "d0d0d001-0000", TRACKED)
    run.run(Stage.PREPARE)
    run.run(Stage.TRAIN)
    return run


def test_validation_rows_are_measured_when_asked_for(tracked: TrainingRun) -> None:
    measured = {line["step"]: line["eval_loss"] for line in tracked.metrics() if "eval_loss" in line}
    assert sorted(measured) == [3, 6]
    assert measured[6] < measured[3]


def test_losses_are_told_apart_by_source(tracked: TrainingRun) -> None:
    told = [line["loss_by_source"] for line in tracked.metrics()]
    assert {name for losses in told for name in losses} == {f"s3://{BUCKET}/rows.jsonl", "inline"}


def test_trackers_hold_what_metrics_jsonl_says(tracked: TrainingRun, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_uri = tracked.job(Stage.TRAIN).layout.run_uri
    tracked.store.download_folder(f"{run_uri}/tensorboard", tmp_path / "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = tracked.metrics()
    for name in ("loss", "learning_rate", "grad_norm", "eval_loss"):
        written = [(line["step"], line[name]) for line in lines if name in line]
        tag = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in shown] == [step for step, _ in written]
        assert [value for _, value in shown] == pytest.approx([value for _, value in written])
    offline = [info.name for info in tracked.store.list_objects(f"{run_uri}/swanlab")]
    assert any(name.endswith((".swanlab", ".log", ".json", ".yaml")) for name in offline), offline

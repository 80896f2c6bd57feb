"""Trackers are told what metrics.jsonl says, by real libraries without a server, and never stop a run."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from finetune_api import names
from finetune_trainer.callbacks.metrics import MetricsLine
from finetune_trainer.tracker_sessions import Opened, TrackerLost, TrackerSession, open_tracker
from finetune_trainer.trackers import TrackedRun, TrackerPlan
from tests.builders.tracking import (
    Attempt,
    make_line,
    make_run,
    mount_secret,
    name_hosts,
    plan,
    records_of,
    written_lines,
)

Curves = dict[str, list[tuple[int, float]]]
LIBRARIES = ("mlflow", "swanlab", "tensorboard", "wandb")
# As long as W&B wants a key to be.
CANARY = "canary0" * 8


@pytest.fixture(autouse=True)
def own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a rank's process is for the libraries: their variables, and nothing that another test left out."""
    before = dict(os.environ)
    monkeypatch.setattr(names, "CONFIG_DIRECTORY", str(tmp_path / "etc"))
    name_hosts(monkeypatch)
    for name in LIBRARIES:
        if name in sys.modules and sys.modules[name] is None:
            monkeypatch.delitem(sys.modules, name)
    yield
    os.environ.clear()
    os.environ.update(before)


def tensor_board(run: TrackedRun, folder: Path) -> TrackerPlan:
    return plan({"tensorBoard": {}}, run, folder)


def swan_lab(run: TrackedRun, folder: Path) -> TrackerPlan:
    return plan({"swanLab": {"mode": "Offline"}}, run, folder)


def mlflow(run: TrackedRun, folder: Path) -> TrackerPlan:
    """With a folder instead of a server."""
    planned = plan(
        {"mlflow": {"uri": "https://mlflow.example.com", "secretRef": {"name": "mlflow"}}}, run, folder
    )
    local = {"MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    return replace(planned, uri=None, environment={**planned.environment, **local})


def wandb(run: TrackedRun, folder: Path) -> TrackerPlan:
    """With W&B's own files instead of a server."""
    planned = plan({"wandb": {"secretRef": {"name": "wandb"}}}, run, folder)
    return replace(planned, environment={**planned.environment, "WANDB_MODE": "offline"})


def mount_keys() -> None:
    mount_secret("mlflow", {"MLFLOW_TRACKING_TOKEN": CANARY})
    mount_secret("wandb", {"WANDB_API_KEY": CANARY})


def board_curves(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def swan_curves(folder: Path) -> Curves:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    curves: Curves = {}
    for path in sorted((folder / "swanlab").rglob("*.swanlab")):
        for record in records_of(path, Record, b":SWL"):
            if record.HasField("scalar"):
                curves.setdefault(record.scalar.key, []).append(
                    (record.scalar.step, record.scalar.value.number)
                )
    return curves


def mlflow_curves(folder: Path) -> Curves:
    from mlflow import MlflowClient

    client = MlflowClient((folder / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("finetune").experiment_id])
    return {
        key: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


def wandb_curves(folder: Path) -> Curves:
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = {}
    for path in sorted((folder / "wandb").rglob("*.wandb")):
        for record in records_of(path, Record, b":W&B"):
            if record.HasField("history"):
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for key, value in row.items():
                    curves.setdefault(key, []).append((row["train/global_step"], value))
    return curves


def expected_curves(metrics: Path, prefix: str) -> Curves:
    return {f"{prefix}{name}": points for name, points in written_lines(metrics).items()}


def assert_equal_curves(found: Curves, expected: Curves) -> None:
    """Every metric of metrics.jsonl, at every step once; TensorBoard keeps 32 bits."""
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points]), name


READERS: dict[str, tuple[Any, Any, str]] = {
    "TensorBoard": (tensor_board, board_curves, "train/"),
    "SwanLab": (swan_lab, swan_curves, "train/"),
    "MLflow": (mlflow, mlflow_curves, ""),
    "W&B": (wandb, wandb_curves, "train/"),
}


@pytest.mark.parametrize("tracker", READERS)
def test_a_tracker_shows_every_metric_of_every_step(tracker: str, tmp_path: Path) -> None:
    make_plan, read, prefix = READERS[tracker]
    mount_keys()
    run, metrics = make_run(), tmp_path / "metrics.jsonl"
    attempt = Attempt(metrics, [make_plan(run, tmp_path)], run, close_seconds=300)
    attempt.begin()
    attempt.step(1)
    step_with_evaluation(attempt, 2, {"eval_loss": 2.5, "eval_accuracy": 0.75, "eval_f1": 0.5})
    attempt.step(3)
    attempt.end()

    curves = read(tmp_path)
    assert_equal_curves(curves, expected_curves(metrics, prefix))
    evaluated = "eval_" if tracker == "MLflow" else "eval/"
    assert {name: curves[f"{evaluated}{name}"] for name in ("loss", "accuracy", "f1")} == {
        "loss": [(2, 2.5)],
        "accuracy": [(2, 0.75)],
        "f1": [(2, 0.5)],
    }


def step_with_evaluation(attempt: Attempt, number: int, evaluation: Mapping[str, float]) -> None:
    """A step that validation rows were looked at after: MetricsCallback writes both into the step's line."""
    with attempt.metrics.open("a") as file:
        file.write(MetricsLine(**make_line(number), **evaluation).model_dump_json(exclude_none=True) + "\n")
    attempt.callback.on_step_end(cast(TrainingArguments, None), TrainerState(), TrainerControl())


@pytest.mark.parametrize("tracker", ["TensorBoard", "SwanLab", "MLflow"])
def test_an_attempt_goes_on_with_the_run_of_the_one_before_it(tracker: str, tmp_path: Path) -> None:
    """The first stops after its third step as told; the second starts from a checkpoint of the third, and fails after
    the fifth; the third starts from there, and its parameters are other ones."""
    make_plan, read, prefix = READERS[tracker]
    mount_keys()
    metrics = tmp_path / "metrics.jsonl"
    for number, first, last, finishes in ((1, 0, 3, True), (2, 3, 5, False), (3, 5, 7, True)):
        run = make_run(number, first, **{"training.microBatchTokens": 100 * number})
        attempt = Attempt(metrics, [make_plan(run, tmp_path)], run, stops=number == 1, close_seconds=300)
        attempt.begin()
        for step in range(first + 1, last + 1):
            attempt.step(step)
        attempt.end() if finishes else attempt.callback.close(is_done=False)

    assert_equal_curves(read(tmp_path), expected_curves(metrics, prefix))


@pytest.mark.parametrize("tracker", ["TensorBoard", "MLflow"])
def test_steps_after_the_checkpoint_are_not_shown_twice(tracker: str, tmp_path: Path) -> None:
    make_plan, read, prefix = READERS[tracker]
    mount_keys()
    metrics = tmp_path / "metrics.jsonl"
    first, second = make_run(), make_run(attempt=2, first_step=2)
    Attempt(metrics, [make_plan(first, tmp_path)], first, close_seconds=300).train(1, 2, 3, 4)
    Attempt(metrics, [make_plan(second, tmp_path)], second, close_seconds=300).train(3, 4, 5)

    loss = f"{prefix}loss"
    curves = read(tmp_path)
    assert [step for step, _ in curves[loss]] == [1, 2, 3, 4, 5]
    assert_equal_curves(curves, {loss: expected_curves(metrics, prefix)[loss]})


def test_a_tracker_that_comes_later_gets_the_steps_before_it(tmp_path: Path) -> None:
    mount_keys()
    metrics = tmp_path / "metrics.jsonl"
    Attempt(metrics, [], make_run()).train(1, 2)
    run = make_run(attempt=2, first_step=2)
    Attempt(metrics, [mlflow(run, tmp_path)], run, close_seconds=300).train(3)

    assert_equal_curves(mlflow_curves(tmp_path), expected_curves(metrics, ""))


def test_files_hold_every_step_when_they_are_settled(tmp_path: Path) -> None:
    run = make_run()
    attempt = Attempt(tmp_path / "metrics.jsonl", [tensor_board(run, tmp_path)], run, close_seconds=300)
    attempt.begin()
    attempt.step(1)
    attempt.step(2)
    attempt.callback.settle()

    assert [step for step, _ in board_curves(tmp_path)["train/loss"]] == [1, 2]
    attempt.end()


def test_mlflow_shows_settings_and_outcome(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    mount_keys()
    metrics = tmp_path / "metrics.jsonl"
    states = []
    for number, is_stopped in ((1, True), (2, False)):
        run = make_run(number, number - 1)
        Attempt(metrics, [mlflow(run, tmp_path)], run, stops=is_stopped, close_seconds=300).train(number)
        client = MlflowClient((tmp_path / "mlruns").as_uri())
        (shown,) = client.search_runs([client.get_experiment_by_name("finetune").experiment_id])
        states.append((shown.info.status, shown.data.tags["finetune.dev/attempt"]))

    assert states == [("FAILED", "1"), ("FINISHED", "2")]
    assert shown.info.run_name == "tidy"
    assert shown.data.params == {"training.learningRate": "0.1"}


def test_the_key_stands_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    mount_keys()
    run = make_run()
    plans = [make_plan(run, tmp_path / "tracking") for make_plan, _, _ in READERS.values()]
    Attempt(tmp_path / "metrics.jsonl", plans, run, close_seconds=300).train(1)

    written = [path for path in (tmp_path / "tracking").rglob("*") if path.is_file()]
    assert len(written) > len(READERS)
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
    printed = capfd.readouterr()
    assert CANARY not in caplog.text + printed.out + printed.err


# --- trackers that fail ----------------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "finetune_trainer.tracker_worker"]


def test_a_server_that_cannot_be_reached_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run()
    planned = plan({"mlflow": {"uri": "http://127.0.0.1:9"}}, run, tmp_path)
    impatient = replace(planned, environment={**planned.environment, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    plans = [impatient, tensor_board(run, tmp_path)]
    Attempt(tmp_path / "metrics.jsonl", plans, run, close_seconds=300).train(1, 2)

    (warning,) = warnings_of(caplog)
    assert warning.startswith("tracking.mlflow: ")
    assert "127.0.0.1" in warning
    assert warning.endswith("The run goes on without it.")
    assert [step for step, _ in board_curves(tmp_path)["train/loss"]] == [1, 2]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a Secret that is not there": (
        {"wandb": {"secretRef": {"name": "none"}}},
        "Secret 'none' of spec.tracking.wandb.secretRef is not mounted",
    ),
    "an address that serves a node's credentials": (
        {"mlflow": {"uri": "http://169.254.169.254/latest"}},
        "spec.tracking.mlflow.uri http://169.254.169.254/latest points at 169.254.169.254",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tracker_that_cannot_be_opened_says_why(case: str, tmp_path: Path) -> None:
    tracking, words = REFUSED[case]
    run = make_run()

    with pytest.raises(TrackerLost, match=words.replace(".", r"\.")):
        open_tracker(plan(tracking, run, tmp_path), run)


class Scripted:
    """A transformers callback and its library that do what a test says."""

    def __init__(
        self,
        recorded_step: int = 0,
        fails_at: int | None = None,
        waits_for: threading.Event | None = None,
    ) -> None:
        self.steps: list[int] = []
        self.ended: list[bool] = []
        self._recorded_step = recorded_step
        self._fails_at = fails_at
        self._waits_for = waits_for

    def on_train_begin(self, *given: Any, **kwargs: Any) -> None:
        if self._waits_for is not None:
            self._waits_for.wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float]) -> None:
        if state.global_step == self._fails_at:
            raise ConnectionError(f"quota of {CANARY}\nexceeded")
        self.steps.append(state.global_step)

    def open(self, planned: TrackerPlan, run: TrackedRun) -> TrackerSession:
        opened = Opened(cast(Any, self), {}, self._recorded_step, self.ended.append)
        session = TrackerSession(opened, run, {"WANDB_API_KEY": CANARY})
        session.begin()
        return session


def test_a_tracker_that_raises_is_dropped_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = Scripted(fails_at=2)
    run, metrics = make_run(), tmp_path / "metrics.jsonl"
    plans = [plan({"wandb": {}}, run, tmp_path)]
    Attempt(metrics, plans, run, open_session=library.open, close_seconds=300).train(1, 2, 3, 4)

    assert library.steps == [1]
    assert warnings_of(caplog) == [
        "tracking.wandb: ConnectionError: quota of <WANDB_API_KEY> exceeded. The run goes on without it."
    ]
    assert len(written_lines(metrics)["loss"]) == 4


def test_a_tracker_that_hangs_keeps_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    never = threading.Event()
    library = Scripted(waits_for=never)
    run = make_run()
    plans = [plan({"wandb": {}}, run, tmp_path)]
    attempt = Attempt(tmp_path / "metrics.jsonl", plans, run, open_session=library.open, close_seconds=0.1)
    attempt.train(1, 2)

    assert ["did not take everything in time" in each for each in warnings_of(caplog)] == [True]
    never.set()


def test_a_server_is_sent_only_the_steps_that_it_lacks(tmp_path: Path) -> None:
    """Its newest may be after the checkpoint, or before it, where a killed pod had not sent everything."""
    library = Scripted(recorded_step=2)
    metrics = tmp_path / "metrics.jsonl"
    Attempt(metrics, [], make_run()).train(1, 2, 3, 4)
    run = make_run(attempt=2, first_step=4)
    plans = [plan({"wandb": {}}, run, tmp_path)]
    Attempt(metrics, plans, run, open_session=library.open, close_seconds=300).train(5, 6)

    assert library.steps == [3, 4, 5, 6]


def test_only_the_first_close_counts(tmp_path: Path) -> None:
    library = Scripted()
    run = make_run()
    plans = [plan({"wandb": {}}, run, tmp_path)]
    attempt = Attempt(tmp_path / "metrics.jsonl", plans, run, open_session=library.open, close_seconds=300)
    attempt.train(1)
    attempt.callback.close(is_done=False)

    assert library.ended == [True]


def test_an_attempt_that_never_began_is_closed(tmp_path: Path) -> None:
    library = Scripted()
    plans = [plan({"wandb": {}}, make_run(), tmp_path)]
    attempt = Attempt(tmp_path / "metrics.jsonl", plans, make_run(), open_session=library.open)
    attempt.callback.close(is_done=False)

    assert library.ended == []

"""Runs that are tracked: metrics.jsonl as attempts leave it, secrets as the kubelet mounts them, readers of the files."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec, Tracking
from finetune_trainer.callbacks.tracking import TrackingCallback
from finetune_trainer.step_figures import StepMeter
from finetune_trainer.trackers import TrackedRun, TrackerPlan, decide_trackers
from tests.builders.jobs import make_manifest

FIGURES = ("epoch", "loss", "learning_rate", "grad_norm", "learned_tokens", "tokens", "seconds", "attempt")


def make_spec(**changes: Any) -> FineTuneJobSpec:
    """A job's spec; `changes` as in make_manifest."""
    return FineTuneJobSpec.model_validate(make_manifest(**changes)["spec"])


def make_run(attempt: int = 1, first_step: int = 0, **settings: Any) -> TrackedRun:
    """The identity of an attempt."""
    return TrackedRun(
        "tidy", "tidy-01234567", attempt, first_step, {"training.learningRate": 0.1, **settings}
    )


def plan(tracking: dict[str, Any], run: TrackedRun, directory: Path) -> TrackerPlan:
    """The plan of the only tracker in a tracking block."""
    (only,) = decide_trackers(Tracking.model_validate(tracking), run, directory)
    return only


def make_line(step: int, attempt: int = 1) -> dict[str, float]:
    """A line of metrics.jsonl."""
    return {
        "step": step,
        "epoch": step / 4,
        "loss": 3 / step,
        "learning_rate": 1e-4 * step,
        "grad_norm": 0.25 * step,
        "learned_tokens": 100 + step,
        "tokens": 120 + step,
        "seconds": 0.5,
        "attempt": attempt,
    }


def mount_secret(name: str, keys: dict[str, str]) -> None:
    """Put a Secret where the pod finds it; names.CONFIG_DIRECTORY is the test's own."""
    directory = Path(names.credentials_directory(name))
    directory.mkdir(parents=True)
    for key, value in keys.items():
        (directory / key).write_text(value + "\n", encoding="utf-8")


class Attempt:
    """What Trainer does to the callback: an attempt over the same metrics.jsonl as the ones before it."""

    def __init__(
        self, metrics: Path, plans: list[TrackerPlan], run: TrackedRun, *, stops: bool = False, **options: Any
    ) -> None:
        self.run = run
        self.metrics = metrics
        meter = cast(StepMeter, SimpleNamespace(figures=SimpleNamespace(stop_requested=stops)))
        self.callback = TrackingCallback(plans, run, metrics, meter, **options)
        self._given = (cast(TrainingArguments, None), TrainerState(), TrainerControl())

    def begin(self) -> None:
        """Go back to the checkpoint, as the launcher does, and begin."""
        lines = self.metrics.read_text().splitlines()[: self.run.first_step] if self.metrics.exists() else []
        self.metrics.write_text("".join(f"{line}\n" for line in lines))
        self.callback.on_train_begin(*self._given)

    def step(self, number: int) -> None:
        """Do a step."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(make_line(number, self.run.attempt)) + "\n")
        self.callback.on_step_end(*self._given)

    def end(self) -> None:
        """End the loop."""
        self.callback.on_train_end(*self._given)

    def train(self, *steps: int) -> None:
        """The whole attempt."""
        self.begin()
        for number in steps:
            self.step(number)
        self.end()


def name_hosts(patch: pytest.MonkeyPatch) -> None:
    """Every event file comes from a pod of its own: readers sort them by second and host, and a test is fast."""
    numbers = itertools.count()
    patch.setattr(socket, "gethostname", lambda: f"pod-{next(numbers):04d}")


def written_lines(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl as curves."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {name: [(line["step"], line[name]) for line in lines] for name in FIGURES}


def records_of(path: Path, record: Any, header: bytes) -> Iterator[Any]:
    """The records of a run's file of SwanLab or W&B, both in LevelDB's format of logs."""
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    class Reader(DataStoreReader):  # type: ignore[misc] # swanlab is not typed for mypy
        def _read_header(self) -> None:
            assert self._fp.read(7)[: len(header)] == header
            self._index += 7

    reader = Reader()
    reader.open(path)
    for data in reader:
        yield record.FromString(data)

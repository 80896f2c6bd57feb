"""How tests look at finished runs, and a run of training inside the test's own process."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_trainer.trained import download_trained
from tests.builders.training_runs import TrainingRun


def assert_equal_metrics(run: TrainingRun, reference: TrainingRun) -> None:
    ours, theirs = ([_exact(line) for line in each.metrics()] for each in (run, reference))
    pairs = zip(ours, theirs, strict=True)
    assert [(one, other) for one, other in pairs if one != other] == []


def adapter_digest(run: TrainingRun, folder: Path) -> str:
    download_trained(run.store, run.job(Stage.TRAIN).layout, folder)
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Ending:
    """What must not depend on interruptions: the figures of every step, and the trained files by their SHA-256."""

    figures: list[dict[str, Any]]
    digests: dict[str, str]


def ending_of(run: TrainingRun) -> Ending:
    layout = run.job(Stage.TRAIN).layout
    with tempfile.TemporaryDirectory() as folder:
        download_trained(run.store, layout, Path(folder))
        # Where the last checkpoint stands is told there, and that is another folder for each incarnation.
        files = [path for path in sorted(Path(folder).iterdir()) if path.name != "training.json"]
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return Ending([_exact(line) for line in run.metrics()], digests)


def _exact(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "attempt")}


def train_here(run: TrainingRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    from finetune_trainer import launcher
    from finetune_trainer.placement import decide_placement
    from finetune_trainer.stop_request import StopRequest
    from finetune_trainer.train import train
    from finetune_trainer.uploader import Uploader
    from finetune_trainer.work_directory import WorkDirectory

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work, job = WorkDirectory(folder / "work"), run.job(Stage.TRAIN)
    work.root.mkdir()
    work.clear_messages()
    launcher.lay_out(job, work, run.store, decide_placement(job.spec.parallelism))
    uploader = threading.Thread(target=Uploader(run.store, job.layout, work.spool).run)
    uploader.start()
    try:
        train(job, work, StopRequest())
    finally:
        work.spool.close()
        uploader.join()
    return [json.loads(line) for line in work.metrics.read_text().splitlines()]

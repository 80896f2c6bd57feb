"""How tests look at finished runs, and a run of training inside the test's own process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import Stage
from finetune_trainer.trained import download_trained
from tests.builders.training_runs import TrainingRun


def assert_equal_metrics(run: TrainingRun, reference: TrainingRun) -> None:
    def exact(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k not in ("seconds", "attempt")} for line in lines]

    pairs = zip(exact(run.metrics()), exact(reference.metrics()), strict=True)
    assert [(one, other) for one, other in pairs if one != other] == []


def adapter_digest(run: TrainingRun, folder: Path) -> str:
    download_trained(run.store, run.job(Stage.TRAIN).layout, folder)
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def train_here(run: TrainingRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    from finetune_trainer import launcher
    from finetune_trainer.placement import decide_placement
    from finetune_trainer.stop_request import StopRequest
    from finetune_trainer.train import train
    from finetune_trainer.work_directory import WorkDirectory

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    work, job = WorkDirectory(folder / "work"), run.job(Stage.TRAIN)
    work.root.mkdir()
    work.clear_messages()
    launcher.lay_out(job, work, run.store, decide_placement(job.spec.parallelism))
    train(job, work, StopRequest())
    return [json.loads(line) for line in work.metrics.read_text().splitlines()]

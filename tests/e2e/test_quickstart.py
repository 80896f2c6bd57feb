"""The quickstart's way, step by step as `make quickstart` goes it: the tuned model answers requests it never saw."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples.quickstart import answers, base_model, run
from examples.quickstart.environment import Environment


def test_the_quickstart_takes_the_model_from_chance_to_over_85_percent(
    environment: Environment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = base_model.ensure_base_model()
    run.upload_inputs(environment.store, base)
    capfd.readouterr()
    run.submit(environment)
    run.follow(environment)
    watched = capfd.readouterr().out
    run.pull(environment, tmp_path / "model")

    comparison = answers.compare(base, tmp_path / "model")

    rows = re.findall(r"Training +base +LoRA +cpu +(\d+)/\d+ +([\d.]+) +(\w+)", watched)
    steps, losses, etas = (set(column) for column in zip(*rows, strict=True))
    assert min(len(steps), len(losses), len(etas)) >= 3, "step, loss and ETA move while one watches"
    assert comparison.accuracy_before <= 0.2
    assert comparison.accuracy_after >= 0.85

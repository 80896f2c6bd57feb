"""A run goes on with another number of processes: the same rows in each step, and losses as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devcluster import S3Server
from finetune_api.names import Stage
from tests.builders.forked_pods import ForkedPods, slow_steps
from tests.builders.training_runs import SETTINGS, TrainingRun

STEPS = 16
# Without dropout, whose random numbers belong to a rank.
CHANGES = {**SETTINGS, "training__maxSteps": STEPS, "method__lora": {"rank": 4}}


def by(world_size: int, strategy: str) -> dict[str, Any]:
    """The job as so many processes run it; gpusPerNode 0 is a single one."""
    return {
        **CHANGES,
        "parallelism__gpusPerNode": 0 if world_size == 1 else world_size,
        "parallelism__strategy": strategy,
    }


@pytest.mark.parametrize("strategy", ["DDP", "ZeRO2"])
def test_a_run_goes_on_with_another_number_of_processes(
    strategy: str, server: S3Server, tmp_path: Path
) -> None:
    uid = f"05050{'1' if strategy == 'DDP' else '2'}00-0000"
    run = TrainingRun(server, tmp_path, uid, by(2, strategy), pods=ForkedPods())
    run.run(Stage.PREPARE)
    run.run(Stage.TRAIN)
    unbroken = run.metrics()
    for before, after in ((2, 1), (1, 2)):
        run.start_over()
        run.changes, run.pods = by(before, strategy), ForkedPods(slow_steps(0.1))
        killed = run.start(Stage.TRAIN)
        killed.wait_for_checkpoint()
        killed.kill()
        run.changes, run.pods = by(after, strategy), ForkedPods()
        last = run.run(Stage.TRAIN)
        assert 0 < last.resumed_step() < STEPS
        assert f"the checkpoint was taken by {before} cpu ranks, this attempt has {after}" in last.log
        assert rows_of(run.metrics()) == rows_of(unbroken)
        assert losses_of(run.metrics()) == pytest.approx(losses_of(unbroken), abs=1e-4)


def rows_of(metrics: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """What tells the rows of a step from those of another."""
    return [(line["step"], line["tokens"], line["learned_tokens"]) for line in metrics]


def losses_of(metrics: list[dict[str, Any]]) -> list[float]:
    """Of every step."""
    return [line["loss"] for line in metrics]

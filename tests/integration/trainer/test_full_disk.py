"""Fault F29: the pod's own disk is full or cannot be written to. The message says what to raise; no half is committed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_WORK_DIRECTORY, Stage
from finetune_trainer.checkpoints import find_newest_checkpoint
from tests.builders.checkpoints import committed_steps
from tests.builders.forked_pods import ForkedPods, slow_steps
from tests.builders.training_runs import SETTINGS, StageProcess, TrainingRun
from tests.integration.trainer.runs import Ending, ending_of

STEPS = 16
SAVING = {**SETTINGS, "training__maxSteps": STEPS}
MIB = 1024**2
REMEDY = "raise spec.resources.ephemeralStorage"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


@pytest.fixture(scope="module")
def prepared(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, Ending]:
    """A run, and how it ends where there is room."""
    run = TrainingRun(server, tmp_path_factory.mktemp("disk"), "f29f2901-0000", SAVING, pods=ForkedPods())
    run.run(Stage.PREPARE)
    run.run(Stage.TRAIN)
    return run, ending_of(run)


@pytest.fixture
def run(prepared: tuple[TrainingRun, Ending]) -> TrainingRun:
    """The run, not begun."""
    run, _ = prepared
    run.start_over()
    run.pods = ForkedPods(slow_steps(0.1))
    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def without_memory() -> None:
    """For ranks: the pod's memory is used up, so that snapshots go through its disk."""
    from finetune_trainer import checkpoint_saver

    patch.object(checkpoint_saver, "available_memory_bytes", lambda: 0).start()
    slow_steps(0.1)()


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


def start(run: TrainingRun, disk: Path) -> StageProcess:
    """A pod whose working folder is on the small disk."""
    return run.start(Stage.TRAIN, **{ENV_WORK_DIRECTORY: str(disk / "work")})


def assert_ends_for_want_of_a_disk(process: StageProcess) -> None:
    assert process.wait() == ExitCode.STORAGE_UNAVAILABLE, process.log
    message = process.message
    assert message.reason == "StorageUnavailable"
    assert REMEDY in message.message


def assert_next_attempt_ends_well(run: TrainingRun, unbroken: Ending) -> None:
    layout = run.job(Stage.TRAIN).layout
    newest = find_newest_checkpoint(run.store, layout)
    saved = committed_steps(run.store, layout)
    assert (newest.manifest.step if newest.manifest else None) == (saved[-1] if saved else None)
    run.pods = ForkedPods()
    run.run(Stage.TRAIN)
    assert ending_of(run) == unbroken


@pytest.mark.parametrize(
    "in_rank",
    [
        pytest.param(slow_steps(0.1), id="snapshots in memory"),
        pytest.param(without_memory, id="snapshots on the disk"),
    ],
)
def test_a_disk_that_fills_up_while_a_run_trains(
    in_rank: object, run: TrainingRun, disk: Path, prepared: tuple[TrainingRun, Ending]
) -> None:
    assert callable(in_rank)
    run.pods = ForkedPods(in_rank)
    process = start(run, disk)
    process.wait_for_checkpoint()
    fill(disk)
    assert_ends_for_want_of_a_disk(process)
    assert_next_attempt_ends_well(run, prepared[1])


def test_a_disk_too_small_for_what_a_pod_brings(
    run: TrainingRun, disk: Path, prepared: tuple[TrainingRun, Ending]
) -> None:
    fill(disk)
    (disk / "filler").open("r+b").truncate((disk / "filler").stat().st_size - 64 * 1024)
    assert_ends_for_want_of_a_disk(start(run, disk))
    assert_next_attempt_ends_well(run, prepared[1])


def test_a_disk_too_small_for_the_snapshots(
    run: TrainingRun, disk: Path, prepared: tuple[TrainingRun, Ending]
) -> None:
    """The buffers are laid out after the first step."""
    run.pods = ForkedPods(without_memory)
    process = start(run, disk)
    process.wait_for_log("starting from step 0")
    fill(disk)
    assert_ends_for_want_of_a_disk(process)
    assert_next_attempt_ends_well(run, prepared[1])


def test_a_disk_that_can_no_longer_be_written_to(
    run: TrainingRun, disk: Path, prepared: tuple[TrainingRun, Ending]
) -> None:
    process = start(run, disk)
    process.wait_for_checkpoint()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert_ends_for_want_of_a_disk(process)
    assert_next_attempt_ends_well(run, prepared[1])

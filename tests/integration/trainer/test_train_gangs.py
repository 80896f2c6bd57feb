"""Training in two pods at once: real launchers, real ranks, gloo over loopback, a real S3 server."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.names import Stage
from finetune_trainer.checkpoints import find_newest_checkpoint
from finetune_trainer.claims import load_claims
from tests.builders.training_runs import SETTINGS, StageProcess, TrainingRun
from tests.integration.trainer.runs import adapter_digest, assert_equal_metrics, train_here

STEPS = 16
TWO_PODS = {
    **SETTINGS,
    "training__maxSteps": STEPS,
    "method__lora": {"rank": 4},
    "parallelism__nodes": 2,
}


@pytest.fixture(scope="module")
def finished_gang(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run of two pods that nothing interrupted."""
    run = TrainingRun(server, tmp_path_factory.mktemp("gang"), "0a0a0a01-0000", TWO_PODS)
    run.run(Stage.PREPARE)
    first, second = end_well(run.start_gang(2))
    assert first.message.trained is not None
    assert (second.message.reason, second.message.trained) == ("Trained", None)
    return run


def test_two_pods_compute_the_losses_of_one_process(
    finished_gang: TrainingRun, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = TrainingRun(server, tmp_path, "0a0a0a02-0000", {**TWO_PODS, "parallelism__nodes": 1})
    one.run(Stage.PREPARE)
    losses = [line["loss"] for line in train_here(one, tmp_path, monkeypatch)]
    assert losses == pytest.approx([line["loss"] for line in finished_gang.metrics()], rel=1e-5)


def test_only_the_first_pod_claims_the_run(finished_gang: TrainingRun) -> None:
    claims = load_claims(finished_gang.store, finished_gang.job(Stage.TRAIN).layout)
    assert claims.newest == 1 and len(claims.tokens[1]) == 1
    assert claims.starts == {1: 0}


def test_a_gang_that_is_told_to_go_or_loses_a_pod_goes_on_exactly(
    finished_gang: TrainingRun, server: S3Server, tmp_path: Path
) -> None:
    run = TrainingRun(server, tmp_path, "0a0a0a03-0000", TWO_PODS)
    run.run(Stage.PREPARE)

    told = run.start_gang(2)
    told[0].wait_for_steps(5)
    for pod in told:
        pod.terminate()
    assert [pod.wait() for pod in told] == [ExitCode.PREEMPTED] * 2, told[1].log
    saved = told[0].message.step
    assert saved is not None and 5 <= saved < STEPS
    assert told[1].message.step == saved
    newest = find_newest_checkpoint(run.store, run.job(Stage.TRAIN).layout).manifest
    assert newest is not None and (newest.step, newest.world_size) == (saved, 2)

    bereft = run.start_gang(2)
    bereft[0].wait_for_steps(saved + 2)
    bereft[1].kill()
    lost_at = time.monotonic()
    assert bereft[0].wait() == 1, bereft[0].log
    assert time.monotonic() - lost_at < 30
    message = bereft[0].message
    assert (message.reason, message.rank) == ("Unknown", 0)
    assert "lost another rank" in message.message
    assert f"resuming from step {saved} (newest valid checkpoint" in bereft[0].log
    assert f"fetching the checkpoint of step {saved}, which rank 0 goes on from" in bereft[1].log

    end_well(run.start_gang(2))
    assert_equal_metrics(run, finished_gang)
    assert adapter_digest(run, tmp_path / "a") == adapter_digest(finished_gang, tmp_path / "b")


def test_a_first_pod_that_is_lost_before_the_first_step_ends_the_others_too(
    server: S3Server, tmp_path: Path
) -> None:
    """Nothing is waited for that can no longer come."""
    run = TrainingRun(server, tmp_path, "0a0a0a04-0000", TWO_PODS)
    run.run(Stage.PREPARE)
    pods = run.start_gang(2)
    for pod in pods:
        pod.wait_for_log("all have met")
    pods[0].kill()
    lost_at = time.monotonic()
    assert pods[1].wait() == 1, pods[1].log
    assert time.monotonic() - lost_at < 30


def end_well(pods: list[StageProcess]) -> list[StageProcess]:
    assert [pod.wait() for pod in pods] == [0] * len(pods), "\n".join(pod.log for pod in pods)
    return pods

"""Bar B-7 and faults F20, F21, F23: what is lost when a pod is told to go, is killed, loses a rank, or has a double."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from benchmarks.bars import Bar, Figure
from benchmarks.faults import record
from devcluster import S3Server
from finetune_api.exit_codes import ExitCode
from finetune_api.names import ENV_GRACE_SECONDS, Stage
from finetune_trainer.checkpoints import find_newest_checkpoint
from finetune_trainer.claims import load_claims
from tests.builders.deadlines import wait_until
from tests.builders.forked_pods import ForkedPods, slow_steps
from tests.builders.training_runs import SETTINGS, StageProcess, TrainingRun
from tests.integration.trainer.runs import Ending, ending_of
from tests.stand_ins.s3_proxy import S3Proxy, requests

STEPS, INTERVAL = 24, 3
GRACE_SECONDS = 30
SHORT_GRACE_SECONDS = 2
LONG_LOOP = 10
SAVING = {**SETTINGS, "training__maxSteps": STEPS, "checkpoints__everySteps": INTERVAL}
TWO_RANKS = {**SAVING, "parallelism__gpusPerNode": 2}
# Longer than a save takes, and long enough to act between two steps.
UNHURRIED = ForkedPods(slow_steps(0.7))
QUICK = ForkedPods(slow_steps(0.1))


@pytest.fixture(scope="module")
def prepared(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, Ending]:
    """A run of one rank, and how it ends where nothing happens."""
    run = TrainingRun(server, tmp_path_factory.mktemp("lost"), "b7b7b701-0000", SAVING, pods=ForkedPods())
    run.run(Stage.PREPARE)
    run.run(Stage.TRAIN)
    return run, ending_of(run)


@pytest.fixture
def run(prepared: tuple[TrainingRun, Ending]) -> TrainingRun:
    """The run, not begun."""
    run, _ = prepared
    run.start_over()
    run.pods = QUICK
    return run


@pytest.fixture
def unbroken(prepared: tuple[TrainingRun, Ending]) -> Ending:
    """How it has to end."""
    return prepared[1]


def saved_step(run: TrainingRun) -> int:
    """The step that the next attempt goes on from; 0 where there is none."""
    newest = find_newest_checkpoint(run.store, run.job(Stage.TRAIN).layout).manifest
    return newest.step if newest else 0


def lost_on_sigterm(run: TrainingRun, after_steps: int) -> int:
    """Tell a pod to go, and return how many of its steps the next one takes again."""
    process = run.start(Stage.TRAIN, **{ENV_GRACE_SECONDS: str(GRACE_SECONDS)})
    process.wait_for_steps(after_steps)
    assert end_within(process, GRACE_SECONDS) == ExitCode.PREEMPTED, process.log
    assert process.message.step == process.steps()
    return process.steps() - saved_step(run)


def lost_on_sigkill(run: TrainingRun, after_steps: int) -> int:
    """Kill a pod, and return how many of its steps the next one takes again."""
    process = run.start(Stage.TRAIN)
    process.wait_for_steps(after_steps)
    process.kill()
    return process.steps() - saved_step(run)


def end_within(process: StageProcess, grace_seconds: float) -> int:
    """Do as the kubelet does: SIGTERM, and SIGKILL when the grace is over. The exit code."""
    process.terminate()
    try:
        return process.process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.process.wait(10)


def ends_as(run: TrainingRun, unbroken: Ending) -> StageProcess:
    """Let the next attempt end, which must come to the same result."""
    run.pods = ForkedPods()
    last = run.run(Stage.TRAIN)
    assert ending_of(run) == unbroken
    return last


# --- B-7 -------------------------------------------------------------------------------------------------------


def test_no_step_is_lost_when_a_pod_is_told_to_go(run: TrainingRun, unbroken: Ending) -> None:
    assert lost_on_sigterm(run, 5) == 0
    saved = saved_step(run)
    assert 5 <= saved < STEPS
    assert ends_as(run, unbroken).resumed_step() == saved


def test_a_killed_pod_loses_no_more_than_the_interval_and_the_steps_of_one_save(
    run: TrainingRun, unbroken: Ending
) -> None:
    run.pods = UNHURRIED
    # Two steps after the second save was begun: whoever had saved only once would lose five.
    assert lost_on_sigkill(run, 2 * INTERVAL + 2) <= INTERVAL + 1
    assert ends_as(run, unbroken).resumed_step() > 0


@pytest.mark.long_fault
@pytest.mark.timeout(1800)
def test_the_work_lost_over_many_ends(run: TrainingRun) -> None:
    dice = random.Random(7)
    on_sigterm, on_sigkill = [], []
    for _ in range(LONG_LOOP):
        after = dice.randint(2, STEPS - 6)
        run.start_over()
        run.pods = QUICK
        on_sigterm.append(lost_on_sigterm(run, after))
        run.start_over()
        run.pods = UNHURRIED
        on_sigkill.append(lost_on_sigkill(run, after))
    bar = Bar(
        "B-7",
        f"steps lost, saving every {INTERVAL}",
        (
            Figure("on SIGTERM", max(on_sigterm), "steps", 0, on_sigterm),
            Figure("on SIGKILL", max(on_sigkill), "steps", INTERVAL + 1, on_sigkill),
        ),
    )
    record(bar)
    assert bar.met


# --- F20 -------------------------------------------------------------------------------------------------------


def test_a_grace_too_short_to_save_ends_in_time_and_the_next_attempt_goes_on(
    run: TrainingRun, unbroken: Ending
) -> None:
    process = run.start(Stage.TRAIN, **{ENV_GRACE_SECONDS: str(SHORT_GRACE_SECONDS)})
    saved = process.wait_for_checkpoint()
    assert end_within(process, SHORT_GRACE_SECONDS) == ExitCode.PREEMPTED, process.log
    assert process.message.reason == "Preempted"
    assert process.message.trained is not None and process.message.trained.step >= saved
    assert ends_as(run, unbroken).resumed_step() >= saved


# --- F21 -------------------------------------------------------------------------------------------------------


def test_what_was_handed_over_before_a_rank_died_is_still_saved(server: S3Server, tmp_path: Path) -> None:
    run = TrainingRun(server, tmp_path, "b7b7b702-0000", TWO_RANKS, pods=QUICK)
    run.run(Stage.PREPARE)
    with S3Proxy(server.endpoint) as proxy:
        run.endpoint = proxy.url
        commit = proxy.pause(to=requests("PUT", f"/step-{2 * INTERVAL:08d}/.*/manifest.json"))
        process = run.start(Stage.TRAIN)
        commit.reached()
        ranks = process.rank_pids()
        os.kill(ranks[1], signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), "all ranks have ended")
        commit.release()
        assert process.wait() == 1, process.log
    run.endpoint = None
    message = process.message
    assert message.rank == 1
    assert message.trained is not None and message.trained.step == 2 * INTERVAL
    assert saved_step(run) == 2 * INTERVAL


# --- F23 -------------------------------------------------------------------------------------------------------


def test_of_two_trainers_the_second_is_the_writer(run: TrainingRun, unbroken: Ending) -> None:
    run.pods = UNHURRIED
    first = run.start(Stage.TRAIN)
    first.wait_for_checkpoint()
    run.pods = QUICK
    second = run.start(Stage.TRAIN)
    assert first.wait() == ExitCode.PREEMPTED, first.log
    assert "Incarnation 2 has taken over run" in first.message.message
    assert second.wait() == 0, second.log
    assert second.resumed_step() > 0
    assert load_claims(run.store, run.job(Stage.TRAIN).layout).newest == 2
    assert ending_of(run) == unbroken


def test_a_trainer_that_was_frozen_while_another_ended_the_run_changes_nothing(
    run: TrainingRun, unbroken: Ending
) -> None:
    first = run.start(Stage.TRAIN)
    first.wait_for_checkpoint()
    os.killpg(first.process.pid, signal.SIGSTOP)
    ends_as(run, unbroken)
    os.killpg(first.process.pid, signal.SIGCONT)
    assert first.wait() == ExitCode.PREEMPTED, first.log
    assert "Incarnation 2 has taken over run" in first.message.message
    assert ending_of(run) == unbroken

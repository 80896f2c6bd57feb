"""The parent process: how ranks are started, ended and judged."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job_file import JobFile
from finetune_api.spec import Store
from finetune_api.termination import TrainedFacts
from finetune_trainer import launcher, rank_processes
from finetune_trainer.errors import (
    NonFiniteLoss,
    OutOfMemory,
    Preempted,
    StageError,
    StorageUnavailable,
    UserError,
)
from finetune_trainer.launcher import RankLost, conclude
from finetune_trainer.rank_processes import RankEnd, RankProcesses, rank_environment
from finetune_trainer.storage import ObjectStore
from finetune_trainer.work_directory import RankResult, WorkDirectory
from tests.builders.jobs import make_manifest

FACTS = TrainedFacts(step=10, loss=1.0, checkpoint_uri=None)


def make_job_file(**changes: Any) -> JobFile:
    fields = {
        "name": "tuned",
        "namespace": "tests",
        "uid": "u",
        "stage": "train",
        "attempt": 1,
        "trainerImage": "i",
    }
    return JobFile.model_validate({**fields, "spec": make_manifest(**changes)["spec"]})


def make_result(
    rank: int, exit_code: int, *, ended: float = 0.0, message: str = "said by a rank"
) -> RankResult:
    trained = FACTS if exit_code == 0 else None
    return RankResult(rank=rank, exit_code=exit_code, message=message, step=7, ended=ended, trained=trained)


def make_ends(*codes: int, killed_by_us: tuple[int, ...] = ()) -> list[RankEnd]:
    return [RankEnd(rank, code, rank in killed_by_us) for rank, code in enumerate(codes)]


def test_all_ranks_done_is_done() -> None:
    results = [make_result(0, 0), make_result(1, 0)]
    assert conclude(make_ends(0, 0), results, told_to_go=False, oom_killed=False) == FACTS


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        pytest.param((20, 10), UserError, id="what the user must mend before what time heals"),
        pytest.param((1, 14), NonFiniteLoss, id="an understood failure before an unexpected error"),
        pytest.param((22, 20), StorageUnavailable, id="a failure before a preemption"),
        pytest.param((0, 22), Preempted, id="one rank preempted is preempted"),
    ],
)
def test_most_specific_class_wins(codes: tuple[int, ...], expected: type[StageError]) -> None:
    results = [make_result(rank, code) for rank, code in enumerate(codes)]
    with pytest.raises(expected, match="said by a rank") as caught:
        conclude(make_ends(*codes), results, told_to_go=False, oom_killed=False)
    assert caught.value.step == 7


def test_earliest_end_wins_within_a_class() -> None:
    results = [
        make_result(0, 20, ended=5.0, message="second"),
        make_result(1, 20, ended=4.0, message="first"),
    ]
    with pytest.raises(StorageUnavailable, match="first"):
        conclude(make_ends(20, 20), results, told_to_go=False, oom_killed=False)


def test_signal_is_the_cause_and_not_the_lost_connections_it_leaves() -> None:
    ends = make_ends(1, -signal.SIGKILL, -signal.SIGKILL, killed_by_us=(2,))
    with pytest.raises(RankLost, match="rank 1 was killed by SIGKILL"):
        conclude(ends, [make_result(0, 1, message="connection reset")], told_to_go=False, oom_killed=False)


def test_kernels_memory_kill_says_what_to_raise() -> None:
    with pytest.raises(OutOfMemory, match=r"spec\.resources\.memory"):
        conclude(make_ends(-signal.SIGKILL), [], told_to_go=False, oom_killed=True)


def test_rank_that_dies_of_sigterm_while_it_loads_is_preempted() -> None:
    with pytest.raises(Preempted, match="before it could save"):
        conclude(make_ends(-signal.SIGTERM), [], told_to_go=True, oom_killed=False)


# --- processes -------------------------------------------------------------------------------------------------


def start(script: str, world_size: int) -> RankProcesses:
    ranks = RankProcesses(["-u", "-c", f"import os, signal, sys, time\n{script}"], world_size)
    ranks.start()
    return ranks


def test_single_rank_gets_no_rendezvous_and_several_get_one() -> None:
    assert set(rank_environment(0, 1, 0, threads=2)) == {"OMP_NUM_THREADS", "OMP_WAIT_POLICY"}
    environment = rank_environment(1, 2, 4711, threads=1)
    assert environment["RANK"] == environment["LOCAL_RANK"] == "1"
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "4711")


def test_logs_carry_the_rank_when_there_are_several(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert [end.code for end in start("print('hello from', os.environ['RANK'])", 2).wait()] == [0, 0]
    lines = sorted(capfdbinary.readouterr().err.splitlines())
    assert lines == [b"[rank 0] hello from 0", b"[rank 1] hello from 1"]


def test_logs_of_a_single_rank_are_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    start("print('hello')", 1).wait()
    assert capfdbinary.readouterr().out == b"hello\n"


def test_others_are_ended_soon_after_a_rank_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "_GRACE_AFTER_LOSS_SECONDS", 0.3)
    began = time.monotonic()
    ends = start("time.sleep(60) if os.environ['RANK'] == '0' else sys.exit(13)", 2).wait()
    assert time.monotonic() - began < 10
    assert ends == [RankEnd(0, -signal.SIGKILL, True), RankEnd(1, 13, False)]


def test_sigterm_is_passed_on_once_and_waited_for(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ranks = start(
        "signal.signal(signal.SIGTERM, lambda *_: (print('told'), time.sleep(0.3), sys.exit(22)))\n"
        "print('ready')\ntime.sleep(60)",
        1,
    )
    deadline, heard = time.monotonic() + 20, b""
    while b"ready" not in heard and time.monotonic() < deadline:
        heard += capfdbinary.readouterr().out
        time.sleep(0.01)
    ranks.terminate()
    ranks.terminate()
    assert [end.code for end in ranks.wait()] == [22]
    assert capfdbinary.readouterr().out == b"told\n"


def test_parent_never_imports_torch() -> None:
    code = "import sys, finetune_trainer.launcher, finetune_trainer.rank; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "False\n", result.stderr


def test_what_cannot_be_fetched_ends_the_ranks_that_were_loading_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    spawn = RankProcesses._spawn

    def remember(ranks: RankProcesses, rank: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append(spawn(ranks, rank, environment))
        return started[-1]

    def fail(*_: object) -> None:
        raise UserError("the base model was changed")

    monkeypatch.setattr(RankProcesses, "_spawn", remember)
    monkeypatch.setattr(launcher, "process_arguments", lambda _: ["-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(launcher, "lay_out", fail)
    job, store = (
        make_job_file(parallelism__gpusPerNode=2),
        ObjectStore.open(Store(endpoint="http://127.0.0.1:1")),
    )
    with pytest.raises(UserError, match="was changed"):
        launcher.run_ranks(job, tmp_path, WorkDirectory(tmp_path), store, launcher.Relay())
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2

"""The parent process: how ranks are started, told to stop, watched and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api import names
from finetune_api.spec import Store
from finetune_trainer import launcher, rank_processes
from finetune_trainer.errors import Stalled, StorageUnavailable, UserError
from finetune_trainer.heartbeat import Heart
from finetune_trainer.placement import Placement
from finetune_trainer.rank_processes import RankEnd, RankProcesses, default_environment, rank_environment
from finetune_trainer.snapshot_memory import SnapshotMemory
from finetune_trainer.storage import ObjectStore
from finetune_trainer.uploader_process import UploaderProcess
from finetune_trainer.work_directory import WorkDirectory
from tests.builders.job_files import make_job_file


def one_pod(ranks: int) -> Placement:
    return Placement(node=0, nodes=1, ranks_per_node=ranks)


def start(script: str, ranks_per_node: int, **options: Any) -> RankProcesses:
    arguments = ["-u", "-c", f"import faulthandler, os, signal, sys, time\n{script}"]
    ranks = RankProcesses(arguments, one_pod(ranks_per_node), **options)
    ranks.start()
    return ranks


def make_uploader(work: WorkDirectory, script: str) -> UploaderProcess:
    """The launcher's view of a process that runs the script instead of uploading anything."""
    uploader = UploaderProcess(work.root / "job.json", work.spool, SnapshotMemory(()))
    uploader._arguments = [sys.executable, "-c", f"import os, sys, time\n{script}"]
    return uploader


def test_single_rank_gets_no_rendezvous_and_several_get_one() -> None:
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & rank_environment(0, one_pod(1), 0).keys()
    environment = rank_environment(1, one_pod(2), 4711)
    assert environment["RANK"] == environment["LOCAL_RANK"] == "1"
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "4711")
    assert default_environment(one_pod(2), threads=1)["GLOO_SOCKET_IFNAME"] == "lo"


def test_single_rank_gets_a_rendezvous_where_it_needs_a_group() -> None:
    environment = rank_environment(0, one_pod(1), 4711, needs_group=True)
    place = [environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    assert place == ["0", "0", "1", "1"]
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "4711")


@pytest.mark.parametrize("is_deterministic", [True, False])
def test_deterministic_ranks_get_the_workspace_that_cublas_needs(is_deterministic: bool) -> None:
    environment = default_environment(one_pod(1), threads=1, is_deterministic=is_deterministic)
    assert environment.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if is_deterministic else None)


def test_ranks_of_several_pods_are_numbered_through_and_use_the_pods_network() -> None:
    second = Placement(1, 2, ranks_per_node=4, master_address="bot-train-1-0.bot-train-1", master_port=29500)
    environment = rank_environment(6, second, 29500)
    place = [environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    assert place == ["6", "2", "8", "4"]
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("bot-train-1-0.bot-train-1", "29500")
    assert "GLOO_SOCKET_IFNAME" not in default_environment(second, threads=1)


def test_what_the_job_sets_in_env_is_not_overridden(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("RANK", "5")
    names_shown = ("OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "OMP_WAIT_POLICY", "RANK")
    start(f"print(*(os.environ[name] for name in {names_shown!r}))", 2).wait()
    lines = sorted(capfdbinary.readouterr().err.splitlines())
    assert lines == [b"[rank 0] 7 eth0 PASSIVE 0", b"[rank 1] 7 eth0 PASSIVE 1"]


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
    code = "import sys, finetune_trainer.launcher, finetune_trainer.rank, finetune_trainer.uploader; print('torch' in sys.modules)"
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
        launcher.run_ranks(job, tmp_path, WorkDirectory(tmp_path), store, launcher.Relay(), one_pod(2))
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
    assert WorkDirectory(tmp_path).spool.is_closed


def test_ranks_that_do_not_save_within_the_grace_are_ended() -> None:
    ranks = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", 1, save_seconds=0.3)
    ranks.terminate()
    began = time.monotonic()
    ends = ranks.wait()
    assert time.monotonic() - began < 10
    assert [end.code for end in ends] in ([-signal.SIGKILL], [-signal.SIGTERM])


@pytest.mark.parametrize(
    ("grace", "expected"),
    [("120", 115.0), ("8", 4.0), ("2", 1.0), ("0", 0.0), ("", None), ("soon", None)],
    ids=repr,
)
def test_the_launcher_keeps_some_of_the_grace_for_its_last_words(
    grace: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ENV_GRACE_SECONDS, grace)
    assert launcher.seconds_to_save() == expected


@pytest.mark.parametrize(
    ("grace", "told_seconds_ago", "nodes", "expected"),
    [
        pytest.param("600", None, 1, 60, id="nobody told the pod to go"),
        pytest.param("", 10, 1, 60, id="the pod does not know its grace"),
        pytest.param("600", 10, 1, 60, id="there is much grace left"),
        pytest.param("45", 10, 1, 30, id="little grace is left"),
        pytest.param("45", 100, 1, 0, id="no grace is left"),
        pytest.param("600", None, 2, 10, id="another pod may be gone, whose part never comes"),
        pytest.param("45", 36, 2, 4, id="another pod may be gone, and little grace is left"),
    ],
)
def test_what_was_handed_over_is_uploaded_for_a_while_and_within_the_grace(
    grace: str, told_seconds_ago: float | None, nodes: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ENV_GRACE_SECONDS, grace)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    relay = launcher.Relay()
    relay.heard_at = None if told_seconds_ago is None else 1000.0 - told_seconds_ago
    assert launcher.seconds_to_drain(relay, Placement(0, nodes, 1)) == expected


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_rank_that_hangs_shows_its_stack_and_a_stopped_one_is_named(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    ready = [tmp_path / "ready-0", tmp_path / "ready-1"]
    ranks = start(
        "faulthandler.register(signal.SIGUSR1)\n"
        f"def hang():\n    open({str(tmp_path)!r} + '/ready-' + os.environ['RANK'], 'w')\n    time.sleep(60)\n"
        "hang()",
        2,
    )
    wait_until(lambda: all(path.exists() for path in ready))
    os.kill(ranks._processes[1].pid, signal.SIGSTOP)
    wait_until(lambda: bool(ranks.idle_states()))
    work = WorkDirectory(tmp_path)
    work.clear_messages()
    uploader = make_uploader(work, "time.sleep(60)")
    for rank in range(2):
        Heart(work.heartbeat(rank)).finish_step(7)
    with pytest.raises(
        Stalled, match=r"after step 7, while training \(rank 1 is stopped by a signal\)"
    ) as stall:
        launcher.watch_ranks(ranks, uploader, work, one_pod(2), stall_timeout_seconds=0.3)
    assert (stall.value.rank, stall.value.step) == (1, 7)
    ranks.kill()
    uploader.kill()
    assert b"[rank 0]   File" in capfdbinary.readouterr().err


# --- the uploader beside the ranks -------------------------------------------------------------------------------


def test_an_uploader_that_dies_is_started_again_while_the_ranks_run(tmp_path: Path) -> None:
    work, starts, enough = WorkDirectory(tmp_path), tmp_path / "starts", tmp_path / "enough"
    work.clear_messages()
    uploader = make_uploader(
        work,
        f"open({str(starts)!r}, 'a').write('x')\n"
        f"if len(open({str(starts)!r}).read()) < 3: sys.exit(9)\n"
        f"open({str(enough)!r}, 'w').close()\n"
        "time.sleep(60)",
    )
    ranks = start(f"while not os.path.exists({str(enough)!r}): time.sleep(0.01)", 1)
    ends = launcher.watch_ranks(ranks, uploader, work, one_pod(1), stall_timeout_seconds=60)
    uploader.kill()
    assert [end.code for end in ends] == [0]
    assert starts.read_text() == "xxx"


def test_an_uploader_that_dies_again_and_again_ends_the_attempt(tmp_path: Path) -> None:
    work, starts = WorkDirectory(tmp_path), tmp_path / "starts"
    work.clear_messages()
    uploader = make_uploader(work, f"open({str(starts)!r}, 'a').write('x')\nsys.exit(9)")
    ranks = start("time.sleep(60)", 1)
    with pytest.raises(StorageUnavailable, match=r"has ended 5 times.*raise spec\.resources\.memory"):
        launcher.watch_ranks(ranks, uploader, work, one_pod(1), stall_timeout_seconds=60)
    ranks.kill()
    assert starts.read_text() == "xxxxx"


def test_an_uploader_may_finish_what_it_was_given_and_is_then_no_more(tmp_path: Path) -> None:
    work, done = WorkDirectory(tmp_path), tmp_path / "done"
    work.clear_messages()
    closed = str(tmp_path / "spool" / "closed")
    uploader = make_uploader(
        work,
        f"while not os.path.exists({closed!r}): time.sleep(0.01)\n"
        f"time.sleep(0.2)\nopen({str(done)!r}, 'w').close()",
    )
    uploader.ensure_running()
    uploader.finish(60)
    assert done.exists()


def test_an_uploader_that_does_not_finish_in_time_is_ended(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path)
    work.clear_messages()
    uploader = make_uploader(work, "time.sleep(60)")
    uploader.ensure_running()
    process = uploader._process
    assert process is not None
    began = time.monotonic()
    uploader.finish(0.2)
    assert time.monotonic() - began < 10
    assert process.returncode == -signal.SIGKILL


def test_one_that_was_never_started_has_nothing_to_finish(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path)
    work.clear_messages()
    uploader = make_uploader(work, "time.sleep(60)")
    uploader.finish(60)
    uploader.kill()
    assert not work.spool.is_closed


def test_what_ranks_write_into_their_memory_outlives_them(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    memory = SnapshotMemory(range(2))
    script = (
        "from pathlib import Path\n"
        "from finetune_trainer.snapshot_memory import ENV_SNAPSHOT_MEMORY, memory_paths\n"
        "for kind, path in memory_paths(os.environ[ENV_SNAPSHOT_MEMORY]).items():\n"
        "    path.write_text(f'{kind} of {os.environ[\"RANK\"]}')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    codes = [end.code for end in start(script, 2, memory=memory).wait()]
    assert codes == [-signal.SIGKILL] * 2, capfdbinary.readouterr().err
    written = [os.pread(file, 100, 0).decode() for file in memory.descriptors]
    assert written == ["parameters of 0", "optimizer of 0", "parameters of 1", "optimizer of 1"]

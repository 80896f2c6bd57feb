"""The uploader as a process of its own: what it is given outlives the ranks, and what it was doing outlives it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import S3Server
from finetune_api import names
from finetune_api.job_file import JobFile
from finetune_api.layout import RunLayout
from finetune_trainer.checkpoints import restore_newest_checkpoint
from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.run_metrics import METRICS_NAME
from finetune_trainer.snapshot_memory import ENV_SNAPSHOT_MEMORY, SnapshotMemory, memory_paths
from finetune_trainer.spool import SaveOrder, Spool, UploadReport, UploadState
from finetune_trainer.storage import ObjectStore
from finetune_trainer.uploader import Uploader
from finetune_trainer.uploader_process import UploaderProcess
from finetune_trainer.work_directory import WorkDirectory
from tests.builders.checkpoints import (
    committed_steps,
    files_in,
    make_facts,
    make_order,
    read_state,
    state_of,
    unfinished_uploads,
    write_state,
)
from tests.builders.deadlines import wait_until
from tests.builders.job_files import make_job_file
from tests.stand_ins.s3_proxy import S3Proxy, requests

# So large that it comes in parts.
LARGE = b"0123456789abcdef" * (33 * 1024 * 1024 // 16)


class Launched:
    """A pod's working folder and its uploader, as the launcher has them."""

    def __init__(self, job: JobFile, root: Path) -> None:
        self.work = WorkDirectory(root)
        self.work.root.mkdir()
        self.work.clear_messages()
        self.layout: RunLayout = job.layout
        self.memory = SnapshotMemory(range(1))
        self.job_path = root / "job.json"
        self.job_path.write_text(job.model_dump_json())
        self.uploader = UploaderProcess(self.job_path, self.work.spool, self.memory)

    @property
    def state(self) -> Path:
        """What the ranks write."""
        return self.work.snapshots / "state"

    def hand_over(self, step: int, **changes: object) -> SaveOrder:
        """Have a step's state saved."""
        order = make_order(make_facts(step), files_in(write_state(self.state, step)), **changes)
        self.work.spool.place(order)
        return order

    def wait_until_saved(self, order: SaveOrder) -> None:
        """Wait until an order is committed and all is tidied up."""

        def is_saved() -> bool:
            report = self.work.spool.report()
            return (report.order, report.state) == (order.number, UploadState.IDLE)

        wait_until(is_saved, f"order {order.number} is saved")


@pytest.fixture
def pod(
    s3_server: S3Server, proxy: S3Proxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launched]:
    """Its uploader speaks to the store through the proxy, with keys from the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key.identifier)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.access_key.secret)
    monkeypatch.setenv(names.ENV_WORK_DIRECTORY, str(tmp_path / "work"))
    job = make_job_file(output={"uri": f"s3://{bucket}/out", "store": {"endpoint": proxy.url}})
    launched = Launched(job, tmp_path / "work")
    yield launched
    launched.uploader.kill()


# A rank: it fills its memory and is killed, as by the kernel for the memory that it uses.
RANK = f"""
import os, signal
from finetune_trainer.snapshot_memory import memory_paths
for kind, path in memory_paths(os.environ[{ENV_SNAPSHOT_MEMORY!r}]).items():
    path.write_bytes(kind.encode() * 100_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_snapshots_are_uploaded_from_the_memory_of_ranks_that_have_died(
    store: ObjectStore, pod: Launched, tmp_path: Path
) -> None:
    memory = pod.memory.environment(0)
    rank = subprocess.run(
        [sys.executable, "-c", RANK], env={**os.environ, **memory}, pass_fds=pod.memory.descriptors
    )
    assert rank.returncode == -signal.SIGKILL
    paths = memory_paths(memory[ENV_SNAPSHOT_MEMORY])
    pod.work.spool.place(make_order(make_facts(10), {f"{kind}-00000": path for kind, path in paths.items()}))
    pod.uploader.ensure_running()
    pod.uploader.finish(60)
    assert pod.work.spool.report().state is UploadState.IDLE
    assert restore_newest_checkpoint(store, pod.layout, tmp_path / "back").passed_over == ()
    assert read_state(tmp_path / "back") == {
        "optimizer-00000": b"optimizer" * 100_000,
        "parameters-00000": b"parameters" * 100_000,
    }


def test_killed_at_any_moment_and_started_again_it_finishes_its_order(
    store: ObjectStore, pod: Launched, proxy: S3Proxy, tmp_path: Path
) -> None:
    pod.state.mkdir()
    (pod.state / METRICS_NAME).write_text("metrics")
    (pod.state / "weights.bin").write_bytes(LARGE)
    order = pod.hand_over(10, keep_last=1)
    moments = {
        "uploads": requests("PUT", "/00001/weights.bin", query="partNumber="),
        "commits": requests("PUT", "/00001/manifest.json"),
        "publishes metrics": requests("PUT", "/tuned-01234567/metrics.jsonl"),
        "tidies up": requests("GET", query="list-type=2.*prefix=[^&]*checkpoints%2F&"),
    }
    for moment, request in moments.items():
        pause = proxy.pause(to=request)
        pod.uploader.ensure_running()
        pause.reached()
        pod.uploader.kill()
        assert pod.work.spool.report().state is UploadState.UPLOADING, moment
        pause.release()
    assert len(unfinished_uploads(store, pod.layout)) == 1
    pod.uploader.ensure_running()
    pod.wait_until_saved(order)
    report = pod.work.spool.report()
    assert report.committed is not None
    assert report.committed.step == 10
    assert committed_steps(store, pod.layout) == [10]
    assert restore_newest_checkpoint(store, pod.layout, tmp_path / "back").passed_over == ()
    expected = {**state_of(10), METRICS_NAME: b"metrics", "weights.bin": LARGE}
    assert read_state(tmp_path / "back") == expected
    assert unfinished_uploads(store, pod.layout) == []
    # The one that was killed before its commit, and the next: those after it found what was committed.
    assert proxy.count("PUT", "/manifest.json") == 2
    assert store.read_bytes(pod.layout.metrics_uri) == b"metrics"

    pod.uploader.kill()
    with pytest.raises(StorageUnavailable, match="has ended 5 times"):
        pod.uploader.ensure_running()


def test_told_to_go_it_goes_on_until_the_launcher_lets_it_finish(
    store: ObjectStore, pod: Launched, proxy: S3Proxy
) -> None:
    pause = proxy.pause(to=requests("PUT", "/00001/state.json"))
    pod.hand_over(10)
    pod.uploader.ensure_running()
    pause.reached()
    process = pod.uploader._process
    assert process is not None
    process.terminate()
    pause.release()
    pod.uploader.finish(60)
    assert process.returncode == 0
    assert committed_steps(store, pod.layout) == [10]


# A launcher that starts the uploader, says its number, and does nothing more.
LAUNCHER = """
import sys, time
from pathlib import Path
from finetune_trainer.snapshot_memory import SnapshotMemory
from finetune_trainer.uploader_process import UploaderProcess
from finetune_trainer.work_directory import WorkDirectory
uploader = UploaderProcess(Path(sys.argv[1]), WorkDirectory.from_environment().spool, SnapshotMemory(()))
uploader.ensure_running()
print(uploader._process.pid, flush=True)
time.sleep(600)
"""


def test_it_does_not_outlive_its_launcher(store: ObjectStore, pod: Launched, proxy: S3Proxy) -> None:
    pause = proxy.pause(to=requests("PUT", "/00001/state.json"))
    pod.hand_over(10)
    command = [sys.executable, "-c", LAUNCHER, str(pod.job_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        pause.reached()
        launcher.kill()
    wait_until(lambda: not runs(pid), "the uploader is gone")
    pause.release()
    assert committed_steps(store, pod.layout) == []


def runs(pid: int) -> bool:
    """Whether a process is there and more than a zombie."""
    try:
        return "Z (" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_disk_that_takes_no_report_ends_the_process_so_that_another_one_takes_the_order_up(
    store: ObjectStore, pod: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would hear of the order otherwise."""

    def fail(spool: Spool, report: UploadReport) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "write_report", fail)
    pod.hand_over(10)
    with pytest.raises(OSError, match="No space left"):
        Uploader(store, pod.layout, pod.work.spool).run()

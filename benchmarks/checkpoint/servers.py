"""The store of the measurements: versitygw on loopback, behind a link of limited speed where one is wanted.

Both stand for other machines: they run at the lowest priority, so that training and uploads are not slowed by them more
than two cores for everything make unavoidable.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster import S3Server
from finetune_api.spec import Store
from finetune_trainer.storage import ObjectStore
from tests.builders.training_runs import BUCKET

_LOWEST_PRIORITY = 19


@contextmanager
def object_store(folder: Path, *, is_remote: bool = False) -> Iterator[S3Server]:
    """An S3 server with one bucket; its keys are in the environment. Remote ones step back behind everybody."""
    with S3Server(folder / "s3") as server:
        (server.data / BUCKET).mkdir()
        os.environ["AWS_ACCESS_KEY_ID"] = server.access_key.identifier
        os.environ["AWS_SECRET_ACCESS_KEY"] = server.access_key.secret
        if is_remote:
            for pid in _processes_below(folder):
                os.setpriority(os.PRIO_PROCESS, pid, _LOWEST_PRIORITY)
        yield server


@contextmanager
def limited(endpoint: str, bytes_per_second: int) -> Iterator[str]:
    """The URL of a proxy that takes uploads at this speed."""
    command = [sys.executable, "-m", "tests.stand_ins.s3_proxy", "--upstream", endpoint]
    proxy = subprocess.Popen(
        [*command, "--bytes-per-second", str(bytes_per_second)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.nice(_LOWEST_PRIORITY) and None,
    )
    try:
        assert proxy.stdout is not None
        yield proxy.stdout.readline().split()[0]
    finally:
        proxy.terminate()
        proxy.wait()


def open_store(server: S3Server) -> ObjectStore:
    """A client as the trainer has it."""
    return ObjectStore.open(Store(endpoint=server.endpoint))


def _processes_below(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]

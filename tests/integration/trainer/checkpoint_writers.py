"""Writers that save checkpoint after checkpoint until they are killed: B-5's children, without ranks and without torch.

`python -m tests.integration.trainer.checkpoint_writers OUTPUT_URI ENDPOINT FOLDER` has imported everything and forks a
writer for each line that it reads, so a test has the next one within milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from s3transfer.manager import TransferConfig

from finetune_api.layout import RunLayout
from finetune_api.spec import Store
from finetune_trainer.checkpoint_pruning import prune_checkpoints
from finetune_trainer.checkpoints import restore_newest_checkpoint
from finetune_trainer.claims import claim_incarnation, note_start
from finetune_trainer.retention import Retention
from finetune_trainer.storage import ObjectStore, object_store
from tests.builders.checkpoints import make_facts, save_checkpoint

MIB = 1024 * 1024
# As small as parts may be, so that a file of a few megabytes comes in several.
SMALL_PARTS = TransferConfig(
    multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_request_concurrency=6
)
SIZES: Mapping[str, int] = {"parameters.bin": 7 * MIB, "optimizer/rank-0.bin": 2 * MIB, "state.json": 100}
NEWEST_ONLY = Retention(keep_last=1, keep_best=0)


def bytes_of(step: int, name: str) -> bytes:
    """A file's content, which no other step and no other file has."""
    return random.Random(f"{step} {name}").randbytes(SIZES[name])


def state_of(step: int) -> dict[str, bytes]:
    """The files of a step's state."""
    return {name: bytes_of(step, name) for name in SIZES}


def write_state(directory: Path, step: int) -> Path:
    """Write a step's state into a folder."""
    for name, content in state_of(step).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def make_layout(output_uri: str) -> RunLayout:
    """The run that all writers write."""
    return RunLayout(output_uri=output_uri, name="support-bot", uid="0123456789abcdef")


def write_on_and_on(store: ObjectStore, layout: RunLayout, folder: Path) -> None:
    """Go on from the newest checkpoint and save every step; says what it does."""
    incarnation = claim_incarnation(store, layout)
    found = restore_newest_checkpoint(store, layout, folder / "resume").manifest
    step = found.step if found else 0
    note_start(store, layout, incarnation, step)
    while True:
        step += 1
        directory = write_state(folder / "state", step)
        print(f"uploading {step}", flush=True)
        save_checkpoint(store, layout, directory, make_facts(step, incarnation))
        print(f"committed {step}", flush=True)
        prune_checkpoints(store, layout, NEWEST_ONLY, incarnation)


class Writers:
    """One writer after the other. As a context manager, none is left at the end."""

    def __init__(self, layout: RunLayout, endpoint: str, folder: Path) -> None:
        module = [sys.executable, "-m", "tests.integration.trainer.checkpoint_writers"]
        self._command = [*module, layout.output_uri, endpoint, str(folder)]
        self._writer: int | None = None
        self.announced = 0
        """The newest step that a writer has called committed."""

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            os.kill(self._writer, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()

    def start(self) -> None:
        """Start the next writer."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._writer = int(self._read().removeprefix("started "))

    def wait_until_it(self, does: str, times: int = 1) -> None:
        """Hear so many more times that the writer has `committed`, or that it is `uploading`."""
        while times > 0:
            times -= self._hear() == does

    def kill(self) -> None:
        """End the writer at once, and hear what it had committed."""
        assert self._writer is not None, "a writer was started"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._writer, signal.SIGKILL)
        while self._hear() != "ended":
            pass
        self._writer = None

    def _hear(self) -> str:
        does, _, number = self._read().partition(" ")
        if does == "committed":
            self.announced = int(number)
        assert does != "ended" or int(number) == signal.SIGKILL, "the writer ended by itself"
        assert does, "nobody starts writers any more"
        return does

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def serve(layout: RunLayout, endpoint: str, folder: Path) -> None:
    """Fork a writer for each line that is read."""
    object_store._TRANSFER = SMALL_PARTS
    for _ in sys.stdin:
        writer = os.fork()
        if writer == 0:
            write_on_and_on(ObjectStore.open(Store(endpoint=endpoint)), layout, folder)
        print(f"started {writer}", flush=True)
        _, status = os.waitpid(writer, 0)
        print(f"ended {os.WTERMSIG(status)}", flush=True)


if __name__ == "__main__":
    uri, server, work = sys.argv[1:]
    serve(make_layout(uri), server, Path(work))

"""The uploader as the launcher sees it: started before the ranks, again should it die, let finish at the end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from finetune_trainer.errors import StorageUnavailable
from finetune_trainer.snapshot_memory import SnapshotMemory
from finetune_trainer.spool import Spool

logger = logging.getLogger(__name__)

_MOST_STARTS = 5
_POLL_SECONDS = 0.05


class UploaderProcess:
    """One process a pod. What it has not finished when it dies its successor finds in the spool."""

    def __init__(self, job_path: Path, spool: Spool, memory: SnapshotMemory) -> None:
        self._arguments = [sys.executable, "-m", "finetune_trainer.uploader", "--job", str(job_path)]
        self._arguments += ["--launcher", str(os.getpid())]
        self._spool = spool
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def ensure_running(self) -> None:
        """Start it. Raises StorageUnavailable when it dies again and again."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._starts == _MOST_STARTS:
            raise StorageUnavailable(
                f"The process that uploads checkpoints has ended {_MOST_STARTS} times. Look into the pod's log; where "
                "its memory is used up, raise spec.resources.memory."
            )
        if self._process is not None:
            logger.warning("the uploader ended with code %d and is started again", self._process.returncode)
        self._starts += 1
        self._process = subprocess.Popen(self._arguments, pass_fds=self._memory.descriptors)

    def finish(self, limit_seconds: float) -> None:
        """Let it save what the ranks have handed over, and end it."""
        if self._process is None:
            return
        self._spool.close()
        deadline = time.monotonic() + limit_seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it at once: what it was doing stays uncommitted."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

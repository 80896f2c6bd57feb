"""Train stages that need not import torch each time: launcher and ranks are forked from a server that has it.

All else is as in a pod: a process group of its own, the launcher's own code, the uploader as the launcher starts it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

from tests.builders.fork_server import fork_server


def nothing() -> None:
    """What ranks do before they begin, mostly."""


class ForkedPods:
    """Starts pods. `in_rank` is called in each rank before it begins: what a test changes about it."""

    def __init__(self, in_rank: Callable[[], None] = nothing) -> None:
        self._in_rank = in_rank

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedPod:
        """Start one: `arguments` are those of `python -m finetune_trainer`."""
        log.touch()
        process = fork_server().Process(
            target=_enter, args=(list(arguments), dict(environment), log, self._in_rank)
        )
        process.start()
        return ForkedPod(process)


class ForkedPod:
    """The launcher's process as subprocess.Popen would show it."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None, "it is started"
        self.pid: int = process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked pod", timeout or 0)
        return self._process.exitcode

    def terminate(self) -> None:
        """SIGTERM to the launcher alone."""
        os.kill(self.pid, signal.SIGTERM)


def slow_steps(seconds: float) -> Callable[[], None]:
    """For `in_rank`: each micro-batch takes so much longer, and computes the same."""
    return partial(_slow_down, seconds)


def _slow_down(seconds: float) -> None:
    from finetune_trainer.training import FineTuneTrainer

    step = FineTuneTrainer.training_step

    def slow(self: FineTuneTrainer, *arguments: Any) -> object:
        time.sleep(seconds)
        return step(self, *arguments)

    patch.object(FineTuneTrainer, "training_step", slow).start()


# --- in the forked processes -----------------------------------------------------------------------------------


def _enter(arguments: list[str], environment: dict[str, str], log: Path, in_rank: Callable[[], None]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _become(environment, output)
    from finetune_trainer import __main__ as trainer
    from finetune_trainer import rank_processes

    # The launcher shuts packages out of its own process alone.
    modules = dict(sys.modules)

    def begin() -> None:
        sys.modules.update(modules)
        in_rank()

    popen = partial(ForkedRank, begin)
    forking = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    patch.object(rank_processes, "subprocess", forking).start()
    _leave(trainer.main(arguments))


class ForkedRank:
    """Stands for subprocess.Popen in the launcher: the process is a fork of it."""

    def __init__(
        self,
        in_rank: Callable[[], None],
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.stdout: IO[bytes] | None = None
        self.returncode: int | None = None
        reader, writer = os.pipe() if stdout == subprocess.PIPE else (None, None)
        self.pid = os.fork()
        if self.pid == 0:
            _be_rank(arguments, env, 2 if writer is None else writer, in_rank)
        if reader is not None and writer is not None:
            os.close(writer)
            self.stdout = os.fdopen(reader, "rb")

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _be_rank(
    arguments: Sequence[str], environment: Mapping[str, str], output: int, in_rank: Callable[[], None]
) -> None:
    code = 1
    try:
        _become(environment, output)
        from finetune_trainer import rank

        in_rank()
        # Behind the interpreter, -m and the module's name.
        code = rank.main(list(arguments[3:]))
    finally:
        _leave(code)


def _become(environment: Mapping[str, str], output: int) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for standard in (1, 2):
        os.dup2(output, standard)
    # Not the parent's, whose locks another thread of it may have held.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    # Nor those behind what the parent logs to: each process sets that up anew.
    logging.getLogger().handlers.clear()


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

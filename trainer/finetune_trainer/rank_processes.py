"""The training processes of one pod as the launcher sees them: started, told to stop, waited for. Torch-free."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetune_trainer.cgroup import usable_cpus

logger = logging.getLogger(__name__)

# Others of the gang notice a lost rank by its closed connections; whoever has not by then never will.
_GRACE_AFTER_LOSS_SECONDS = 15.0
_POLL_SECONDS = 0.1
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class RankEnd:
    """How one rank's process ended; `code` as in subprocess: negative for a signal."""

    rank: int
    code: int
    was_ended_by_us: bool


class RankProcesses:
    """All ranks of the pod."""

    def __init__(self, arguments: Sequence[str], world_size: int) -> None:
        self._arguments = [sys.executable, *arguments]
        self._world_size = world_size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._printers: list[threading.Thread] = []
        self._terminated = False

    def start(self) -> None:
        """Start one process a rank."""
        port = _free_port() if self._world_size > 1 else 0
        threads = max(1, usable_cpus() // self._world_size)
        logger.info("starting %d training process(es) with %d thread(s) each", self._world_size, threads)
        for rank in range(self._world_size):
            environment = {**os.environ, **rank_environment(rank, self._world_size, port, threads)}
            self._processes.append(self._spawn(rank, environment))

    def terminate(self) -> None:
        """Pass SIGTERM on, once: the ranks finish their step and save. Safe to call from a signal handler."""
        if self._terminated:
            return
        self._terminated = True
        for process in self._processes:
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all at once: they have nothing to save yet."""
        for process in self._processes:
            process.kill()
            process.wait()

    def wait(self) -> list[RankEnd]:
        """Wait until all have ended; once one has failed, the others have little time left."""
        deadline: float | None = None
        while None in (codes := [process.poll() for process in self._processes]):
            if deadline is None and any(codes):
                deadline = time.monotonic() + _GRACE_AFTER_LOSS_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        killed = self._kill_remaining()
        for printer in self._printers:
            printer.join(timeout=5)
        return [
            RankEnd(rank, process.wait(), was_ended_by_us=rank in killed)
            for rank, process in enumerate(self._processes)
        ]

    def _kill_remaining(self) -> set[int]:
        remaining = {rank for rank, process in enumerate(self._processes) if process.poll() is None}
        for rank in remaining:
            logger.warning("ending rank %d, which did not end by itself after another rank failed", rank)
            self._processes[rank].kill()
        return remaining

    def _spawn(self, rank: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        if self._world_size == 1:
            return subprocess.Popen(self._arguments, env=environment)
        process = subprocess.Popen(
            self._arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        printer = threading.Thread(target=_print_prefixed, args=(process.stdout, rank), daemon=True)
        printer.start()
        self._printers.append(printer)
        return process


def rank_environment(rank: int, world_size: int, port: int, threads: int) -> dict[str, str]:
    """The variables by which a rank knows its place. A single one gets none: torch then sets up no process group."""
    # Threads that wait by spinning burn the CPU quota that the others of a pod, or of a busy node, need.
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if world_size > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": _LOOPBACK,
            "MASTER_PORT": str(port),
            # All ranks share the pod: its own name need not resolve, and no other network is touched.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            # torch remarks on every run that no parameter is unused; why it looks for them says training.py.
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
    return environment


def process_arguments(job_path: Path) -> list[str]:
    """The command line of a rank, without the interpreter."""
    return ["-m", "finetune_trainer.rank", "--job", str(job_path)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _print_prefixed(stream: IO[bytes], rank: int) -> None:
    prefix = f"[rank {rank}] ".encode()
    for line in stream:
        sys.stderr.buffer.write(prefix + line)
        sys.stderr.buffer.flush()

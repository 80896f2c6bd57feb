"""The training processes of one pod as the launcher sees them: started, told to stop, waited for. Torch-free."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetune_trainer.cgroup import usable_cpus
from finetune_trainer.placement import Placement, free_port
from finetune_trainer.snapshot_memory import SnapshotMemory

logger = logging.getLogger(__name__)

# Others of the gang notice a lost rank by its closed connections; whoever has not by then never will.
_GRACE_AFTER_LOSS_SECONDS = 15.0
_POLL_SECONDS = 0.1
# faulthandler writes within milliseconds; what has not written by then is not scheduled at all.
_STACKS_SECONDS = 1.0
# The pod's environment lets any Hugging Face Trainer report progress. Ours reports more, and never from its own thread.
_OWN_REPORTS_ONLY = {"DISABLE_KUBEFLOW_INTEGRATION": "TRUE"}
# Letters of /proc/PID/stat of a process that will not move by itself. Source: proc(5).
_IDLE_STATES = {
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "D": "waiting for a device or a disk",
    "Z": "dead",
}


@dataclass(frozen=True)
class RankEnd:
    """How one rank's process ended; `rank` over all pods, `code` as in subprocess: negative for a signal."""

    rank: int
    code: int
    was_ended_by_us: bool


class RankProcesses:
    """All ranks of the pod, under the numbers that they have in the whole gang."""

    def __init__(
        self,
        arguments: Sequence[str],
        placement: Placement,
        *,
        save_seconds: float | None = None,
        needs_group: bool = False,
        is_deterministic: bool = False,
        memory: SnapshotMemory | None = None,
    ) -> None:
        self._arguments = [sys.executable, *arguments]
        self._memory = memory
        self._placement = placement
        self._save_seconds = save_seconds
        self._needs_group = needs_group or placement.world_size > 1
        self._is_deterministic = is_deterministic
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._printers: list[threading.Thread] = []
        self._terminated_at: float | None = None

    def start(self) -> None:
        """Start one process a rank."""
        placement = self._placement
        port = placement.master_port or (free_port() if self._needs_group else 0)
        threads = max(1, usable_cpus() // placement.ranks_per_node)
        defaults = default_environment(placement, threads, is_deterministic=self._is_deterministic)
        shared = {**defaults, **os.environ}
        logger.info(
            "starting %d training process(es) of %d with %s thread(s) each",
            placement.ranks_per_node,
            placement.world_size,
            shared["OMP_NUM_THREADS"],
        )
        for rank in placement.ranks:
            place = rank_environment(rank, placement, port, needs_group=self._needs_group)
            memory = self._memory.environment(rank) if self._memory is not None else {}
            self._processes[rank] = self._spawn(rank, {**shared, **place, **memory})

    def terminate(self) -> None:
        """Pass SIGTERM on, once: the ranks finish their step and save. Safe to call from a signal handler."""
        if self._terminated_at is not None:
            return
        self._terminated_at = time.monotonic()
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all at once: they have nothing to save yet, or hang."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._finish_printing()

    def wait(self, watch: Callable[[], None] = lambda: None) -> list[RankEnd]:
        """Wait until all have ended; once one has failed or all were told to go, the others have little time left.

        `watch` is called all the while; what it raises ends the wait, not the ranks.
        """
        lost_at: float | None = None
        while None in (codes := [process.poll() for process in self._processes.values()]):
            now = time.monotonic()
            if lost_at is None and any(codes):
                lost_at = now
            if self._is_overdue(now, lost_at):
                break
            watch()
            time.sleep(_POLL_SECONDS)
        killed = self._kill_remaining()
        self._finish_printing()
        return [
            RankEnd(rank, process.wait(), was_ended_by_us=rank in killed)
            for rank, process in self._processes.items()
        ]

    def show_stacks(self) -> None:
        """Have every rank write the stacks of its threads to the log."""
        for process in self._processes.values():
            process.send_signal(signal.SIGUSR1)
        time.sleep(_STACKS_SECONDS)

    def idle_states(self) -> dict[int, str]:
        """Ranks whose process does not run, and why not."""
        letters = {rank: _state_letter(process.pid) for rank, process in self._processes.items()}
        return {rank: _IDLE_STATES[letter] for rank, letter in letters.items() if letter in _IDLE_STATES}

    def _is_overdue(self, now: float, lost_at: float | None) -> bool:
        if lost_at is not None and now > lost_at + _GRACE_AFTER_LOSS_SECONDS:
            logger.warning("ending the ranks that did not end by themselves after another rank failed")
            return True
        if self._terminated_at is None or self._save_seconds is None:
            return False
        if now > self._terminated_at + self._save_seconds:
            logger.warning("ending the ranks, which have not saved within %.0f s", self._save_seconds)
            return True
        return False

    def _kill_remaining(self) -> set[int]:
        remaining = {rank for rank, process in self._processes.items() if process.poll() is None}
        for rank in remaining:
            self._processes[rank].kill()
        return remaining

    def _finish_printing(self) -> None:
        for printer in self._printers:
            printer.join(timeout=5)

    def _spawn(self, rank: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        inherited = self._memory.descriptors if self._memory is not None else ()
        if self._placement.ranks_per_node == 1:
            return subprocess.Popen(self._arguments, env=environment, pass_fds=inherited)
        process = subprocess.Popen(
            self._arguments,
            env=environment,
            pass_fds=inherited,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        printer = threading.Thread(target=_print_prefixed, args=(process.stdout, rank), daemon=True)
        printer.start()
        self._printers.append(printer)
        return process


def default_environment(
    placement: Placement, threads: int, *, is_deterministic: bool = False
) -> dict[str, str]:
    """How libraries are tuned where neither the job's spec.env nor the image says otherwise."""
    # Threads that wait by spinning burn the CPU quota that the others of a pod, or of a busy node, need.
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if is_deterministic:
        # cuBLAS reads it once, before its first product. Source: torch.use_deterministic_algorithms.
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if placement.world_size > 1:
        # torch remarks on every run that no parameter is unused; why it looks for them says training.py.
        environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    if placement.world_size > 1 and placement.nodes == 1:
        # All ranks share the pod: its own name need not resolve, and no other network is touched.
        environment |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return environment


def rank_environment(
    rank: int, placement: Placement, port: int, *, needs_group: bool | None = None
) -> dict[str, str]:
    """The variables by which a rank knows its place. A single one mostly gets none: there is no process group then."""
    if not (placement.world_size > 1 if needs_group is None else needs_group):
        return dict(_OWN_REPORTS_ONLY)
    return {
        **_OWN_REPORTS_ONLY,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank - placement.ranks.start),
        "WORLD_SIZE": str(placement.world_size),
        "LOCAL_WORLD_SIZE": str(placement.ranks_per_node),
        "MASTER_ADDR": placement.master_address,
        "MASTER_PORT": str(port),
    }


def process_arguments(job_path: Path) -> list[str]:
    """The command line of a rank, without the interpreter."""
    return ["-m", "finetune_trainer.rank", "--job", str(job_path), "--launcher", str(os.getpid())]


def _state_letter(pid: int) -> str:
    """The process's state as the kernel tells it; empty where it is gone."""
    try:
        # The name in parentheses may hold spaces and parentheses of its own.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _print_prefixed(stream: IO[bytes], rank: int) -> None:
    prefix = f"[rank {rank}] ".encode()
    for line in stream:
        sys.stderr.buffer.write(prefix + line)
        sys.stderr.buffer.flush()

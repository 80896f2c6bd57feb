"""The cluster's nodes seen from the machine beneath them: the processes of their pods, and a node that freezes.

Everything is read from /proc and the nodes' cgroups, so it is true whatever the containers themselves would say.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.addresses import NodeAddress, node_address
from devcluster.cgroups import MOUNTS, hierarchies
from devcluster.processes import ProcessTable
from devcluster.state import StateDirectory

STATE = StateDirectory(Path(".devcluster").resolve())
PAUSE = "/pause"
NODES = (node_address(1, STATE.identity), node_address(2, STATE.identity))


def processes_of(node: NodeAddress) -> Iterator[tuple[int, str]]:
    """Pid, and uid of the pod, of every process that runs in a pod of the node; pause processes too."""
    tops = (each / node.cgroup.lstrip("/") / "kubepods" for each in hierarchies(MOUNTS.read_text()))
    # Not glob(): what a container's end removes meanwhile is an error to it.
    for folder, _, _ in os.walk(next(top for top in tops if top.is_dir())):
        pod = next((part.removeprefix("pod") for part in Path(folder).parts if part.startswith("pod")), None)
        for pid in _read_numbers(Path(folder, "cgroup.procs")) if pod else []:
            yield pid, str(pod)


def processes_of_pod(uid: str) -> list[int]:
    """Every process of a pod, on whichever node it is."""
    return [pid for node in NODES for pid, pod in processes_of(node) if pod == uid]


def argv_of(pid: int) -> list[str]:
    """The command line; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def kill_container(uid: str) -> None:
    """SIGKILL for the first process of the trainer container, which ends all others with it."""
    (first,) = [
        pid for pid in processes_of_pod(uid) if is_first_in_container(pid) and argv_of(pid)[:1] != [PAUSE]
    ]
    os.kill(first, signal.SIGKILL)


def is_first_in_container(pid: int) -> bool:
    """Whether it is process 1 of its pid namespace."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return next(line for line in status.splitlines() if line.startswith("NSpid")).split()[-1] == "1"


@contextmanager
def frozen(node: NodeAddress) -> Iterator[None]:
    """Stop everything of a node in the middle of what it does, as a paused machine; afterwards it goes on."""
    records = [
        ProcessTable(STATE).load(f"{name}-{node.name}") for name in ("kubelet", "containerd", "kube-proxy")
    ]
    pids = [record.pid for record in records if record] + [pid for pid, _ in processes_of(node)]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def _read_numbers(path: Path) -> list[int]:
    try:
        return [int(each) for each in path.read_text().split()]
    except OSError:
        return []

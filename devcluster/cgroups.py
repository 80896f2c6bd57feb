"""Makes and removes the cgroup below which all of a node's pods run, on cgroup v1 and v2 hosts.

Since every container process is in it, it is also the surest way to find and end them all.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from devcluster.errors import DevClusterError

MOUNTS = Path("/proc/self/mountinfo")
INHERITED_BY_COPY = ("cpuset.cpus", "cpuset.mems")
V2_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


def ensure_cgroup(name: str) -> None:
    """Create a top-level cgroup in every hierarchy."""
    for hierarchy in hierarchies(MOUNTS.read_text()):
        folder = hierarchy / name.lstrip("/")
        if (hierarchy / "cgroup.subtree_control").exists():
            for controller in V2_CONTROLLERS:
                with contextlib.suppress(OSError):
                    (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir(exist_ok=True)
        for setting in INHERITED_BY_COPY:
            # A new cpuset of cgroup v1 is empty, and no process can enter it before it has CPUs and memory nodes.
            if (folder / setting).exists() and not (folder / setting).read_text().strip():
                with contextlib.suppress(OSError):
                    (folder / setting).write_text((hierarchy / setting).read_text())


def hierarchies(mountinfo: str) -> list[Path]:
    """List the mount points of cgroup v1 controllers and of cgroup v2."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in {"cgroup", "cgroup2"}:
            found.append(Path(before.split()[4]))
    return found


def remove_cgroup(name: str, timeout_seconds: float = 20.0) -> None:
    """End every process in the cgroup and remove it from every hierarchy."""
    deadline = time.monotonic() + timeout_seconds
    tops = [hierarchy / name.lstrip("/") for hierarchy in hierarchies(MOUNTS.read_text())]
    while remaining := [top for top in tops if top.exists()]:
        for top in remaining:
            _empty(top)
        if time.monotonic() > deadline:
            raise DevClusterError(
                f"cgroup {remaining[0]} cannot be removed; its cgroup.procs names who is in it"
            )
        time.sleep(0.05)


def _empty(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            for pid in (Path(folder) / "cgroup.procs").read_text().split():
                # 0 stands for a process outside this pid namespace.
                if pid != "0":
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()

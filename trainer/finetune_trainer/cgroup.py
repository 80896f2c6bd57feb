"""What the container's cgroup grants: CPU time and memory, under cgroup v2 and v1. Torch-free.

torch counts the machine's cores; with a quota of two on a machine of 64 its threads would be throttled to a crawl.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_MOUNT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> int:
    """Whole CPUs this process can keep busy: its affinity, bounded by the quotas above it; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _cpu_folders(mount, membership) if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *(math.floor(quota + 1e-6) for quota in quotas)]))


def oom_kills(mount: Path = _MOUNT, membership: Path = _MEMBERSHIP) -> int:
    """How often the kernel has killed a process of this cgroup for its memory; 0 where that is not told."""
    for folder in _folders(mount, membership, controller="memory"):
        for name in ("memory.events", "memory.oom_control"):
            counts = dict(line.split()[:2] for line in _read(folder / name).splitlines())
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return 0


def available_memory_bytes(
    mount: Path = _MOUNT, membership: Path = _MEMBERSHIP, meminfo: Path = Path("/proc/meminfo")
) -> int:
    """Memory that processes of this cgroup may still take: the tightest limit above it, and what the machine has."""
    free = [
        left for folder in _folders(mount, membership, "memory") if (left := _memory_left(folder)) is not None
    ]
    machine = (line.split() for line in _read(meminfo).splitlines())
    free += [int(words[1]) * 1024 for words in machine if words[0] == "MemAvailable:"]
    return max(0, min(free, default=0))


def _memory_left(folder: Path) -> int | None:
    for limit_name, used_name, droppable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read(folder / limit_name), _read(folder / used_name)
        if limit.isdecimal() and used.isdecimal():
            stat = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines())
            return int(limit) - int(used) + int(stat.get(droppable, 0))
    return None


def _quota(folder: Path) -> float | None:
    unified = _read(folder / "cpu.max").split()
    if len(unified) == 2 and unified[0] != "max":
        return int(unified[0]) / int(unified[1])
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _cpu_folders(mount: Path, membership: Path) -> list[Path]:
    return _folders(mount, membership, controller="cpu")


def _folders(mount: Path, membership: Path, controller: str) -> list[Path]:
    """The cgroup's folder and those above it, innermost first. Lines read `4:cpu,cpuacct:/path` or `0::/path`."""
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = mount / controllers if controllers and (mount / controllers).is_dir() else mount
            root = mount / controller if controllers and not (mount / controllers).is_dir() else root
            inner = PurePosixPath(path.lstrip("/"))
            # In a container the path may be the host's while the mount is the container's own: then only the root fits.
            return [folder for part in (inner, *inner.parents) if (folder := root / part).is_dir()] or [root]
    return [mount]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""

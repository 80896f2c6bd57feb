"""What the figures were measured on, and whether somebody else used the machine meanwhile."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

MIB = 1024**2
# More of others' work than this, in cores, and the figures are no measure.
QUIET_CORES = 0.2
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Fields of /proc/stat's first line that are not work: idle and iowait. Guest time is counted in user already.
_IDLE_FIELDS, _COUNTED_FIELDS = (3, 4), 8


def describe_machine() -> dict[str, Any]:
    """Name the machine well enough to compare two results."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024 / MIB, 1),
        "kernel": platform.release(),
        "loadAverageAtStart": os.getloadavg()[0],
    }


def describe_versions(packages: Iterable[str]) -> dict[str, str]:
    """Name the versions of Python and of these packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used until now; 0 when it is gone."""
    fields = _stat_fields(Path(f"/proc/{pid}/stat"))
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND if fields else 0.0


def peak_memory_mib(pid: int) -> float:
    """The most memory a process has held at once (VmHWM)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/{pid}/status has no VmHWM"
    return int(found[1]) * 1024 / MIB


@dataclass(frozen=True)
class Usage:
    """Processor time used until a moment, by everybody and by this process with all its children."""

    at: float
    everybody: float
    ours: float

    @classmethod
    def now(cls) -> Usage:
        """Read the counters."""
        ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours = sum(each.ru_utime + each.ru_stime for each in ended) + _running_children_seconds()
        return cls(time.monotonic(), _busy_seconds(), ours)

    def foreign_cores(self, later: Usage) -> float:
        """How many cores others, the kernel's own threads included, kept busy between two moments."""
        foreign = (later.everybody - self.everybody) - (later.ours - self.ours)
        return max(0.0, foreign / max(later.at - self.at, 0.001))


def _busy_seconds() -> float:
    """Processor time that everybody on this machine has used until now."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:_COUNTED_FIELDS]) - sum(fields[index] for index in _IDLE_FIELDS)) / TICKS_PER_SECOND


def _running_children_seconds() -> float:
    own = str(os.getpid())
    every = (_stat_fields(path) for path in Path("/proc").glob("[0-9]*/stat"))
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in every if fields and fields[1] == own)
    return ticks / TICKS_PER_SECOND


def _stat_fields(path: Path) -> list[str]:
    """The fields after the command name, which may itself hold spaces; none where the process is gone."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []

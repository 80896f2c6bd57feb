"""Runs a program and watches the memory of it and of everything it starts."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import MIB

ROOT = Path(__file__).parents[2]
_SECONDS_BETWEEN_LOOKS = 0.1
# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_END_WITHIN_SECONDS = 3.0


@dataclass(frozen=True)
class Watched:
    """What a program printed last, as JSON, and the most memory its processes held together."""

    printed: dict[str, Any]
    peak_mib: float


def run_watched(module: str, arguments: Sequence[str], python: str = sys.executable) -> Watched:
    """Run `python -m module`. Memory is PSS summed over the process tree: pages they share count once."""
    _adopt_orphans()
    process = subprocess.Popen(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(_pss_mib(pid) for pid in _tree(process.pid)))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    output, errors = process.communicate()
    _bury_orphans()
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}: {errors[-2000:]}")
    return Watched(json.loads(output.strip().splitlines()[-1]), peak)


def _adopt_orphans() -> None:
    """Become the parent of processes that outlive theirs, so that their processor time counts as ours."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _bury_orphans() -> None:
    deadline = time.monotonic() + _ORPHANS_END_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _tree(root: int) -> list[int]:
    parents = {int(path.parent.name): _parent(path) for path in Path("/proc").glob("[0-9]*/stat")}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pss_mib(pid: int) -> float:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    return int(found[1]) * 1024 / MIB if found else 0.0

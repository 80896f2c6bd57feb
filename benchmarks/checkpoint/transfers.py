"""B-2 to B-4: how fast files move, and how much memory that takes, against boto3 alone.

Ours does more: it hashes what it uploads, and compares what it downloads with the digests. Each round moves everything
once by each, one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.checkpoint.servers import object_store

_MIB = 1024 * 1024
_LEAST_SHARE = 0.9
_MOST_MEMORY_MIB = 128
RIVALS = ("boto3", "crt")


@dataclass(frozen=True)
class TransferPlan:
    """How much, as how many files, how often."""

    total_mib: int
    counts: Sequence[int]
    rounds: int


def measure_transfers(plan: TransferPlan, folder: Path) -> Sequence[Bar]:
    """Move the same bytes as one file, some and many."""
    uploads: list[Figure] = []
    downloads: list[Figure] = []
    memory: list[Figure] = []
    details: dict[str, Any] = {}
    with object_store(folder) as server:
        for count in plan.counts:
            files = _write_files(folder / f"files-{count}", count, plan.total_mib * _MIB // count)
            speeds: dict[str, list[float]] = {}
            peaks: dict[str, list[float]] = {}
            for _ in range(plan.rounds):
                for who in ("ours", *RIVALS):
                    for what, figures in _move(who, server.endpoint, files, folder / "back").items():
                        speeds.setdefault(f"{who} {what}", []).append(plan.total_mib / figures["seconds"])
                        peaks.setdefault(f"{who} {what}", []).append(figures["memoryMiB"])
            name = f"{count} file" + ("s" if count > 1 else "")
            uploads.append(_share(name, speeds, "upload"))
            downloads.append(_share(name, speeds, "download", rivals=("boto3",)))
            memory += [
                Figure(f"{what}, {name}", max(peaks[f"ours {what}"]), "MiB", _MOST_MEMORY_MIB)
                for what in ("upload", "download")
            ]
            details[name] = {who: {"MiB/s": each, "MiB": peaks[who]} for who, each in speeds.items()}
    title = f"{plan.total_mib / 1024:g} GiB"
    return [
        Bar(
            "B-2",
            f"upload and hash {title}, of the speed of the fastest of boto3 and boto3 CRT",
            tuple(uploads),
            details,
        ),
        Bar("B-3", "memory above idle while files move", tuple(memory)),
        Bar("B-4", f"download and verify {title}, of the speed of boto3's download", tuple(downloads)),
    ]


def _share(name: str, speeds: dict[str, list[float]], what: str, rivals: Sequence[str] = RIVALS) -> Figure:
    """Our speed as a share of the fastest rival's, round by round."""
    fastest = [max(each) for each in zip(*(speeds[f"{rival} {what}"] for rival in rivals), strict=True)]
    ratios = [mine / theirs for mine, theirs in zip(speeds[f"ours {what}"], fastest, strict=True)]
    return median_figure(name, ratios, "x", _LEAST_SHARE, more_is_better=True)


def _move(who: str, endpoint: str, files: Path, back: Path) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.checkpoint.mover", who, endpoint, str(files), str(back)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, dict[str, float]] = json.loads(printed.splitlines()[-1])
    return figures


def _write_files(folder: Path, count: int, size_bytes: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        with (folder / f"{number:05d}").open("wb") as file:
            left = size_bytes
            while left:
                left -= file.write(os.urandom(min(left, 16 * _MIB)))
    return folder

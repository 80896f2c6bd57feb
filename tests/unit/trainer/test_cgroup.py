"""What the container's cgroup grants, as Kubernetes mounts it under v2 and v1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.cgroup import oom_kills, usable_cpus


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param("0::/", {"cpu.max": "400000 100000"}, 4, id="v2, the container's own view"),
        pytest.param("0::/", {"cpu.max": "max 100000"}, 64, id="v2 without a limit"),
        pytest.param("0::/", {"cpu.max": "50000 100000"}, 1, id="half a CPU is one thread"),
        pytest.param("0::/", {"cpu.max": "250000 100000"}, 2, id="two and a half CPUs are two threads"),
        pytest.param(
            "0::/pods/a",
            {"cpu.max": "max 100000", "pods/cpu.max": "300000 100000", "pods/a/cpu.max": "800000 100000"},
            3,
            id="v2, the tightest limit above the process",
        ),
        pytest.param(
            "4:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
            id="v1",
        ),
        pytest.param(
            "4:cpu:/kubepods/x",
            {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"},
            6,
            id="v1, a path of the host that the container does not have",
        ),
        pytest.param(
            "4:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            64,
            id="v1 without a limit",
        ),
        pytest.param("", {}, 64, id="no cgroup at all"),
    ],
)
def test_usable_cpus(membership: str, files: dict[str, str], expected: int, tmp_path: Path) -> None:
    write_files(
        tmp_path, {"membership": membership, **{f"mount/{name}": text for name, text in files.items()}}
    )
    assert usable_cpus(tmp_path / "mount", tmp_path / "membership") == expected


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        pytest.param("0::/", {"memory.events": "low 0\noom 3\noom_kill 2"}, id="v2"),
        pytest.param("9:memory:/", {"memory/memory.oom_control": "under_oom 0\noom_kill 2"}, id="v1"),
    ],
)
def test_oom_kills_are_counted(membership: str, files: dict[str, str], tmp_path: Path) -> None:
    write_files(
        tmp_path, {"membership": membership, **{f"mount/{name}": text for name, text in files.items()}}
    )
    assert oom_kills(tmp_path / "mount", tmp_path / "membership") == 2

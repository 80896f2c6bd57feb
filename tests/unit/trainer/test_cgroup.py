"""What the container's cgroup grants, as Kubernetes mounts it under v2 and v1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.cgroup import available_memory_bytes, oom_kills, usable_cpus


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


MIB = 1024**2
MEMINFO = "MemTotal: 16384000 kB\nMemFree: 100 kB\nMemAvailable: 8388608 kB"
MACHINE = 8388608 * 1024


@pytest.mark.parametrize(
    ("membership", "files", "meminfo", "expected"),
    [
        pytest.param(
            "0::/",
            {"memory.max": f"{100 * MIB}", "memory.current": f"{40 * MIB}"},
            MEMINFO,
            60 * MIB,
            id="v2: what its limit leaves",
        ),
        pytest.param(
            "0::/",
            {
                "memory.max": f"{100 * MIB}",
                "memory.current": f"{90 * MIB}",
                "memory.stat": f"anon {20 * MIB}\ninactive_file {70 * MIB}",
            },
            MEMINFO,
            80 * MIB,
            id="v2: cached files give way",
        ),
        pytest.param(
            "0::/", {"memory.max": "max", "memory.current": "1"}, MEMINFO, MACHINE, id="v2, no limit"
        ),
        pytest.param(
            "0::/pods/a",
            {
                "pods/memory.max": f"{50 * MIB}",
                "pods/memory.current": f"{30 * MIB}",
                "pods/a/memory.max": f"{100 * MIB}",
                "pods/a/memory.current": f"{10 * MIB}",
            },
            MEMINFO,
            20 * MIB,
            id="v2: the tightest limit above the process",
        ),
        pytest.param(
            "9:memory:/",
            {
                "memory/memory.limit_in_bytes": f"{100 * MIB}",
                "memory/memory.usage_in_bytes": f"{90 * MIB}",
                "memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {10 * MIB}",
            },
            MEMINFO,
            20 * MIB,
            id="v1",
        ),
        pytest.param(
            "9:memory:/",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"},
            MEMINFO,
            MACHINE,
            id="v1 without a limit, which is a huge one",
        ),
        pytest.param(
            "0::/",
            {"memory.max": f"{100 * MIB}", "memory.current": f"{101 * MIB}"},
            MEMINFO,
            0,
            id="a limit that is overstepped leaves nothing",
        ),
        pytest.param(
            "0::/", {"memory.max": f"{MIB}", "memory.current": "0"}, "", MIB, id="no word of the machine"
        ),
        pytest.param("", {}, MEMINFO, MACHINE, id="no cgroup at all"),
        pytest.param("", {}, "", 0, id="nothing is known"),
    ],
)
def test_available_memory(
    membership: str, files: dict[str, str], meminfo: str, expected: int, tmp_path: Path
) -> None:
    mounted = {f"mount/{name}": text for name, text in files.items()}
    write_files(tmp_path, {"membership": membership, "meminfo": meminfo, **mounted})
    (tmp_path / "mount").mkdir(exist_ok=True)
    found = available_memory_bytes(tmp_path / "mount", tmp_path / "membership", tmp_path / "meminfo")
    assert found == expected

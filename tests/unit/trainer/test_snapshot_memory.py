"""Memory files for snapshots: whether there is room, and how a rank finds its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune_trainer.checkpoint_files import OPTIMIZER, PARAMETERS
from finetune_trainer.snapshot_memory import (
    ENV_SNAPSHOT_MEMORY,
    SnapshotMemory,
    fits_in_memory,
    memory_paths,
)


@pytest.mark.parametrize(
    ("snapshot_bytes", "available_bytes", "ranks", "expected"),
    [
        pytest.param(80, 100, 1, True, id="four fifths of what is free"),
        pytest.param(81, 100, 1, False, id="a little more"),
        pytest.param(40, 100, 2, True, id="two ranks take twice as much"),
        pytest.param(41, 100, 2, False, id="two ranks that do not fit, of which one would"),
        pytest.param(0, 0, 8, True, id="nothing to keep"),
        pytest.param(1, 0, 1, False, id="nothing is free"),
    ],
)
def test_whether_snapshots_fit(snapshot_bytes: int, available_bytes: int, ranks: int, expected: bool) -> None:
    assert fits_in_memory(snapshot_bytes, available_bytes, ranks) is expected


def test_each_rank_finds_its_own_files() -> None:
    memory = SnapshotMemory((2, 3))
    try:
        paths = [memory_paths(memory.environment(rank)[ENV_SNAPSHOT_MEMORY]) for rank in (2, 3)]
        assert [set(each) for each in paths] == [{PARAMETERS, OPTIMIZER}] * 2
        every = [path for each in paths for path in each.values()]
        assert len(set(every)) == 4
        assert {Path(f"/proc/self/fd/{number}") for number in memory.descriptors} == set(every)
        for number, path in enumerate(every):
            path.write_bytes(bytes([number]))
        assert [path.read_bytes() for path in every] == [bytes([number]) for number in range(4)]
    finally:
        for descriptor in memory.descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("environment", [None, ""])
def test_a_rank_without_a_launcher_has_none(environment: str | None) -> None:
    assert memory_paths(environment) == {}

"""The memory that snapshots are copied to: files without a name, made by the launcher and open in ranks and uploader.

They live as long as one of those processes does, so a rank that dies takes no snapshot along. Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from finetune_trainer.checkpoint_files import OPTIMIZER, PARAMETERS

# Paths by kind of state, in the environment of a rank.
ENV_SNAPSHOT_MEMORY = "FINETUNE_SNAPSHOT_MEMORY"
# Of what is free: the rest is for what training needs later.
LARGEST_SHARE = 0.8


class SnapshotMemory:
    """Two files a rank: its parameters and its moments. Empty until they are filled."""

    def __init__(self, ranks: Iterable[int]) -> None:
        self._files = {
            rank: {kind: os.memfd_create(f"{kind}-{rank}", 0) for kind in (PARAMETERS, OPTIMIZER)}
            for rank in ranks
        }

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What ranks and uploader inherit, under these very numbers."""
        return tuple(file for files in self._files.values() for file in files.values())

    def environment(self, rank: int) -> dict[str, str]:
        """Tells a rank its files."""
        files = self._files[rank]
        return {
            ENV_SNAPSHOT_MEMORY: ":".join(f"/proc/self/fd/{files[kind]}" for kind in (PARAMETERS, OPTIMIZER))
        }


def memory_paths(environment: str | None) -> dict[str, Path]:
    """This rank's files by kind; empty where no launcher made any."""
    if not environment:
        return {}
    return dict(zip((PARAMETERS, OPTIMIZER), map(Path, environment.split(":")), strict=True))


def fits_in_memory(snapshot_bytes: int, available_bytes: int, ranks: int) -> bool:
    """Whether a pod has room for the snapshots of all its ranks, beside what it holds already."""
    return snapshot_bytes * ranks <= LARGEST_SHARE * available_bytes

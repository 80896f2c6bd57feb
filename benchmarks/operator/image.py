"""C-9: what the operator's image weighs, and what must not be in it.

Where no image was built on this machine, the packages that would go into it are installed and weighed instead.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.bars import Bar, Figure
from benchmarks.machine import MIB
from benchmarks.operator.installation import ROOT
from benchmarks.operator.scale import Scale
from benchmarks.operator.world import OpenWorld
from devcluster import buildah_store
from devcluster.errors import DevClusterError

IMAGE = "localhost/finetune-operator:dev"
TITLE = "operator image, unpacked"
TARGET_MIB = 300
_COMPILER = re.compile(r"([a-z0-9_]+-linux-gnu-)?(gcc|g\+\+|cc|c\+\+|clang|tcc|nvcc|rustc|go)(-[0-9.]+)?")
_PROGRAM_FOLDERS = frozenset({"bin", "sbin"})


async def measure_image(_: OpenWorld, __: Scale) -> Sequence[Bar]:
    """Weigh the image."""
    return (await asyncio.to_thread(_measure),)


def _measure() -> Bar:
    try:
        image = buildah_store.inspect_image(IMAGE)
        folders = buildah_store.find_layer_folders(image)
    except (DevClusterError, OSError, StopIteration):
        return _measure_packages()
    if folders is None:
        return _measure_packages()
    details = {"image": f"{IMAGE}@{image.identifier[:12]}", "layers": len(folders)}
    return _bar(folders, "MiB", details)


def _measure_packages() -> Bar:
    """What uv installs for the operator, without the base image."""
    with tempfile.TemporaryDirectory(prefix="ftb-") as folder:
        environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": f"{folder}/venv", "VIRTUAL_ENV": ""}
        command = ["uv", "sync", "--quiet", "--frozen", "--no-dev", "--no-editable", "--extra", "operator"]
        subprocess.run([*command, "--compile-bytecode"], cwd=ROOT, env=environment, check=True)
        details = {"image": f"{IMAGE} is not in buildah's store: packages only, without the base image"}
        return _bar([Path(folder)], "MiB of packages, no image", details)


def _bar(folders: Sequence[Path], unit: str, details: Mapping[str, object]) -> Bar:
    files = [each for folder in folders for each in _walk(folder)]
    unwanted = sorted({str(each.path) for each in files if each.is_unwanted})
    size = sum(each.size_bytes for each in files) / MIB
    figures = (
        Figure("size", size, unit, TARGET_MIB),
        Figure("compilers and torch", len(unwanted), "files", 0),
    )
    return Bar("C-9", TITLE, figures, {**details, "unwanted": unwanted[:20]})


class _File:
    """One file of a layer."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        # Links are weighed as what they are.
        self.size_bytes = self.path.lstat().st_size

    @property
    def is_unwanted(self) -> bool:
        """Whether it is a compiler or belongs to torch."""
        is_program = self.path.parent.name in _PROGRAM_FOLDERS
        is_compiler = is_program and _COMPILER.fullmatch(self.path.name) is not None
        return is_compiler or "torch" in self.path.parts


def _walk(folder: Path) -> Iterable[_File]:
    return (_File(Path(root), name) for root, _, names in os.walk(folder) for name in names)

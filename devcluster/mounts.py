"""Finds and removes what is mounted below a folder: kubelet's volumes, containers' root folders, network namespaces."""

import re
from pathlib import Path

from devcluster.commands import run, succeeds

MOUNTS = Path("/proc/self/mountinfo")


def unmount_below(*folders: Path) -> None:
    """Unmount everything below these folders, the deepest first."""
    for point in mount_points_below(MOUNTS.read_text(), folders):
        if not succeeds("umount", point):
            # A mount that something still holds is detached at once and goes away with its holder.
            run("umount", "--lazy", point)


def mount_points_below(mountinfo: str, folders: tuple[Path, ...]) -> list[Path]:
    """List mount points below the folders in the order in which they can be unmounted."""
    points = [Path(_unescape(line.split()[4])) for line in mountinfo.splitlines()]
    ours = [point for point in points if any(point.is_relative_to(folder) for folder in folders)]
    # The list of the kernel is in the order of mounting: a later mount may lie on top of an earlier one.
    return list(reversed(ours))


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)

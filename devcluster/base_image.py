"""Makes the base of our images where no registry can be reached: a small Debian with Python, by debootstrap.

Where there is a registry, FINETUNE_BASE_IMAGE names an ordinary python slim image instead.
"""

import shutil
import tempfile
from pathlib import Path

from devcluster import mounts
from devcluster.commands import run, succeeds
from devcluster.console import Console
from devcluster.preflight import IMAGE_PACKAGES, check_free_disk, check_root, ensure_packages

BASE_IMAGE = "localhost/finetune-base:bookworm"
RELEASE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# What a container never reads; the rest of these trees stays.
SUPERFLUOUS = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
)


def ensure_base_image(console: Console) -> str:
    """Return the name of the base image, making it first unless it is in buildah's store."""
    check_root("building images")
    ensure_packages(IMAGE_PACKAGES, console)
    if not succeeds("buildah", "inspect", "--type", "image", BASE_IMAGE):
        check_free_disk(Path("/var/tmp"), 1, "the base image")
        with console.step(f"making {BASE_IMAGE} with debootstrap"):
            _build()
    return BASE_IMAGE


def _build() -> None:
    folder = Path(tempfile.mkdtemp(prefix="finetune-base-", dir="/var/tmp"))
    try:
        run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", RELEASE, folder)
        for name in SUPERFLUOUS:
            _empty(folder / name)
        _commit(folder)
    finally:
        mounts.unmount_below(folder)
        shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _commit(folder: Path) -> None:
    container = run("buildah", "from", "scratch").strip()
    try:
        run("buildah", "add", "--quiet", container, folder, "/")
        run("buildah", "config", "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
        run("buildah", "commit", "--quiet", container, BASE_IMAGE)
    finally:
        run("buildah", "rm", container)

"""Refuses early, in a sentence, what could only fail later: no root, no Go, no disk space, missing programs.

Called by the commands before they change anything on the machine.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.console import Console
from devcluster.errors import DevClusterError

OLDEST_GO = (1, 24)
GIB = 1024**3
FREE_GIB = {"full": 25, "control-plane": 3, "s3": 1}

CNI_PLUGINS = "the CNI plugins"
# Debian package by the program (or file) that it brings.
NODE_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "mount": "mount",
    "unshare": "util-linux",
    "openssl": "openssl",
    CNI_PLUGINS: "containernetworking-plugins",
}
IMAGE_PACKAGES = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
# Shows the reports in tests. Whichever is here will do; Debian's is installed where none is.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PACKAGES = {"chromium": "chromium"}
POLICY_FILE = Path("/usr/sbin/policy-rc.d")
WAIT_FOR_OTHER_INSTALLATIONS = ("-o", "DPkg::Lock::Timeout=300")


def check_root(action: str) -> None:
    """Refuse to go on without root."""
    if os.geteuid() != 0:
        raise DevClusterError(
            f"{action} needs root: it creates a network bridge, mounts and cgroups. Run it with sudo, or use "
            "`up --control-plane-only`, which needs no root, or a cluster of your own by CLUSTER=current."
        )


def check_go(wanted_for: str) -> None:
    """Refuse to build without a recent enough Go."""
    advice = "Install Go from https://go.dev/dl or your distribution and put it on PATH."
    if shutil.which("go") is None:
        raise DevClusterError(f"{wanted_for} has to be built, and there is no Go on PATH. {advice}")
    answer = subprocess.run(
        ["go", "env", "GOVERSION"], capture_output=True, text=True, check=False
    ).stdout.strip()
    version = parse_go_version(answer)
    if version is not None and version < OLDEST_GO:
        raise DevClusterError(
            f"{wanted_for} has to be built with Go {_dotted(OLDEST_GO)} or newer, found {answer}. {advice}"
        )


def parse_go_version(answer: str) -> tuple[int, int] | None:
    """Read `go env GOVERSION`; None for development versions, which are taken to be new."""
    match = re.match(r"go(\d+)\.(\d+)", answer)
    return (int(match[1]), int(match[2])) if match else None


def check_free_disk(folder: Path, free_gib: int, purpose: str) -> None:
    """Refuse to start where the disk would fill up."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < free_gib * GIB:
        raise DevClusterError(
            f"{purpose} needs {free_gib} GiB of free disk space and {existing} has {free_bytes / GIB:.1f} GiB. "
            "Free some, or choose another disk by --state-dir."
        )


def missing_packages(packages: dict[str, str]) -> list[str]:
    """Name the Debian packages whose programs are not on this machine."""
    return sorted({package for program, package in packages.items() if not _is_present(program)})


def ensure_packages(packages: dict[str, str], console: Console) -> None:
    """Install missing system packages where we may, and name them where we may not."""
    missing = missing_packages(packages)
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise DevClusterError(
            f"these system packages are missing (by their Debian names): {', '.join(missing)}. Install them; on "
            "Debian and Ubuntu this command does it itself when run as root."
        )
    with console.step(f"installing {', '.join(missing)} with apt-get"), _no_services_started():
        _apt_get("update")
        _apt_get("install", "--yes", "--no-install-recommends", *missing)
    if still_missing := missing_packages(packages):
        raise DevClusterError(
            f"apt-get installed {', '.join(still_missing)} but the programs are not on PATH: {os.environ['PATH']}"
        )


def ensure_chromium(console: Console) -> Path:
    """Find a Chromium, or install Debian's where we may; its path."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        ensure_packages(BROWSER_PACKAGES, console)
        found = shutil.which("chromium")
    assert found is not None, "ensure_packages looked for it on PATH"
    return Path(found)


def _is_present(program: str) -> bool:
    if program == CNI_PLUGINS:
        return cni_bin_dir() is not None
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=_path_with_sbin()) is not None


def _path_with_sbin() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def cni_bin_dir() -> Path | None:
    """Find where the distribution put the CNI plugins."""
    for folder in (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni")):
        if all((folder / plugin).exists() for plugin in ("bridge", "host-local", "loopback")):
            return folder
    return None


def _apt_get(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(
        ["apt-get", "-qq", *WAIT_FOR_OTHER_INSTALLATIONS, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise DevClusterError(
            f"apt-get {' '.join(arguments)} failed:\n{result.stderr[-2000:]}\nIf there is no network here, run "
            "`python -m devcluster prepare` where there is one."
        )


@contextmanager
def _no_services_started() -> Iterator[None]:
    # The containerd package starts a service of its own; ours has its own root, state and socket.
    if POLICY_FILE.exists():
        yield
        return
    POLICY_FILE.write_text("#!/bin/sh\nexit 101\n")
    POLICY_FILE.chmod(0o755)
    try:
        yield
    finally:
        POLICY_FILE.unlink()


def _dotted(version: Iterable[int]) -> str:
    return ".".join(str(part) for part in version)

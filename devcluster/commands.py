"""Runs the short-lived programs of the system (ip, nft, ctr, umount, …) and turns a failure into a sentence.

Lists only, never a shell string.
"""

import os
import subprocess
from pathlib import Path

from devcluster.errors import DevClusterError

SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def run(*command: str | Path, stdin: bytes | None = None) -> str:
    """Run a program to its end and return what it printed; raise when it fails."""
    result = subprocess.run(
        [str(each) for each in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env={**os.environ, "PATH": SYSTEM_PATH},
        check=False,
    )
    if result.returncode != 0:
        shown = " ".join(str(each) for each in command)
        words = (result.stderr or result.stdout).decode(errors="replace").strip()[-1500:]
        raise DevClusterError(f"`{shown}` failed with exit code {result.returncode}: {words}")
    return result.stdout.decode(errors="replace")


def succeeds(*command: str | Path) -> bool:
    """Run a program whose failure is an answer, not an error."""
    result = subprocess.run(
        [str(each) for each in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PATH": SYSTEM_PATH},
        check=False,
    )
    return result.returncode == 0

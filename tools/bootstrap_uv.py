"""Puts the pinned uv into .tools/uv, with nothing but this Python: what `make` runs first on a bare machine."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

UV = "uv==0.13.8"
TARGET = Path(".tools/uv")


def main() -> int:
    """Create the environment and install uv into it; say what to install where Python lacks the means."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs on whatever python3 is)
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]} ({sys.executable}).")
    try:
        venv.create(TARGET, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        return fail(f"python3 cannot make an environment ({error}). On Debian: apt-get install python3-venv")
    command = [
        str(TARGET / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        UV,
    ]
    if subprocess.run(command).returncode:
        return fail(f"pip could not install {UV}: check the network and pip's index configuration.")
    return 0


def fail(sentence: str) -> int:
    """Print the sentence and return the exit status."""
    sys.stderr.write(sentence + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

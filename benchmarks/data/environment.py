"""An environment with what the prepare image has, and nothing else: the development one has libraries that cost start.

pyarrow imports pandas wherever that is installed; the image has none, and so this one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.data.memory import ROOT


def install_prepare_environment(folder: Path) -> str:
    """Install the extra `prepare` from uv.lock, as the image does; return its interpreter."""
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder), "VIRTUAL_ENV": ""}
    command = ("uv", "sync", "--quiet", "--frozen", "--no-dev", "--extra", "prepare")
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return str(folder / "bin" / "python")

"""The base model of the quickstart, made once and kept outside the repository."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from examples.quickstart.environment import QuickstartError

HERE = Path(__file__).parent
# What goes into the base model: its maker and its text, not the rows it will be tuned on.
INPUTS = ("make_base_model.py", "base_text.py", "muon.py", "base_corpus", "slots.toml")


def ensure_base_model() -> Path:
    """The folder with the base model; `make_base_model.py` runs only if its inputs changed."""
    folder = _cache() / f"base-{_digest()}"
    if not (folder / "config.json").exists():
        command = [sys.executable, "-m", "examples.quickstart.make_base_model", "--output", str(folder)]
        # OpenMP threads that spin while they wait triple the time where another program wants the same cores.
        variables = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        if subprocess.run(command, env=variables).returncode:
            raise QuickstartError(f"`{' '.join(command[1:])}` failed: see above")
    print(f"  {folder}")
    return folder


def _cache() -> Path:
    if own := os.environ.get("FINETUNE_CACHE"):
        return Path(own) / "quickstart"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "finetune-devcluster/quickstart"


def _digest() -> str:
    digest = hashlib.sha256()
    for name in INPUTS:
        path = HERE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.relative_to(HERE).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]

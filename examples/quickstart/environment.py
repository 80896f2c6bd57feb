"""Where the quickstart runs: our one-machine cluster, or the current kubectl context with CLUSTER=current."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEV_ENVIRONMENT_FILE = Path(".devcluster/env")
DEV_IMAGES = {
    "operator": "localhost/finetune-operator:dev",
    "prepare": "localhost/finetune-trainer-prepare:dev",
    "trainer": "localhost/finetune-trainer:dev",
}


class QuickstartError(Exception):
    """The quickstart cannot go on; the sentence says what to do."""


@dataclass(frozen=True)
class S3Store:
    """A bucket that this machine and the cluster's pods both reach."""

    endpoint: str
    region: str
    access_key_id: str
    secret_access_key: str
    bucket: str


@dataclass(frozen=True)
class Environment:
    """A cluster, a store, and the images that the cluster can start."""

    variables: Mapping[str, str]
    store: S3Store
    images: Mapping[str, str]

    def run(self, *command: str, stdin: str | None = None, quiet: bool = False) -> str:
        """Run a command with this cluster's KUBECONFIG and tools; its standard output.

        Raises QuickstartError with the command's own words.
        """
        result = subprocess.run(command, env=self.variables, input=stdin, capture_output=True, text=True)
        if result.returncode:
            raise QuickstartError(
                f"`{shlex.join(command)}` failed: {(result.stderr or result.stdout).strip()}"
            )
        if not quiet:
            sys.stdout.write("".join(f"  {line}\n" for line in result.stdout.splitlines()))
        return result.stdout


def open_environment() -> Environment:
    """Start our cluster with its images, or take the current context."""
    if os.environ.get("CLUSTER") == "current":
        return _current_context(os.environ)
    return start_dev_cluster()


def start_dev_cluster(*arguments: str) -> Environment:
    """Bring up the one-machine cluster, build the images and load them into it."""
    for command in (["up", *arguments], ["build-images"], ["load-image", *DEV_IMAGES.values()]):
        if subprocess.run([sys.executable, "-m", "devcluster", *command]).returncode:
            raise QuickstartError(f"`python -m devcluster {command[0]}` failed: see above")
    variables = {**os.environ, **_read_exports(DEV_ENVIRONMENT_FILE, os.environ)}
    return Environment(variables, _store(variables), DEV_IMAGES)


def _current_context(variables: Mapping[str, str]) -> Environment:
    registry = variables.get("IMAGE_REGISTRY")
    if not registry:
        raise QuickstartError(
            "CLUSTER=current needs IMAGE_REGISTRY, a registry the cluster pulls from and to which images/ was built "
            "and pushed as finetune-operator, finetune-trainer-prepare and finetune-trainer"
        )
    tag = variables.get("IMAGE_TAG", "0.1.0")
    images = {
        "operator": f"{registry}/finetune-operator:{tag}",
        "prepare": f"{registry}/finetune-trainer-prepare:{tag}",
        "trainer": f"{registry}/finetune-trainer:{tag}",
    }
    return Environment(dict(variables), _store(variables), images)


def _store(variables: Mapping[str, str]) -> S3Store:
    needed = ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    missing = [name for name in needed if not variables.get(name)]
    if missing:
        raise QuickstartError(f"set {', '.join(missing)}: the store that holds base model, rows and result")
    return S3Store(
        endpoint=variables["S3_ENDPOINT"],
        region=variables.get("AWS_REGION", "us-east-1"),
        access_key_id=variables["AWS_ACCESS_KEY_ID"],
        secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        bucket=variables.get("S3_BUCKET", "quickstart"),
    )


def _read_exports(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    """What `source PATH` would export: asked of a shell, which knows its own quoting."""
    shell = subprocess.run(
        ["bash", "-c", 'set -a; source "$1"; env -0', "-", str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=dict(known),
    )
    return dict(entry.split("=", 1) for entry in shell.stdout.split("\0") if "=" in entry)

"""Installs the operator with its chart, as on any cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from examples.quickstart.environment import Environment, QuickstartError

RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"
CHART = "helm/finetune-operator"


def install_operator(environment: Environment, *settings: str) -> None:
    """`helm upgrade --install` with this environment's images; returns when the operator is ready.

    The operator's own namespace is restricted too.
    """
    ensure_restricted_namespace(environment, NAMESPACE)
    environment.run(
        *(
            "helm",
            "upgrade",
            "--install",
            RELEASE,
            CHART,
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout",
            "3m",
        ),
        *image_settings(environment),
        *(argument for setting in settings for argument in ("--set", setting)),
    )


def image_settings(environment: Environment) -> list[str]:
    """The chart's values for the images."""
    arguments = []
    for value, name in (
        ("image", "operator"),
        ("trainer.image", "trainer"),
        ("trainer.prepareImage", "prepare"),
    ):
        repository, _, tag = environment.images[name].rpartition(":")
        arguments += ["--set", f"{value}.repository={repository}", "--set", f"{value}.tag={tag}"]
    return arguments


def ensure_restricted_namespace(environment: Environment, name: str) -> None:
    """A namespace that enforces the restricted Pod Security Standard, and warns as well."""
    labels = "".join(
        f"\n    pod-security.kubernetes.io/{mode}: restricted" for mode in ("enforce", "warn", "audit")
    )
    manifest = f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:{labels}\n"
    environment.run("kubectl", "apply", "-f", "-", stdin=manifest, quiet=True)


def uninstall_operator(pulled: Path) -> None:
    """Remove the cluster that the quickstart started, or from the current one what it installed."""
    shutil.rmtree(pulled, ignore_errors=True)
    if os.environ.get("CLUSTER") != "current":
        if subprocess.run([sys.executable, "-m", "devcluster", "down"]).returncode:
            raise QuickstartError("`python -m devcluster down` failed: see above")
        return
    for command in (
        ["kubectl", "delete", "namespace", "quickstart", "--ignore-not-found"],
        ["helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found"],
    ):
        subprocess.run(command, check=True)

"""The one-machine cluster as tests use it: two nodes, and what pods can be told apart by."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from examples.quickstart.environment import Environment, start_dev_cluster
from tests.e2e.jobs import LINKS
from tests.e2e.nodes import NODES


@dataclass(frozen=True)
class RunningCluster:
    """The cluster, with the images of this tree; `was_running` before."""

    environment: Environment
    was_running: bool


@contextmanager
def running_cluster() -> Iterator[RunningCluster]:
    """One that was there before (`make cluster-up`) stays; one that is started here goes."""
    was_running = devcluster("status") == 0
    try:
        environment = start_dev_cluster("--nodes", "2", "--gpus", "4")
        offer_links(environment)
        yield RunningCluster(environment, was_running)
    finally:
        if not was_running:
            assert devcluster("down") == 0


def devcluster(command: str) -> int:
    """Run a command of the dev cluster's; its exit status."""
    return subprocess.run([sys.executable, "-m", "devcluster", command], stdout=subprocess.DEVNULL).returncode


def offer_links(environment: Environment) -> None:
    """Let each node offer one link of each kind, as it offers its stand-in GPUs."""
    links = [
        {"op": "add", "path": f"/status/{where}/{link.replace('/', '~1')}", "value": "1"}
        for where in ("capacity", "allocatable")
        for link in LINKS
    ]
    for node in NODES:
        environment.run(
            *("kubectl", "patch", "node", node.name, "--subresource=status", "--type=json"),
            *("-p", json.dumps(links)),
            quiet=True,
        )

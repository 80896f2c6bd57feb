"""Where this pod's ranks stand among all ranks of the run, and where they meet. Torch-free.

A static rendezvous: rank 0 of pod 0 listens, everybody else knows its address from the start. A gang starts and ends
as a whole, so nothing about it ever changes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api import names
from finetune_api.spec import Parallelism
from finetune_trainer.errors import UserError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Placement:
    """One pod of the gang. Port 0: the ranks of a single pod take a free one."""

    node: int
    nodes: int
    ranks_per_node: int
    master_address: str = LOOPBACK
    master_port: int = 0

    @property
    def world_size(self) -> int:
        """Number of ranks of all pods."""
        return self.nodes * self.ranks_per_node

    @property
    def ranks(self) -> range:
        """The ranks of this pod, as numbered over all pods."""
        return range(self.node * self.ranks_per_node, (self.node + 1) * self.ranks_per_node)

    @property
    def is_first_node(self) -> bool:
        """Whether rank 0 runs in this pod: it claims the run and speaks for all."""
        return self.node == 0


def decide_placement(parallelism: Parallelism, environment: Mapping[str, str] = os.environ) -> Placement:
    """Decide this pod's place: one process a GPU, or a single one. Raises UserError where the pod was not told."""
    nodes, ranks_per_node = parallelism.nodes, max(1, parallelism.gpus_per_node)
    if nodes == 1:
        return Placement(0, 1, ranks_per_node)
    node = _node_index(environment.get(names.ENV_COMPLETION_INDEX, ""), nodes)
    host, _, port = environment.get(names.ENV_COORDINATOR_ADDRESS, "").rpartition(":")
    if node is None or not host or not port.isdecimal():
        raise UserError(
            f"The job has parallelism.nodes {nodes}, but this pod was not told its place: "
            f"{names.ENV_COMPLETION_INDEX} and {names.ENV_COORDINATOR_ADDRESS} (host:port of the first pod) must be "
            "set. Use operator and trainer images of the same release."
        )
    # The first pod's own name may take seconds to resolve; it needs none to reach itself.
    return Placement(node, nodes, ranks_per_node, host if node else LOOPBACK, int(port))


def free_port() -> int:
    """A port of loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _node_index(text: str, nodes: int) -> int | None:
    return int(text) if text.isdecimal() and int(text) < nodes else None

"""Stand-in nodes: Node objects that the real scheduler and node controllers take for nodes, with a heartbeat."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from devcluster import ControlPlane
from tests.integration.operator.api_client import (
    COORDINATION,
    MERGE,
    STRATEGIC,
    Api,
    RequestRefused,
    wait_until,
)
from tests.integration.operator.kubelet import now_in_seconds

NODES = "api/v1/nodes"
# Where tests put the pods that no scheduler is to place: cordoned, so that it stays theirs.
PARKING = "stand-in"
GPU = "nvidia.com/gpu"
# The node controller waits 50 s for a heartbeat.
HEARTBEAT_SECONDS = 5.0


class StandInNodes:
    """Nodes of a control plane, alive until they are silenced."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._api = Api(control_plane, "kube-node-lease")
        self._alive: set[str] = set()
        self._stop = threading.Event()
        self.add(PARKING, PARKING, cordoned=True)
        threading.Thread(target=self._beat, daemon=True).start()

    def add(
        self,
        name: str,
        pool: str,
        *,
        gpus: int = 0,
        labels: Mapping[str, str] | None = None,
        cordoned: bool = False,
    ) -> None:
        """Register a node that is ready at once. Its taint keeps off pods that do not tolerate the pool."""
        taint = {"key": "stand-in", "value": pool, "effect": "NoSchedule"}
        node = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "spec": {"unschedulable": cordoned, "taints": [taint]},
        }
        self._api.send("POST", NODES, node)
        self._renew(name)
        capacity = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "4Ti", "pods": "500"}
        if gpus:
            capacity[GPU] = str(gpus)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "stand-in",
            **_times(),
        }
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
        self._api.send("PATCH", f"{NODES}/{name}/status", {"status": status}, STRATEGIC)
        # Admission taints every new node as not ready; the node controller would take up to 5 s to see that it is.
        self._api.send("PATCH", f"{NODES}/{name}", {"spec": {"taints": [taint]}}, MERGE)
        self._alive.add(name)
        wait_until(lambda: self._taints(name) <= {"stand-in", "node.kubernetes.io/unschedulable"})

    def fail(self, name: str) -> None:
        """The kubelet says no more, and its last word was that it is not ready."""
        self._alive.discard(name)
        lost = {
            "type": "Ready",
            "status": "False",
            "reason": "KubeletNotReady",
            "message": "stand-in",
            **_times(),
        }
        self._api.send("PATCH", f"{NODES}/{name}/status", {"status": {"conditions": [lost]}}, STRATEGIC)

    def uncordon(self, name: str) -> None:
        """Let the scheduler use it."""
        self._api.send("PATCH", f"{NODES}/{name}", {"spec": {"unschedulable": None}}, MERGE)

    def remove(self, name: str) -> None:
        """Take the node out of the cluster."""
        self._alive.discard(name)
        self._api.send("DELETE", f"{NODES}/{name}")

    def stop(self) -> None:
        """Let the heartbeats end."""
        self._stop.set()

    def _taints(self, name: str) -> set[str]:
        node = self._api.send("GET", f"{NODES}/{name}")
        assert node is not None
        return {taint["key"] for taint in node["spec"].get("taints", ())}

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for name in tuple(self._alive):
                # Tests stop the API server; the next beat is soon enough.
                with contextlib.suppress(OSError, http.client.HTTPException, RequestRefused):
                    self._renew(name)

    def _renew(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
        renewed = self._api.send("PATCH", self._api.path(COORDINATION, "leases", name), {"spec": spec}, MERGE)
        if renewed is None:
            self._api.create(COORDINATION, "leases", {"metadata": {"name": name}, "spec": spec})


def _times() -> dict[str, str]:
    now = now_in_seconds()
    return {"lastHeartbeatTime": now, "lastTransitionTime": now}


def tolerations(pool: str) -> list[dict[str, str]]:
    """What lets a job's pods onto the nodes of a pool."""
    return [{"key": "stand-in", "operator": "Equal", "value": pool}]

"""The API server's audit log: who really wrote what, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from devcluster import ControlPlane

WRITES = frozenset({"create", "update", "patch", "delete"})
OPERATOR = ":finetune-operator"


@dataclass(frozen=True)
class Write:
    """One write that the operator asked for."""

    verb: str
    resource: str
    name: str
    code: int
    time: str

    def made(self, resource: str) -> bool:
        """Whether it created an object of this resource."""
        return self.verb == "create" and self.resource == resource and self.code == 201


def read_writes(control_plane: ControlPlane, namespace: str) -> Iterator[Write]:
    """Writes of the operator in a namespace, in their order. Creations are named by what was created."""
    with control_plane.audit_log.open() as log:
        for line in log:
            if f'"{namespace}"' not in line or OPERATOR not in line:
                continue
            entry = json.loads(line)
            target = entry.get("objectRef", {})
            if entry["verb"] in WRITES and target.get("namespace") == namespace:
                resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
                code = entry["responseStatus"]["code"]
                yield Write(entry["verb"], resource, target.get("name", ""), code, entry["stageTimestamp"])

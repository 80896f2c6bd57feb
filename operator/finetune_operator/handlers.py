"""Every kopf decorator: which watches there are and where their events go. Nothing is decided here."""

from __future__ import annotations

from typing import cast

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_operator.cluster import Cluster
from finetune_operator.intake import Intake
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.login import connection_info


def build_registry(cluster: Cluster, intake: Intake) -> kopf.OperatorRegistry:
    """Register the handlers. The registry is our own: kopf's global one would log in by other means."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def on_login(**_: object) -> kopf.ConnectionInfo:
        return connection_info(await cluster.connection())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_finetune_job_event(event: kopf.RawEvent, **_: object) -> None:
        intake.finetune_job(_body(event), deleted=event["type"] == "DELETED")

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def on_job_event(event: kopf.RawEvent, **_: object) -> None:
        intake.child_job(_body(event), deleted=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def on_pod_event(event: kopf.RawEvent, **_: object) -> None:
        intake.pod(_body(event), deleted=event["type"] == "DELETED")

    return registry


def _body(event: kopf.RawEvent) -> JsonObject:
    return cast(JsonObject, event["object"])

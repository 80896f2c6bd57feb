"""Every kopf decorator: which watches there are and where their events go. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

import kopf

from finetune_api import GROUP, PLURAL, VERSION
from finetune_operator.intake import Intake
from finetune_operator.kubernetes_objects import JsonObject

JOBS, PODS = "jobs", "pods"
WATCHED = (PLURAL, JOBS, PODS)


def build_registry(
    log_in: Callable[[], Awaitable[kopf.AiohttpSession]], intake: Intake
) -> kopf.OperatorRegistry:
    """Register the handlers. The registry is our own: kopf's global one would log in by other means."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def on_login(**_: object) -> kopf.AiohttpSession:
        return await log_in()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_finetune_job_event(event: kopf.RawEvent, **_: object) -> None:
        intake.finetune_job(_body(event), deleted=event["type"] == "DELETED")

    @kopf.on.event("batch", "v1", JOBS, registry=registry)
    async def on_job_event(event: kopf.RawEvent, **_: object) -> None:
        intake.child_job(_body(event), deleted=event["type"] == "DELETED")

    @kopf.on.event("", "v1", PODS, registry=registry)
    async def on_pod_event(event: kopf.RawEvent, **_: object) -> None:
        intake.pod(_body(event), deleted=event["type"] == "DELETED")

    return registry


def _body(event: kopf.RawEvent) -> JsonObject:
    return cast(JsonObject, event["object"])

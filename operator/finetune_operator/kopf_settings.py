"""How kopf is used: as a reliable watch and nothing else. It writes nothing to any object.

No finalizers (there are no change handlers, daemons or timers), no annotations, no events, no peering; the
resources are named by the handlers, so it needs no permission to look for CRDs and namespaces.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import kopf

from finetune_operator.cluster import CHILD_SELECTOR, LIST_CHUNK_SIZE


def build_kopf_settings() -> kopf.OperatorSettings:
    """Build the settings, every timeout explicit."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.label_selectors["batch", "jobs"] = CHILD_SELECTOR
    settings.watching.label_selectors["", "v1", "pods"] = CHILD_SELECTOR
    settings.watching.chunk_size = LIST_CHUNK_SIZE
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.enforce_retry_after = True
    settings.process.ultimate_exiting_timeout = 20
    return settings


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf computes a copy of every object to tell what changed; we compare nothing."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        """Build nothing."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Find nothing."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Store nothing."""


class NoProgress(kopf.ProgressStorage):
    """kopf's retries of handlers would stand in annotations; our handlers only enqueue and are never retried."""

    def fetch(self, *, key: str, body: kopf.Body) -> None:
        """Find nothing."""

    def store(self, *, key: str, record: object, body: kopf.Body, patch: kopf.Patch) -> None:
        """Store nothing."""

    def purge(self, *, key: str, body: kopf.Body, patch: kopf.Patch) -> None:
        """Purge nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Touch nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing of ours is in there."""
        return essence

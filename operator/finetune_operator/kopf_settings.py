"""How kopf is used: as a reliable watch and nothing else. It writes nothing to any object.

No finalizers (there are no change handlers, daemons or timers), no annotations, no events, no peering; the
resources are named by the handlers, so it needs no permission to look for CRDs and namespaces.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import kopf

from finetune_operator.api_requests import LIST_CHUNK_SIZE
from finetune_operator.cluster import CHILD_SELECTOR

# Part of the time that a watch may be silent after which the API server is asked to end it, a sign of life that does
# not depend on bookmarks: it sends none for a kind of object that has not changed since it was started.
PART_UNTIL_END = 6 / 7
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0


def build_kopf_settings(watch_inactivity_seconds: float) -> kopf.OperatorSettings:
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
    settings.watching.initial_streaming = False
    settings.watching.server_timeout = max(1, int(watch_inactivity_seconds * PART_UNTIL_END))
    settings.watching.client_timeout = watch_inactivity_seconds + 30
    settings.watching.connect_timeout = 10
    settings.watching.reconnect_backoff = 0.1
    settings.watching.inactivity_timeout = watch_inactivity_seconds
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.networking.enforce_retry_after = True
    settings.networking.trust_env = False
    # Handlers only enqueue: a worker is done with its event at once. No limit, which could deadlock with an index.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 0.2
    settings.queueing.exit_timeout = 1.0
    settings.process.ultimate_exiting_timeout = 20
    return settings


class Backoffs(Iterable[float]):
    """Pauses between tries of one request of kopf's: longer and longer, with jitter, and without end.

    With kopf's own, which end after a minute, the operator would end with them. What lasts is seen by the liveness
    probe, which can tell a dead watch from an API server that is away.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter

    def __iter__(self) -> Iterator[float]:
        """Begin anew, as every request does."""
        pause_seconds = FIRST_BACKOFF_SECONDS
        while True:
            yield pause_seconds * (1 + self._jitter() / 2)
            pause_seconds = min(2 * pause_seconds, LONGEST_BACKOFF_SECONDS)


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

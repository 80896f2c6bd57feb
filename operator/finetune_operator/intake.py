"""Facts come in, keys go out: what a watch or a listing delivers is put into the cache and its job enqueued.

The handlers call it for every event; the slow resync calls it for everything there is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta

from finetune_operator import metrics
from finetune_operator.cache import Cache
from finetune_operator.cluster import Cluster
from finetune_operator.job_resource import JobKey, UnreadableStatus
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.observation import ReceivedReport

# What was created while a listing ran may rightly be missing from it.
LISTING_LAG = timedelta(seconds=60)

logger = logging.getLogger(__name__)


class Intake:
    """Where facts come in."""

    def __init__(
        self, cache: Cache, enqueue: Callable[[JobKey], None], clock: Callable[[], datetime]
    ) -> None:
        self._cache = cache
        self._enqueue = enqueue
        self._clock = clock

    def finetune_job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A FineTuneJob as it is now, or as it was when it was deleted."""
        metadata = body["metadata"]
        key = JobKey(metadata["namespace"], metadata["name"])
        if deleted:
            self._cache.forget_finetune_job(key, metadata["uid"])
            metrics.forget_job(key.namespace, key.name)
            return
        try:
            self._pass_on(self._cache.observe_finetune_job(body))
        except UnreadableStatus as error:
            # Left alone: acting on a guess could run a finished job again.
            logger.error(
                "the status of %s was written by another version of the operator and is left as it is: %s",
                key,
                error,
            )

    def child_job(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A Job of a FineTuneJob."""
        self._pass_on(self._cache.forget_child_job(body) if deleted else self._cache.observe_child_job(body))

    def pod(self, body: JsonObject, *, deleted: bool = False) -> None:
        """A pod of such a Job."""
        self._pass_on(self._cache.forget_pod(body) if deleted else self._cache.observe_pod(body))

    def report(self, owner_uid: str, report: ReceivedReport) -> None:
        """A progress report."""
        self._pass_on(self._cache.note_report(owner_uid, report))

    async def list_everything(self, cluster: Cluster, namespaces: Sequence[str]) -> None:
        """Read all FineTuneJobs and children anew: at start, and slowly ever after, should a watch lose something."""
        began, listed = self._clock(), set[str]()
        for namespace in namespaces or (None,):
            # Owners first: a child of a finished job is not kept.
            listed |= await _feed(cluster.list_jobs(namespace), self.finetune_job)
            listed |= await _feed(cluster.list_child_jobs(namespace), self.child_job)
            listed |= await _feed(cluster.list_pods(namespace), self.pod)
        for key in self._cache.retain(listed, created_before=began - LISTING_LAG):
            metrics.forget_job(key.namespace, key.name)
        for key in self._cache.live_keys():
            self._enqueue(key)

    def _pass_on(self, key: JobKey | None) -> None:
        if key is not None:
            self._enqueue(key)


async def _feed(bodies: AsyncIterator[JsonObject], take: Callable[[JsonObject], None]) -> set[str]:
    """Take every object in; returns their uids."""
    uids = set()
    async for body in bodies:
        take(body)
        uids.add(body["metadata"]["uid"])
    return uids

"""Creates and deletes an attempt's objects so that doing it twice is doing it once.

Names are deterministic, and an object that is there already is ours only if its owner's uid is.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Protocol

from finetune_api import names
from finetune_api.names import Stage
from finetune_operator.cluster import AlreadyExists, Cluster, ClusterError, NotFound
from finetune_operator.crash_points import reach
from finetune_operator.images import choose_image
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject, ObjectMeta
from finetune_operator.manifests import DesiredObjects, desired_objects
from finetune_operator.observation import JobFacts, observe_job
from finetune_operator.policies.deadline import active_seconds_left
from finetune_operator.settings import PodSettings

logger = logging.getLogger(__name__)


class ChildConflict(Exception):
    """An object of the attempt's name exists and belongs to somebody else."""


class CaBundles(Protocol):
    """What puts our CA certificate into a namespace."""

    async def ensure(self, namespace: str) -> None:
        """Put the CA certificate there unless this process has done so already."""


class Children:
    """The objects of attempts."""

    def __init__(self, cluster: Cluster, settings: PodSettings, ca_bundles: CaBundles) -> None:
        self._cluster = cluster
        self._settings = settings
        self._ca_bundles = ca_bundles

    async def create(self, job: FineTuneJob, stage: Stage, attempt: int) -> JobFacts:
        """Create what an attempt consists of, the Job last. Raises ChildConflict and ClusterErrors."""
        await self._ensure_ca_bundle(job.namespace)
        wanted = self._desired_objects(job, stage, attempt)
        if wanted.config_map is not None:
            reach("before-config-map")
            await self._ensure_config_map(job, wanted.config_map)
            reach("after-config-map")
        if wanted.service is not None:
            reach("before-service")
            await self._ensure_service(job, wanted.service)
            reach("after-service")
        reach("before-job")
        body = await self._ensure_job(job, wanted.job)
        reach("after-job")
        facts = observe_job(body)
        assert facts is not None  # It carries our labels and our owner reference.
        return facts

    def _desired_objects(self, job: FineTuneJob, stage: Stage, attempt: int) -> DesiredObjects:
        assert job.spec is not None
        has_trainer_image = stage in (Stage.TRAIN, Stage.EXPORT)
        is_bounded = stage is not Stage.CLEANUP
        checkpoint = job.status.checkpoint
        return desired_objects(
            job,
            stage,
            attempt,
            self._settings,
            memory_backoff=job.status.memory_backoff if stage is Stage.TRAIN else 0,
            active_seconds_left=active_seconds_left(job.spec.failure_policy, job.status)
            if is_bounded
            else None,
            stop_seconds=checkpoint.stop_seconds if checkpoint else None,
            image=choose_image(job.status.provenance.trainer_image, job.spec.image)
            if has_trainer_image
            else None,
        )

    async def stop(self, child: JobFacts) -> None:
        """Tell an attempt's pods to end; its Job stands until they have.

        The Job goes last: while it stands untouched, a killed operator does all of this again.
        """
        await self._delete_config_map(child)
        if child.size > 1:
            await self._delete_service(child)
        await self._cluster.delete_child_job(child.namespace, child.name, child.uid, foreground=True)

    async def delete(self, child: JobFacts, *, with_config: bool) -> None:
        """Delete an attempt's Job; what a failed one was made of goes too, a stage that succeeded keeps its record.

        The Job comes last: as long as it stands, an operator that was killed on the way finds what is left to do.
        """
        if with_config:
            await self._delete_config_map(child)
        if child.size > 1:
            await self._delete_service(child)
        await self._cluster.delete_child_job(child.namespace, child.name, child.uid)

    async def _delete_config_map(self, child: JobFacts) -> None:
        try:
            metadata = _metadata(await self._cluster.read_config_map(child.namespace, child.name))
        except NotFound:
            return
        if metadata.controller is not None and metadata.controller.uid == child.owner_uid:
            await self._cluster.delete_config_map(child.namespace, child.name, metadata.uid)

    async def _delete_service(self, child: JobFacts) -> None:
        try:
            metadata = _metadata(await self._cluster.read_service(child.namespace, child.name))
        except NotFound:
            return
        if metadata.controller is not None and metadata.controller.uid == child.owner_uid:
            await self._cluster.delete_service(child.namespace, child.name, metadata.uid)

    async def _ensure_ca_bundle(self, namespace: str) -> None:
        try:
            await self._ca_bundles.ensure(namespace)
        except ClusterError as error:
            # Only progress depends on it, and the pods mount it as optional.
            logger.warning("the CA bundle was not written to namespace %s: %s", namespace, error)

    async def _ensure_config_map(self, job: FineTuneJob, wanted: JsonObject) -> None:
        try:
            await self._cluster.create_config_map(wanted)
        except AlreadyExists:
            await self._settle_config_map(job, wanted)

    async def _settle_config_map(self, job: FineTuneJob, wanted: JsonObject) -> None:
        """One is there. Without its Job a killed operator left it, perhaps for an older spec: then it is replaced."""
        name = wanted["metadata"]["name"]
        found = await self._cluster.read_config_map(job.namespace, name)
        metadata = _metadata(found)
        _check_owner("ConfigMap", metadata, job)
        if found.get("data") == wanted["data"]:
            return
        try:
            await self._cluster.read_child_job(job.namespace, name)
        except NotFound:
            await self._cluster.delete_config_map(job.namespace, name, metadata.uid)
            await self._cluster.create_config_map(wanted)

    async def _ensure_service(self, job: FineTuneJob, wanted: JsonObject) -> None:
        """Apply it, unless one of this name is somebody else's: forced, it would be taken from them."""
        name = wanted["metadata"]["name"]
        with contextlib.suppress(NotFound):
            _check_owner("Service", _metadata(await self._cluster.read_service(job.namespace, name)), job)
        await self._cluster.apply_service(wanted)

    async def _ensure_job(self, job: FineTuneJob, wanted: JsonObject) -> JsonObject:
        try:
            return await self._cluster.create_child_job(wanted)
        except AlreadyExists:
            found = await self._cluster.read_child_job(job.namespace, wanted["metadata"]["name"])
            _check_owner("Job", _metadata(found), job)
            return found


def _metadata(body: JsonObject) -> ObjectMeta:
    return ObjectMeta.model_validate(body["metadata"])


def _check_owner(kind: str, metadata: ObjectMeta, job: FineTuneJob) -> None:
    """Raise ChildConflict unless the object is this very job's."""
    owner = metadata.controller
    if owner is not None and owner.uid == job.uid:
        return
    if owner is None and _is_cleanup_of(metadata, job):
        return
    if owner is not None and owner.name == job.name:
        raise ChildConflict(
            f"{kind} '{metadata.name}' of an earlier FineTuneJob '{job.name}' is still being deleted. "
            "The job goes on when it is gone."
        )
    raise ChildConflict(
        f"{kind} '{metadata.name}' exists in namespace '{job.namespace}' and does not belong to this FineTuneJob. "
        "Delete it, or create the job under another name."
    )


def _is_cleanup_of(metadata: ObjectMeta, job: FineTuneJob) -> bool:
    """A cleanup Job has no owner, lest the garbage collector takes it first; its labels say whose it is."""
    labels = metadata.labels
    return labels.get(names.LABEL_STAGE) == Stage.CLEANUP and labels.get(names.LABEL_JOB_UID) == job.uid

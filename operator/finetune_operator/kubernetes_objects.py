"""The few fields of Kubernetes' own objects that we read, parsed once where they enter.

Everything else of an object is dropped here, so what the operator keeps in memory is small.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

JsonObject = dict[str, Any]


class _Read(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: JsonObject) -> JsonObject:
        return {name: value for name, value in data.items() if value is not None}


class OwnerReference(_Read):
    """metav1.OwnerReference."""

    kind: str
    name: str
    uid: str
    controller: bool | None = None


class ObjectMeta(_Read):
    """metav1.ObjectMeta."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def controller(self) -> OwnerReference | None:
        """The one owner that controls this object."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class ObjectCondition(_Read):
    """A condition of a Job or a Pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class JobSpec(_Read):
    """batch/v1 JobSpec."""

    suspend: bool | None = False
    completions: int = 1


class JobStatus(_Read):
    """batch/v1 JobStatus."""

    conditions: tuple[ObjectCondition, ...] = ()
    completion_time: datetime | None = None


class Job(_Read):
    """batch/v1 Job."""

    metadata: ObjectMeta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class TerminatedState(_Read):
    """A container's end."""

    exit_code: int
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class RunningState(_Read):
    """A container that runs."""

    started_at: datetime | None = None


class WaitingState(_Read):
    """A container that does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerState(_Read):
    """At most one is set."""

    running: RunningState | None = None
    terminated: TerminatedState | None = None
    waiting: WaitingState | None = None


class ContainerStatus(_Read):
    """v1 ContainerStatus."""

    name: str
    image_id: Annotated[str, Field(alias="imageID")] = ""
    state: ContainerState = ContainerState()


class Container(_Read):
    """v1 Container."""

    name: str
    image: str = ""


class PodSpec(_Read):
    """v1 PodSpec."""

    containers: tuple[Container, ...] = ()
    node_name: str | None = None


class PodStatus(_Read):
    """v1 PodStatus."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[ObjectCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Read):
    """v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class WorkloadStatus(_Read):
    """Status of Kueue's Workload."""

    conditions: tuple[ObjectCondition, ...] = ()


class Workload(_Read):
    """kueue.x-k8s.io/v1beta1 Workload: the request for quota that stands for a queued Job."""

    metadata: ObjectMeta
    status: WorkloadStatus = WorkloadStatus()


class EventSeries(_Read):
    """v1 EventSeries."""

    last_observed_time: datetime | None = None


class Event(_Read):
    """v1 Event. Depending on who wrote it, its time stands in one of four places."""

    metadata: ObjectMeta
    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: EventSeries | None = None

    @property
    def last_seen(self) -> datetime | None:
        """When it happened last."""
        in_series = self.series.last_observed_time if self.series else None
        return in_series or self.last_timestamp or self.event_time or self.metadata.creation_timestamp

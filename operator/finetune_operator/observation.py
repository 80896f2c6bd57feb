"""Child Jobs, Pods and events, reduced to the facts that the reconciler decides on.

The watches and the live look-ups both come through here, so a fact means the same wherever it came from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import ValidationError

from finetune_api import KIND, names
from finetune_api.names import Stage
from finetune_api.progress import ProgressReport
from finetune_api.reasons import Reason
from finetune_operator.kubernetes_objects import (
    Event,
    Job,
    JsonObject,
    ObjectCondition,
    ObjectMeta,
    Pod,
    Workload,
)
from finetune_operator.times import utc_now

# A pod whose deletion has not come to an end so long after its grace period sits on a node that no longer answers.
NODE_LOST_AFTER = timedelta(seconds=60)


# Far beyond what maxRestarts and patience allow: such a number was written by somebody else.
MAX_ATTEMPT = 1_000_000
# Events after which an earlier complaint about mounts or scheduling is history.
_GOT_FURTHER = frozenset({"Pulling", "Pulled", "Created", "Started"})
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class JobState(StrEnum):
    """Where a child Job stands; `FailureTarget` and `SuccessCriteriaMet` already count as the end."""

    ACTIVE = "Active"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_STATE_OF_CONDITION = {
    "SuccessCriteriaMet": JobState.SUCCEEDED,
    "Complete": JobState.SUCCEEDED,
    "FailureTarget": JobState.FAILED,
    "Failed": JobState.FAILED,
}


@dataclass(frozen=True, slots=True)
class JobFacts:
    """A child Job: one attempt of one stage."""

    name: str
    namespace: str
    uid: str
    owner_name: str
    owner_uid: str
    stage: Stage
    attempt: int
    created: datetime
    state: JobState
    size: int = 1
    suspended: bool = False
    queue: str = ""
    spec_digest: str = ""
    deleting: bool = False
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """How the trainer container ended."""

    exit_code: int
    reason: str
    message: str
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod of a child Job."""

    name: str
    namespace: str
    uid: str
    job_uid: str
    created: datetime
    rank: int = 0
    phase: str = "Pending"
    node: str | None = None
    image: str | None = None
    image_id: str = ""
    started: datetime | None = None
    end: ContainerEnd | None = None
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable_message: str = ""
    disruption_reason: str = ""
    disruption_message: str = ""
    reason: str = ""
    message: str = ""
    deletion_deadline: datetime | None = None
    # Its object is no more; what it left is still told by its last state.
    is_gone: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether none of its containers will run again."""
        return self.is_gone or self.phase in ("Succeeded", "Failed")

    def is_lost(self, now: datetime) -> bool:
        """Whether it should be long gone but no kubelet has confirmed it."""
        deadline = self.deletion_deadline
        return not self.has_ended and deadline is not None and now > deadline + NODE_LOST_AFTER

    def is_live(self, now: datetime) -> bool:
        """Whether its containers run, will run, or may still run."""
        return not self.has_ended and not self.is_lost(now)

    @property
    def was_told_to_go(self) -> bool:
        """Whether somebody deleted it who named no disruption: the Job controller, the garbage collector, a user."""
        return self.deletion_deadline is not None and not self.disruption_reason


@dataclass(frozen=True, slots=True)
class Complaint:
    """The newest Warning event of an object."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class EventsSeen:
    """What a look at an object's events found, and when."""

    complaint: Complaint | None
    looked_at: datetime


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """What a look at Kueue's Workload of a Job found, and when. `told` is why it has no quota yet."""

    exists: bool
    told: str
    looked_at: datetime


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """A progress report and the child Job whose pod sent it."""

    job_uid: str
    report: ProgressReport
    received: datetime


@dataclass(frozen=True, slots=True)
class Reporter:
    """A pod that sends reports, the child Job that controls it, and the FineTuneJob that controls that Job."""

    pod: PodFacts
    job_uid: str
    owner_uid: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the API server did not let us create an attempt."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Observed:
    """All facts about one FineTuneJob's children."""

    jobs: tuple[JobFacts, ...] = ()
    pods: tuple[PodFacts, ...] = ()
    report: ReceivedReport | None = None
    events: Mapping[str, EventsSeen] = field(default_factory=dict)
    queues: Mapping[str, QueueSeen] = field(default_factory=dict)
    # Confirmed by a live read in this pass: names of Jobs that do not exist, uids of Jobs whose pods are all known.
    absent_jobs: frozenset[str] = frozenset()
    jobs_with_all_pods: frozenset[str] = frozenset()
    refusal: Refusal | None = None
    # Other jobs look things up first; this one may so many seconds later.
    look_again_seconds: float | None = None
    # None: not asked in this pass.
    namespace_terminating: bool | None = None

    def job(self, uid: str) -> JobFacts | None:
        """The child Job with this uid."""
        return next((job for job in self.jobs if job.uid == uid), None)

    def pods_of(self, job_uid: str) -> tuple[PodFacts, ...]:
        """All pods of a child Job, by rank; of one rank, the newest last."""
        pods = (pod for pod in self.pods if pod.job_uid == job_uid)
        return tuple(sorted(pods, key=lambda pod: (pod.rank, pod.created)))

    def with_job(self, job: JobFacts) -> Observed:
        """The same facts with this child Job as it is now."""
        return replace(self, jobs=(*(known for known in self.jobs if known.uid != job.uid), job))


def observe_job(body: JsonObject) -> JobFacts | None:
    """Facts of a Job, or None where it is no child of a FineTuneJob."""
    job = Job.model_validate(body)
    labels = job.metadata.labels
    try:
        stage, attempt = Stage(labels[names.LABEL_STAGE]), int(labels[names.LABEL_ATTEMPT])
    except (KeyError, ValueError):
        return None
    owner = _owner(job.metadata, stage)
    if owner is None or not 0 < attempt <= MAX_ATTEMPT:
        return None
    end = _end_condition(job.status.conditions)
    return JobFacts(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        uid=job.metadata.uid,
        owner_name=owner[0],
        owner_uid=owner[1],
        stage=stage,
        attempt=attempt,
        created=job.metadata.creation_timestamp or utc_now(),
        state=_STATE_OF_CONDITION[end.type] if end else JobState.ACTIVE,
        size=job.spec.completions,
        suspended=bool(job.spec.suspend),
        queue=labels.get(names.LABEL_KUEUE_QUEUE, ""),
        spec_digest=job.metadata.annotations.get(names.ANNOTATION_SPEC_DIGEST, ""),
        deleting=job.metadata.deletion_timestamp is not None,
        reason=end.reason if end else "",
        message=end.message if end else "",
    )


def _owner(metadata: ObjectMeta, stage: Stage) -> tuple[str, str] | None:
    """Name and uid of the FineTuneJob. A cleanup Job has no owner, lest the garbage collector takes it first."""
    owner, labels = metadata.controller, metadata.labels
    if stage is Stage.CLEANUP and owner is None:
        name, uid = labels.get(names.LABEL_JOB), labels.get(names.LABEL_JOB_UID)
        return (name, uid) if name and uid else None
    return (owner.name, owner.uid) if owner is not None and owner.kind == KIND else None


def observe_pod(body: JsonObject) -> PodFacts | None:
    """Facts of a Pod, or None where no Job controls it."""
    pod = Pod.model_validate(body)
    owner = pod.metadata.controller
    if owner is None or owner.kind != "Job":
        return None
    statuses = [each for each in pod.status.container_statuses if each.name == names.TRAINER_CONTAINER]
    state = statuses[0].state if statuses else None
    running, end, waiting = (state.running, state.terminated, state.waiting) if state else (None, None, None)
    unscheduled = _find(pod.status.conditions, "PodScheduled", "False")
    disruption = _find(pod.status.conditions, "DisruptionTarget", "True")
    return PodFacts(
        name=pod.metadata.name,
        namespace=pod.metadata.namespace,
        uid=pod.metadata.uid,
        job_uid=owner.uid,
        created=pod.metadata.creation_timestamp or utc_now(),
        rank=_rank(pod.metadata),
        phase=pod.status.phase,
        node=pod.spec.node_name,
        image=next(
            (each.image for each in pod.spec.containers if each.name == names.TRAINER_CONTAINER), None
        ),
        image_id=statuses[0].image_id if statuses else "",
        started=running.started_at if running else end.started_at if end else None,
        end=ContainerEnd(end.exit_code, end.reason, end.message, end.finished_at) if end else None,
        waiting_reason=waiting.reason if waiting else "",
        waiting_message=waiting.message if waiting else "",
        unschedulable_message=unscheduled.message if unscheduled else "",
        disruption_reason=(disruption.reason or "DisruptionTarget") if disruption else "",
        disruption_message=disruption.message if disruption else "",
        reason=pod.status.reason,
        message=pod.status.message,
        deletion_deadline=pod.metadata.deletion_timestamp,
    )


def _rank(metadata: ObjectMeta) -> int:
    """The completion index of an Indexed Job's pod; the pod of a plain Job is the only one."""
    index = metadata.annotations.get("batch.kubernetes.io/job-completion-index", "0")
    return int(index) if index.isdecimal() else 0


def observe_queue(bodies: Iterable[JsonObject], now: datetime) -> QueueSeen:
    """What Kueue says of a Job: whether there is a Workload, and why it has no quota."""
    workloads = [Workload.model_validate(body) for body in bodies]
    unreserved = [
        condition.message
        for workload in workloads
        for condition in workload.status.conditions
        if condition.type == "QuotaReserved" and condition.status == "False"
    ]
    return QueueSeen(bool(workloads), unreserved[0] if unreserved else "", now)


def observe_complaint(bodies: Iterable[JsonObject]) -> Complaint | None:
    """The newest Warning among an object's events, unless the kubelet has got further since."""
    telling = [
        event for event in _parse_events(bodies) if event.type == "Warning" or event.reason in _GOT_FURTHER
    ]
    # A pod is never unscheduled, so whatever else was said about it was said after the scheduler's complaints.
    later = [event for event in telling if event.reason != "FailedScheduling"]
    newest = max(later or telling, key=lambda event: event.last_seen or _LONG_AGO, default=None)
    if newest is None or newest.type != "Warning":
        return None
    return Complaint(newest.reason, newest.message)


def _parse_events(bodies: Iterable[JsonObject]) -> Iterator[Event]:
    for body in bodies:
        # Anybody may write events; a strange one is no reason to stop.
        with contextlib.suppress(ValidationError):
            yield Event.model_validate(body)


def _end_condition(conditions: Iterable[ObjectCondition]) -> ObjectCondition | None:
    ended = [each for each in conditions if each.status == "True" and each.type in _STATE_OF_CONDITION]
    return ended[0] if ended else None


def _find(conditions: Iterable[ObjectCondition], kind: str, status: str) -> ObjectCondition | None:
    return next((each for each in conditions if each.type == kind and each.status == status), None)

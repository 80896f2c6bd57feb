"""Why an attempt does not run yet, in one precise sentence with the next action.

Facts of the pod itself come first; the newest Warning event tells what no status field holds (quota, pod security,
mounts). Looking at events costs a request, so it is done only after a grace period and ever more rarely.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.reasons import Reason
from finetune_operator.gang import Gang
from finetune_operator.observation import Complaint, JobFacts, Observed, PodFacts
from finetune_operator.references import Reference
from finetune_operator.times import has_passed, seconds_until
from finetune_operator.wording import as_sentence

NO_POD_AFTER = timedelta(seconds=3)
# When very many jobs start at once, kube-controller-manager takes its time. That alone is not worth a write for each.
NO_POD_UNEXPLAINED_AFTER = timedelta(seconds=60)
NOT_STARTED_AFTER = timedelta(seconds=5)
FIRST_LOOKS_EVERY_SECONDS = 4.0
LATER_LOOKS_EVERY_SECONDS = 300.0
NOT_ADMITTED_AFTER = timedelta(seconds=5)
# Kueue makes its Workload at once; a minute without one means that nobody will.
NO_WORKLOAD_AFTER = timedelta(seconds=60)

_MISSING = re.compile(
    r'\b(?P<kind>secrets?|configmaps?|persistentvolumeclaims?) "(?P<name>[^"]+)" not found', re.IGNORECASE
)
_KINDS = {"s": "Secret", "c": "ConfigMap", "p": "PersistentVolumeClaim"}
_MISSING_PRIORITY_CLASS = re.compile(r"no PriorityClass with name (?P<name>\S+) was found")
_MISSING_SERVICE_ACCOUNT = re.compile(r'serviceaccount "(?P<name>[^"]+)" not found')
_IMAGE_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
_CREATING = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True)
class Explanation:
    """A reason for conditions and its sentence."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Waiting:
    """An attempt without started containers: the object to ask about, since when it waits, when that is a question."""

    uid: str
    since: datetime
    overdue: datetime
    # Held back by somebody: Kueue's Workload is asked, not the object's events.
    is_queued: bool = False
    # The object's own status says why already; its events would say nothing more.
    is_explained: bool = False


def find_waiting(gang: Gang) -> Waiting | None:
    """What to ask about, or None where the containers have started."""
    if gang.job is None:
        return None
    if gang.is_suspended:
        overdue = gang.job.created + NOT_ADMITTED_AFTER
        return Waiting(gang.job.uid, gang.job.created, overdue, is_queued=True)
    # Pods that are gone ran before the queue took them away.
    if gang.started_at is not None and not all(pod.is_gone for pod in gang.pods):
        return None
    pod = gang.waiting_pod()
    if pod is not None:
        return Waiting(
            pod.uid, pod.created, pod.created + NOT_STARTED_AFTER, is_explained=_explains_itself(pod)
        )
    return Waiting(gang.job.uid, gang.job.created, gang.job.created + NO_POD_AFTER)


def _explains_itself(pod: PodFacts) -> bool:
    return bool(pod.unschedulable_message) or pod.waiting_reason not in _CREATING


def next_look_seconds(waiting: Waiting, observed: Observed, now: datetime) -> float | None:
    """Seconds until it should be looked at (again); 0 means now, None never."""
    if waiting.is_explained:
        return seconds_until(waiting.overdue, now) or None
    seen = (observed.queues if waiting.is_queued else observed.events).get(waiting.uid)
    if seen is None:
        return seconds_until(waiting.overdue, now)
    age = (seen.looked_at - waiting.since).total_seconds()
    pause = min(max(age / 2, FIRST_LOOKS_EVERY_SECONDS), LATER_LOOKS_EVERY_SECONDS)
    return seconds_until(seen.looked_at + timedelta(seconds=pause), now)


def explain_waiting(
    gang: Gang, observed: Observed, references: Sequence[Reference], now: datetime
) -> Explanation | None:
    """Say why the attempt waits; None while it is too early to ask, or where it does not wait."""
    waiting = find_waiting(gang)
    if waiting is None or gang.job is None:
        return None
    if waiting.is_queued:
        return _explain_queued(gang.job, observed, now)
    if not has_passed(waiting.overdue, now):
        return None
    seen = observed.events.get(waiting.uid)
    complaint = seen.complaint if seen else None
    pod = gang.waiting_pod()
    return _explain_job(gang.job, complaint, now) if pod is None else _explain_pod(pod, complaint, references)


def _explain_queued(job: JobFacts, observed: Observed, now: datetime) -> Explanation:
    if not job.queue:
        told = f"Job {job.name} is suspended; whoever suspended it lets it go on."
        return Explanation(Reason.QUEUED, told)
    seen = observed.queues.get(job.uid)
    if seen is not None and not seen.exists and has_passed(job.created + NO_WORKLOAD_AFTER, now):
        return Explanation(
            Reason.QUEUE_NOT_SERVED,
            f"Job {job.name} is in queue '{job.queue}', but Kueue has made no Workload for it. See that Kueue is "
            f"installed and manages batch/job, and that LocalQueue '{job.queue}' exists in namespace "
            f"'{job.namespace}'; or suspend the job and correct spec.queueName.",
        )
    told = f" {as_sentence(seen.told)}" if seen is not None and seen.told else ""
    return Explanation(Reason.QUEUED, f"Job {job.name} waits in queue '{job.queue}'.{told}")


def _explain_job(job: JobFacts, complaint: Complaint | None, now: datetime) -> Explanation | None:
    if complaint is not None:
        return explain_refusal(f"Job {job.name} cannot create its pod", complaint.message)
    if not has_passed(job.created + NO_POD_UNEXPLAINED_AFTER, now):
        return None
    return Explanation(Reason.WAITING_FOR_POD, f"Job {job.name} has no pod yet.")


def explain_refusal(what: str, message: str) -> Explanation:
    """Tell apart why the API server refused to create something."""
    if "exceeded quota" in message or "insufficient quota" in message:
        action = "Free or raise the namespace's ResourceQuota, or lower spec.resources."
        return Explanation(Reason.QUOTA_EXCEEDED, f"{what}: {as_sentence(message)} {action}")
    if found := _MISSING_PRIORITY_CLASS.search(message):
        name = found["name"]
        return Explanation(
            Reason.MISSING_REFERENCE,
            f"{what}: PriorityClass '{name}' not found. Create it or correct spec.resources.priorityClassName.",
        )
    if found := _MISSING_SERVICE_ACCOUNT.search(message):
        return Explanation(
            Reason.MISSING_REFERENCE,
            f"{what}: ServiceAccount '{found['name']}' not found. Ask the administrator to create it "
            "(the chart's trainer.serviceAccountName).",
        )
    if "violates PodSecurity" in message:
        action = "Ask the administrator to relax the namespace's pod-security.kubernetes.io/enforce label."
        return Explanation(Reason.FORBIDDEN, f"{what}: {as_sentence(message)} {action}")
    return Explanation(Reason.FORBIDDEN, f"{what}: {message}")


def _explain_pod(pod: PodFacts, complaint: Complaint | None, references: Sequence[Reference]) -> Explanation:
    if pod.waiting_reason in _IMAGE_REASONS:
        return Explanation(
            Reason.IMAGE_PULL,
            f"Pod {pod.name} cannot pull its image {pod.image} ({pod.waiting_reason}): "
            f"{as_sentence(pod.waiting_message)} Check spec.image and spec.imagePullSecrets, or the chart's where the "
            "spec sets none.",
        )
    if found := _MISSING.search(pod.unschedulable_message if pod.node is None else ""):
        return _explain_missing(pod, found["kind"], found["name"], references)
    if pod.unschedulable_message and pod.node is None:
        return Explanation(
            Reason.UNSCHEDULABLE,
            f"No node can take pod {pod.name}: {as_sentence(pod.unschedulable_message)} Lower spec.resources or "
            "spec.parallelism, correct spec.resources.nodeSelector and tolerations, or add a node.",
        )
    told = complaint.message if complaint else pod.waiting_message
    if found := _MISSING.search(told):
        return _explain_missing(pod, found["kind"], found["name"], references)
    if pod.waiting_reason not in _CREATING:
        return Explanation(
            Reason.WAITING_FOR_POD,
            f"Pod {pod.name} cannot start ({pod.waiting_reason}): {pod.waiting_message}",
        )
    if complaint is not None:
        return Explanation(Reason.WAITING_FOR_POD, f"Pod {pod.name}: {complaint.reason}: {complaint.message}")
    where = (
        f"on node {pod.node} while its image is pulled and its volumes are mounted"
        if pod.node
        else "for a node"
    )
    return Explanation(Reason.WAITING_FOR_POD, f"Pod {pod.name} waits {where}.")


def _explain_missing(pod: PodFacts, kind: str, name: str, references: Sequence[Reference]) -> Explanation:
    wanted = _KINDS[kind[0].lower()]
    fields = [
        reference.field for reference in references if reference.kind == wanted and reference.name == name
    ]
    correct = f" or correct {fields[0]}" if fields else ""
    return Explanation(
        Reason.MISSING_REFERENCE,
        f"{wanted} '{name}' not found in namespace '{pod.namespace}'. Create it{correct}.",
    )

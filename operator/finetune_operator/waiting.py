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
from finetune_operator.observation import Complaint, JobFacts, Observed, PodFacts
from finetune_operator.references import Reference
from finetune_operator.times import has_passed, seconds_until
from finetune_operator.wording import as_sentence

NO_POD_AFTER = timedelta(seconds=3)
NOT_STARTED_AFTER = timedelta(seconds=5)
FIRST_LOOKS_EVERY_SECONDS = 4.0
LATER_LOOKS_EVERY_SECONDS = 60.0

_MISSING = re.compile(r'\b(?P<kind>secrets?|configmaps?) "(?P<name>[^"]+)" not found', re.IGNORECASE)
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
    """An attempt without a started container: the object that waits, since when, and when that becomes a question."""

    uid: str
    since: datetime
    overdue: datetime


def find_waiting(job: JobFacts, pod: PodFacts | None) -> Waiting | None:
    """The object to ask about, or None where the container has started."""
    if pod is None:
        return Waiting(job.uid, job.created, job.created + NO_POD_AFTER)
    if pod.started is None and not pod.has_ended:
        return Waiting(pod.uid, pod.created, pod.created + NOT_STARTED_AFTER)
    return None


def next_look_seconds(waiting: Waiting, observed: Observed, now: datetime) -> float:
    """Seconds until its events should be looked at (again); 0 means now."""
    seen = observed.events.get(waiting.uid)
    if seen is None:
        return seconds_until(waiting.overdue, now)
    age = (seen.looked_at - waiting.since).total_seconds()
    pause = min(max(age / 2, FIRST_LOOKS_EVERY_SECONDS), LATER_LOOKS_EVERY_SECONDS)
    return seconds_until(seen.looked_at + timedelta(seconds=pause), now)


def explain_waiting(
    job: JobFacts, pod: PodFacts | None, observed: Observed, references: Sequence[Reference], now: datetime
) -> Explanation | None:
    """Say why the attempt waits; None while it is too early to ask, or where it does not wait."""
    waiting = find_waiting(job, pod)
    if waiting is None or not has_passed(waiting.overdue, now):
        return None
    seen = observed.events.get(waiting.uid)
    complaint = seen.complaint if seen else None
    if pod is None:
        return _explain_job(job, complaint)
    return _explain_pod(pod, complaint, references)


def _explain_job(job: JobFacts, complaint: Complaint | None) -> Explanation:
    if job.suspended:
        return Explanation(Reason.QUEUED, f"Job {job.name} is suspended; whoever suspended it lets it go on.")
    if complaint is None:
        return Explanation(Reason.WAITING_FOR_POD, f"Job {job.name} has no pod yet.")
    return explain_refusal(f"Job {job.name} cannot create its pod", complaint.message)


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
            f"Pod {pod.name} cannot pull its image ({pod.waiting_reason}): {as_sentence(pod.waiting_message)} "
            "Check the chart's image and imagePullSecrets.",
        )
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
    kind = "Secret" if kind.lower().startswith("secret") else "ConfigMap"
    fields = [
        reference.field for reference in references if reference.kind == kind and reference.name == name
    ]
    correct = f" or correct {fields[0]}" if fields else ""
    return Explanation(
        Reason.MISSING_REFERENCE,
        f"{kind} '{name}' not found in namespace '{pod.namespace}'. Create it{correct}.",
    )

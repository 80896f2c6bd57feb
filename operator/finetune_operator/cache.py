"""What the watches have delivered, by owner: live FineTuneJobs, their children's facts and their newest report.

Finished jobs are only remembered by name, and of objects only the facts are kept: thousands of them must fit.
Nothing here is trusted for absence: a watch may lag or lose a deletion, so "missing" is confirmed by a live read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from finetune_api.status import AttemptOutcome, Phase
from finetune_operator.job_resource import (
    NO_RULES,
    FineTuneJob,
    InstallationRules,
    JobKey,
    is_settled,
    parse_job,
)
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.observation import (
    EventsSeen,
    JobFacts,
    Observed,
    PodFacts,
    QueueSeen,
    ReceivedReport,
    Reporter,
    observe_job,
    observe_pod,
)
from finetune_operator.policies.cleanup import expiry


@dataclass
class _Family:
    """The children of one FineTuneJob, by uid."""

    key: JobKey
    children: set[str] = field(default_factory=set)
    jobs: dict[str, JobFacts] = field(default_factory=dict)
    pods: dict[str, PodFacts] = field(default_factory=dict)
    events: dict[str, EventsSeen] = field(default_factory=dict)
    queues: dict[str, QueueSeen] = field(default_factory=dict)
    report: ReceivedReport | None = None


class _Settled(NamedTuple):
    """All that is kept of a finished job."""

    uid: str
    version: str
    phase: Phase


class Expiry(NamedTuple):
    """When a finished job is to be deleted, and which version of it."""

    at: datetime
    uid: str
    resource_version: str


class Cache:
    """The operator's memory. Every `observe_…` returns the key of the job that may have to be reconciled."""

    def __init__(self, rules: InstallationRules = NO_RULES) -> None:
        self._rules = rules
        self._live: dict[JobKey, FineTuneJob] = {}
        self._settled: dict[JobKey, _Settled] = {}
        self._expiries: dict[JobKey, datetime] = {}
        self._families: dict[str, _Family] = {}
        self._owner_of_child: dict[str, str] = {}
        self._child_of_pod: dict[str, str] = {}

    # --- FineTuneJobs ------------------------------------------------------------------------------------------

    def job(self, key: JobKey) -> FineTuneJob | None:
        """The live job of this name."""
        return self._live.get(key)

    def live_keys(self) -> tuple[JobKey, ...]:
        """Keys of all live jobs."""
        return tuple(self._live)

    def expiry(self, key: JobKey) -> Expiry | None:
        """When the finished job of this name is to be deleted; None: never, or it has not finished."""
        at, settled = self._expiries.get(key), self._settled.get(key)
        return Expiry(at, settled.uid, settled.version) if at is not None and settled is not None else None

    def count_by_phase(self) -> Counter[tuple[str, str]]:
        """Number of FineTuneJobs by namespace and phase, finished ones included."""
        counts: Counter[tuple[str, str]] = Counter()
        for key, job in self._live.items():
            counts[key.namespace, (job.status.phase or Phase.PENDING).value] += 1
        for key, settled in self._settled.items():
            counts[key.namespace, settled.phase.value] += 1
        return counts

    def observe_finetune_job(self, body: JsonObject) -> JobKey | None:
        """Take in a FineTuneJob. Raises UnreadableStatus."""
        metadata = body["metadata"]
        key = JobKey(metadata["namespace"], metadata["name"])
        uid, version = metadata["uid"], metadata["resourceVersion"]
        if self._is_known(key, uid, version):
            return None
        if is_settled(body):
            return self._settle(key, uid, version, body)
        self._settled.pop(key, None)
        self._expiries.pop(key, None)
        self._live[key] = job = parse_job(body, self._rules)
        self._drop_told_pods(job)
        return key

    def _drop_told_pods(self, job: FineTuneJob) -> None:
        """Pods that are gone are kept until status holds what they left."""
        family = self._families.get(job.uid)
        told = {each.job_uid for each in job.status.attempts if each.outcome is not AttemptOutcome.RUNNING}
        if family is None:
            return
        for pod in list(family.pods.values()):
            if pod.is_gone and pod.job_uid in told:
                self._drop_pod(family, pod.uid)

    def _drop_pod(self, family: _Family, uid: str) -> None:
        family.pods.pop(uid, None)
        family.events.pop(uid, None)
        self._child_of_pod.pop(uid, None)

    def _settle(self, key: JobKey, uid: str, version: str, body: JsonObject) -> JobKey | None:
        """Keep of a finished job what is needed to know it again; its key where it is to be deleted later."""
        self._live.pop(key, None)
        self._drop_family(uid)
        status = body["status"]
        # The enum's member, so that thousands of entries share one object.
        self._settled[key] = _Settled(uid, version, Phase(status.get("phase", Phase.FAILED)))
        at = expiry(status.get("completionTime"), body["spec"].get("ttlSecondsAfterFinished"))
        if at is None:
            self._expiries.pop(key, None)
            return None
        self._expiries[key] = at
        return key

    def forget_finetune_job(self, key: JobKey, uid: str) -> None:
        """Drop a deleted job; a younger one of the same name stays."""
        if key in self._live and self._live[key].uid == uid:
            del self._live[key]
        if key in self._settled and self._settled[key].uid == uid:
            del self._settled[key]
            self._expiries.pop(key, None)
        self._drop_family(uid)

    def retain(self, listed: Set[str], *, created_before: datetime) -> tuple[JobKey, ...]:
        """Drop what a fresh listing does not hold although it is old enough: a watch may have lost its deletion.

        Returns the keys of the FineTuneJobs that were dropped.
        """
        gone = [
            (key, job.uid)
            for key, job in self._live.items()
            if job.uid not in listed and job.created < created_before
        ]
        gone += [(key, settled.uid) for key, settled in self._settled.items() if settled.uid not in listed]
        for key, uid in gone:
            self.forget_finetune_job(key, uid)
        for family in self._families.values():
            _retain(family.jobs, listed, created_before)
            for pod in _retain(family.pods, listed, created_before):
                self._child_of_pod.pop(pod, None)
        return tuple(key for key, _ in gone)

    def _is_known(self, key: JobKey, uid: str, version: str) -> bool:
        """Whether we hold this version or a younger one, which may be our own write's answer."""
        live = self._live.get(key)
        held = (live.uid, live.resource_version) if live else self._settled.get(key)
        return held is not None and held[0] == uid and not _is_newer(version, held[1])

    def _drop_family(self, uid: str) -> None:
        family = self._families.pop(uid, None)
        for child in family.children if family else ():
            self._owner_of_child.pop(child, None)
        for pod in family.pods if family else ():
            self._child_of_pod.pop(pod, None)

    # --- children ----------------------------------------------------------------------------------------------

    def observed(self, uid: str) -> Observed:
        """All that is known of a job's children."""
        family = self._families.get(uid)
        if family is None:
            return Observed()
        return Observed(
            jobs=tuple(family.jobs.values()),
            pods=tuple(family.pods.values()),
            report=family.report,
            events=dict(family.events),
            queues=dict(family.queues),
        )

    def observe_child_job(self, body: JsonObject) -> JobKey | None:
        """Take in a child Job."""
        facts = observe_job(body)
        if facts is None or self._is_settled(facts):
            return None
        known = self._families.get(facts.owner_uid)
        if known is not None and known.key != JobKey(facts.namespace, facts.owner_name):
            return (
                None  # An owner reference may claim anything; nothing of ours points into another namespace.
            )
        return self.add_child_job(facts)

    def add_child_job(self, facts: JobFacts) -> JobKey:
        """Take in a child Job's facts."""
        key = JobKey(facts.namespace, facts.owner_name)
        family = self._families.setdefault(facts.owner_uid, _Family(key))
        family.jobs[facts.uid] = facts
        family.children.add(facts.uid)
        self._owner_of_child[facts.uid] = facts.owner_uid
        return key

    def forget_child_job(self, body: JsonObject) -> JobKey | None:
        """Drop a deleted Job. Its pods stay until they are gone themselves: the next attempt waits for them."""
        facts = observe_job(body)
        if facts is None:
            return None
        family = self._families.get(facts.owner_uid)
        if family is not None:
            family.jobs.pop(facts.uid, None)
        return JobKey(facts.namespace, facts.owner_name)

    def observe_pod(self, body: JsonObject) -> JobKey | None:
        """Take in a pod. One whose Job is not known yet is dropped: a look-up finds it when it matters."""
        facts = observe_pod(body)
        owner_uid = self._owner_of_child.get(facts.job_uid) if facts else None
        if facts is None or owner_uid is None:
            return None
        family = self._families[owner_uid]
        known = family.pods.get(facts.uid)
        if known == facts or (known is not None and known.is_gone):
            return None
        family.pods[facts.uid] = facts
        self._child_of_pod[facts.uid] = facts.job_uid
        return family.key

    def forget_pod(self, body: JsonObject) -> JobKey | None:
        """A deleted pod: its last state tells what it left, and of each rank only the newest such is of interest."""
        facts = observe_pod(body)
        owner_uid = self._owner_of_child.get(facts.job_uid) if facts else None
        family = self._families.get(owner_uid) if owner_uid else None
        if facts is None or family is None:
            return None
        for pod in list(family.pods.values()):
            if pod.is_gone and (pod.job_uid, pod.rank) == (facts.job_uid, facts.rank):
                self._drop_pod(family, pod.uid)
        family.pods[facts.uid] = replace(facts, is_gone=True)
        return family.key

    def note_events(self, owner_uid: str, object_uid: str, seen: EventsSeen) -> None:
        """Remember what a look at an object's events found."""
        if owner_uid in self._families:
            self._families[owner_uid].events[object_uid] = seen

    def note_queue(self, owner_uid: str, job_uid: str, seen: QueueSeen) -> None:
        """Remember what a look at Kueue's Workload of a Job found."""
        if owner_uid in self._families:
            self._families[owner_uid].queues[job_uid] = seen

    # --- reports -----------------------------------------------------------------------------------------------

    def reporter(self, pod_uid: str) -> Reporter | None:
        """The pod of this uid with the child Job and the FineTuneJob that it belongs to; None for strangers."""
        child = self._child_of_pod.get(pod_uid)
        owner = self._owner_of_child.get(child) if child else None
        family = self._families.get(owner) if owner else None
        pod = family.pods.get(pod_uid) if family else None
        return Reporter(pod, child, owner) if pod and not pod.is_gone and child and owner else None

    def note_report(self, owner_uid: str, report: ReceivedReport) -> JobKey | None:
        """Remember a job's newest report."""
        family = self._families.get(owner_uid)
        if family is None:
            return None
        family.report = report
        return family.key

    def forget_report(self, owner_uid: str) -> None:
        """Drop a report that made the status unacceptable."""
        if owner_uid in self._families:
            self._families[owner_uid].report = None

    def _is_settled(self, facts: JobFacts) -> bool:
        settled = self._settled.get(JobKey(facts.namespace, facts.owner_name))
        return settled is not None and settled.uid == facts.owner_uid


def _retain(
    facts: dict[str, JobFacts] | dict[str, PodFacts], listed: Set[str], created_before: datetime
) -> list[str]:
    gone = [
        uid
        for uid, each in facts.items()
        if uid not in listed
        and each.created < created_before
        and not (isinstance(each, PodFacts) and each.is_gone)
    ]
    for uid in gone:
        del facts[uid]
    return gone


def _is_newer(version: str, than: str) -> bool:
    """Whether one resource version is younger than another.

    Resource versions of one kind are ordered numbers in every API server there is (KEP-5504 makes it official).
    """
    return not (version.isdecimal() and than.isdecimal()) or int(version) > int(than)

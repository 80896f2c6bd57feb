"""The pods of one attempt taken together: one pod for most, one a node for a multi-node attempt.

They start, end and restart as one. An attempt's pods may be started more than once, because a queue may suspend its
Job and admit it again: then only the newest pod of each rank belongs to the gang.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from finetune_operator.observation import JobFacts, JobState, Observed, PodFacts


@dataclass(frozen=True)
class Gang:
    """An attempt's Job and pods. `pods` holds the newest pod of each rank, in the order of ranks."""

    job: JobFacts | None
    pods: tuple[PodFacts, ...]
    leftover: tuple[PodFacts, ...] = ()

    @property
    def size(self) -> int:
        """Number of pods it consists of when it is complete."""
        return self.job.size if self.job else max(1, len(self.pods))

    @property
    def is_suspended(self) -> bool:
        """Whether its Job is held back."""
        return self.job is not None and self.job.suspended and self.job.state is JobState.ACTIVE

    @property
    def started_at(self) -> datetime | None:
        """When the last of its containers was started; None while one is missing."""
        started = [pod.started for pod in self.pods if pod.started is not None]
        return max(started) if started and len(started) == len(self.pods) == self.size else None

    @property
    def has_started(self) -> bool:
        """Whether all containers have been started and at least one has not ended."""
        return self.started_at is not None and not all(pod.has_ended for pod in self.pods)

    @property
    def first_place(self) -> datetime | None:
        """When the first of its pods that have a node was created; None while none has one."""
        return min((pod.created for pod in self.pods if pod.node is not None), default=None)

    @property
    def has_succeeded(self) -> bool:
        """Whether the Job says so or every pod does."""
        if self.job is not None and self.job.state is JobState.SUCCEEDED:
            return True
        return len(self.pods) == self.size and all(pod.phase == "Succeeded" for pod in self.pods)

    def live_pods(self, now: datetime) -> tuple[PodFacts, ...]:
        """Pods that run, will run, or may still run."""
        return tuple(pod for pod in (*self.pods, *self.leftover) if pod.is_live(now))

    def lost_pods(self, now: datetime) -> tuple[PodFacts, ...]:
        """Pods whose node does not confirm their end."""
        return tuple(pod for pod in self.pods if pod.is_lost(now))

    def latest_deadline(self) -> datetime | None:
        """By when the pods that were told to go should be gone."""
        deadlines = [
            pod.deletion_deadline
            for pod in (*self.pods, *self.leftover)
            if pod.deletion_deadline is not None and not pod.has_ended
        ]
        return max(deadlines, default=None)

    def waiting_pod(self) -> PodFacts | None:
        """The pod to ask about while the gang is not complete: one that no node takes, else the first one."""
        waiting = [pod for pod in self.pods if pod.started is None and not pod.has_ended]
        unplaced = [pod for pod in waiting if pod.node is None]
        return next(iter((*unplaced, *waiting)), None)


def observe_gang(job_uid: str, observed: Observed) -> Gang:
    """Put an attempt's Job and its pods together."""
    pods = observed.pods_of(job_uid)
    newest = {pod.rank: pod for pod in pods}
    return Gang(observed.job(job_uid), tuple(newest.values()), _without(pods, newest.values()))


def _without(pods: Iterable[PodFacts], newest: Iterable[PodFacts]) -> tuple[PodFacts, ...]:
    kept = {pod.uid for pod in newest}
    return tuple(pod for pod in pods if pod.uid not in kept)

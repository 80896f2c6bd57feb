"""A small world that behaves as Kubernetes does towards the reconciler, and breaks at random by a seed.

Job controller, scheduler, kubelet, Kueue, users and a crashing operator, each a few lines; time is a number. It exists
so that properties can be tested over thousands of courses that nobody would write down.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.names import FINALIZER, Stage, child_name
from finetune_api.reasons import Reason
from finetune_operator.attempts import LookUpKind
from finetune_operator.gang import observe_gang
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.observation import (
    ContainerEnd,
    EventsSeen,
    JobFacts,
    JobState,
    Observed,
    PodFacts,
    QueueSeen,
    Refusal,
)
from finetune_operator.plan import Plan
from finetune_operator.reconciler import reconcile
from finetune_operator.spec_digest import spec_digest
from finetune_operator.standing import Starting
from tests.unit.operator.builders import (
    EXPORTED_MESSAGE,
    NOW,
    PACE,
    PREPARED_MESSAGE,
    TRAINED_MESSAGE,
    make_job,
)

_MESSAGES: dict[Stage, dict[str, Any]] = {
    Stage.PREPARE: PREPARED_MESSAGE,
    Stage.TRAIN: TRAINED_MESSAGE,
    Stage.EXPORT: EXPORTED_MESSAGE,
    Stage.CLEANUP: {"reason": "CleanedUp", "message": "The folder is empty."},
}
_GRACE = timedelta(seconds=30)
_EXIT_CODES = (1, 10, 11, 12, 13, 14, 20, 21, 22, 137)
MAX_ROUNDS = 8


class World:
    """One FineTuneJob and everything around it."""

    def __init__(self, seed: int, **changes: Any) -> None:
        self.random = random.Random(seed)
        self.now: datetime = NOW
        self.changes = changes
        self.job: FineTuneJob = make_job(**changes)
        self.gone = False
        self.jobs: dict[str, JobFacts] = {}
        self.pods: dict[str, PodFacts] = {}
        self.dead_pods: set[str] = set()
        self.refuses = False
        self.created: list[str] = []
        self.history: list[str] = []
        self._counter = 0

    # --- the operator ------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        return Observed(jobs=tuple(self.jobs.values()), pods=tuple(self.pods.values()))

    def run_operator(self, *, crash_after: int | None = None) -> Plan | None:
        """One pass of the controller. `crash_after` so many writes it is killed."""
        observed, writes = self.observe(), 0
        for _ in range(MAX_ROUNDS):
            plan = reconcile(self.job, observed, self.now, PACE)
            if plan.look_ups:
                observed = self._look_up(plan, observed)
            elif plan.create is not None:
                if self.refuses:
                    observed = replace(observed, refusal=_refusal())
                    continue
                observed = observed.with_job(self._create(plan.create))
                writes += 1
                if writes == crash_after:
                    return None
            else:
                return self._carry_out(plan, writes, crash_after)
        raise AssertionError("the facts contradict each other")

    def _look_up(self, plan: Plan, observed: Observed) -> Observed:
        for look_up in plan.look_ups:
            facts = self.jobs.get(look_up.name)
            match look_up.kind:
                case LookUpKind.JOB if facts is not None and facts.uid == look_up.uid:
                    observed = observed.with_job(facts)
                case LookUpKind.JOB:
                    observed = replace(observed, absent_jobs=observed.absent_jobs | {look_up.name})
                case LookUpKind.PODS:
                    known = observed.jobs_with_all_pods | {look_up.uid}
                    observed = replace(observed, jobs_with_all_pods=known)
                case LookUpKind.EVENTS:
                    seen = EventsSeen(None, self.now)
                    observed = replace(observed, events={**observed.events, look_up.uid: seen})
                case LookUpKind.QUEUE:
                    queue = QueueSeen(exists=True, told="", looked_at=self.now)
                    observed = replace(observed, queues={**observed.queues, look_up.uid: queue})
                case LookUpKind.NAMESPACE:
                    observed = replace(observed, namespace_terminating=False)
        return observed

    def _create(self, wanted: Starting) -> JobFacts:
        assert self.job.spec is not None
        name = child_name(self.job.name, wanted.stage, wanted.number)
        if name in self.jobs:
            return self.jobs[name]
        is_train = wanted.stage is Stage.TRAIN
        queue = (self.job.spec.queue_name or "") if is_train else ""
        facts = JobFacts(
            name=name,
            namespace=self.job.namespace,
            uid=self._uid(name),
            owner_name=self.job.name,
            owner_uid=self.job.uid,
            stage=wanted.stage,
            attempt=wanted.number,
            created=self.now,
            state=JobState.ACTIVE,
            size=self.job.spec.parallelism.nodes if is_train else 1,
            suspended=bool(queue),
            queue=queue,
            spec_digest=spec_digest(self.job.spec),
        )
        self.jobs[name] = facts
        self.created.append(name)
        return facts

    def _carry_out(self, plan: Plan, writes: int, crash_after: int | None) -> Plan | None:
        for action in self._actions(plan):
            action()
            writes += 1
            if writes == crash_after:
                return None
        return plan

    def _actions(self, plan: Plan) -> list[Any]:
        actions: list[Any] = []
        if plan.finalizer is not None:
            return [lambda: self._set_finalizer(wanted=bool(plan.finalizer))]
        if plan.status != self.job.status:
            actions.append(lambda: self._write(plan))
        actions += [lambda child=child: self.delete_job(child.name) for child in (*plan.stop, *plan.delete)]
        return actions

    def _write(self, plan: Plan) -> None:
        self.history.append(f"{plan.status.phase} {plan.status.reason}")
        self.job = self.job.with_status(plan.status)

    def _set_finalizer(self, *, wanted: bool) -> None:
        self.job = replace(self.job, finalizers=(FINALIZER,) if wanted else ())
        if not wanted and self.job.deleting:
            self.gone = True

    def _uid(self, name: str) -> str:
        self._counter += 1
        return f"{name}-{self._counter}"

    # --- Kubernetes --------------------------------------------------------------------------------------------

    def tick(self, seconds: float, *, faults: bool) -> None:
        """Let time pass, and everybody act once."""
        self.now += timedelta(seconds=seconds)
        for facts in list(self.jobs.values()):
            self._run_job_controller(facts)
        for pod in list(self.pods.values()):
            self._run_kubelet(pod, faults=faults)
        for facts in list(self.jobs.values()):
            self._run_job_controller(facts)
            self._run_kueue(facts, faults=faults)

    def _pods_of(self, facts: JobFacts) -> list[PodFacts]:
        return [pod for pod in self.pods.values() if pod.job_uid == facts.uid and not pod.is_gone]

    def _run_job_controller(self, facts: JobFacts) -> None:
        pods = self._pods_of(facts)
        if facts.deleting or facts.suspended:
            self._tell_to_go(pods)
            self._forget([pod for pod in pods if pod.has_ended])
            if facts.deleting and not self._pods_of(facts):
                self.jobs.pop(facts.name, None)
            return None
        if facts.state is not JobState.ACTIVE:
            return self._tell_to_go(pods)
        if any(pod.phase == "Failed" for pod in pods):
            self.jobs[facts.name] = replace(facts, state=JobState.FAILED)
            return self._tell_to_go(pods)
        if len(pods) == facts.size and all(pod.phase == "Succeeded" for pod in pods):
            self.jobs[facts.name] = replace(facts, state=JobState.SUCCEEDED)
            return None
        for rank in set(range(facts.size)) - {pod.rank for pod in pods}:
            self._create_pod(facts, rank)
        return None

    def _create_pod(self, facts: JobFacts, rank: int) -> None:
        uid = self._uid(f"{facts.name}-pod-{rank}")
        self.pods[uid] = PodFacts(
            name=uid,
            namespace=facts.namespace,
            uid=uid,
            job_uid=facts.uid,
            created=self.now,
            rank=rank,
            image="t:1",
        )

    def _tell_to_go(self, pods: list[PodFacts]) -> None:
        for pod in pods:
            if not pod.has_ended and pod.deletion_deadline is None:
                self.pods[pod.uid] = replace(pod, deletion_deadline=self.now + _GRACE)

    def _forget(self, pods: list[PodFacts]) -> None:
        for pod in pods:
            self.pods[pod.uid] = replace(pod, is_gone=True)

    def _run_kubelet(self, pod: PodFacts, *, faults: bool) -> None:
        chance = self.random.random()
        if pod.uid in self.dead_pods or pod.has_ended:
            return None
        if pod.deletion_deadline is not None:
            return self._end(pod, 22 if pod.started and chance < 0.5 else 137)
        if faults and chance < 0.02:
            self.dead_pods.add(pod.uid)
            self.pods[pod.uid] = replace(pod, deletion_deadline=self.now + _GRACE)
        elif pod.started is None:
            if chance < 0.7:
                self.pods[pod.uid] = replace(pod, node="node-1", phase="Running", started=self.now)
        elif faults and chance < 0.2:
            self._fail(pod)
        elif chance < 0.6 and self._all_started(pod):
            self._end(pod, 0)
        return None

    def _all_started(self, pod: PodFacts) -> bool:
        """A rank ends well only where all ranks run."""
        return observe_gang(pod.job_uid, self.observe()).started_at is not None

    def _fail(self, pod: PodFacts) -> None:
        disruption = self.random.choice(["", "", "EvictionByEvictionAPI", "DeletionByTaintManager"])
        self._end(replace(pod, disruption_reason=disruption), self.random.choice(_EXIT_CODES))

    def _end(self, pod: PodFacts, exit_code: int) -> None:
        facts = next((each for each in self.jobs.values() if each.uid == pod.job_uid), None)
        message = json.dumps(_MESSAGES[facts.stage]) if facts and exit_code == 0 else ""
        self.pods[pod.uid] = replace(
            pod,
            phase="Succeeded" if exit_code == 0 else "Failed",
            end=ContainerEnd(exit_code, "Completed" if exit_code == 0 else "Error", message, self.now),
        )

    def _run_kueue(self, facts: JobFacts, *, faults: bool) -> None:
        if (
            not facts.queue
            or facts.name not in self.jobs
            or facts.state is not JobState.ACTIVE
            or facts.deleting
        ):
            return
        live = [pod for pod in self._pods_of(facts) if not pod.has_ended]
        if facts.suspended and not live and self.random.random() < 0.5:
            self.jobs[facts.name] = replace(self.jobs[facts.name], suspended=False)
        elif faults and not facts.suspended and self.random.random() < 0.1:
            self.jobs[facts.name] = replace(self.jobs[facts.name], suspended=True)

    # --- people ------------------------------------------------------------------------------------------------

    def edit(self, **changes: Any) -> None:
        """Change the spec, as `make_manifest` takes changes."""
        self.changes = {**self.changes, **changes}
        edited = make_job(generation=self.job.generation + 1, deleting=self.job.deleting, **self.changes)
        self.job = replace(edited, status=self.job.status, finalizers=self.job.finalizers)

    def delete_job(self, name: str) -> None:
        """Delete a child, in the foreground."""
        if name in self.jobs:
            self.jobs[name] = replace(self.jobs[name], deleting=True)
            self._run_job_controller(self.jobs[name])

    def delete_finetune_job(self) -> None:
        """Delete the FineTuneJob; without our finalizer it is gone at once."""
        self.job = replace(self.job, deleting=True, generation=self.job.generation + 1)
        self.gone = FINALIZER not in self.job.finalizers

    def live_attempts(self) -> set[str]:
        """Uids of child Jobs with pods that run and whose nodes answer."""
        return {
            pod.job_uid for pod in self.pods.values() if not pod.has_ended and pod.uid not in self.dead_pods
        }


def _refusal() -> Refusal:
    return Refusal(Reason.QUOTA_EXCEEDED, "exceeded quota.")

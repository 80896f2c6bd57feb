"""The rim around the reconciler: takes facts from the cache, carries out the plan, writes status once, then tells.

Order matters: children are created first and status is written after, so that a killed operator finds the child
again by its name; children are deleted only when their facts stand in status.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from finetune_api.names import child_name
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome
from finetune_operator import metrics
from finetune_operator.attempts import LookUp, LookUpKind
from finetune_operator.cache import Cache
from finetune_operator.children import ChildConflict, Children
from finetune_operator.cluster import (
    AlreadyExists,
    Cluster,
    ClusterError,
    Conflict,
    NamespaceTerminating,
    NotFound,
    Refused,
    Unavailable,
)
from finetune_operator.events import decide_events
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.logs import job_logger
from finetune_operator.manifests.event import build_event
from finetune_operator.observation import (
    EventsSeen,
    JobFacts,
    Observed,
    ReceivedReport,
    Refusal,
    observe_complaint,
    observe_job,
    observe_pod,
)
from finetune_operator.reconciler import Pace, Plan, reconcile
from finetune_operator.standing import Starting
from finetune_operator.waiting import explain_refusal
from finetune_operator.work_queue import RetryLater

# Look-ups and a creation follow one another in one pass; more rounds than these mean that facts contradict.
MAX_ROUNDS = 8

logger = logging.getLogger(__name__)


class Controller:
    """Reconciles one job at a time per key; the work queue sees to that."""

    def __init__(
        self, cluster: Cluster, cache: Cache, children: Children, pace: Pace, clock: Callable[[], datetime]
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._children = children
        self._pace = pace
        self._clock = clock

    async def reconcile_key(self, key: JobKey) -> float | None:
        """Bring one job to where it should be. Returns after how many seconds to look again, or None."""
        job = self._cache.job(key)
        if job is None:
            return None
        try:
            with metrics.RECONCILE_SECONDS.time():
                return await self._reconcile(job)
        except NamespaceTerminating:
            return None  # The job goes with its namespace; the watch will say so.
        except NotFound:
            return await self._refresh(key)
        except Conflict:
            return await self._refresh(key)
        except Unavailable as error:
            raise RetryLater(error.message, delay_seconds=error.retry_after_seconds) from error
        except Refused as error:
            raise RetryLater(error.message) from error

    async def _reconcile(self, job: FineTuneJob) -> float | None:
        plan, observed = await self._plan(job)
        if plan.status != job.status:
            await self._write_status(job, plan)
            await self._tell(job, plan, observed.report)
        for child in plan.delete:
            await self._delete(child, plan)
        return plan.requeue_seconds

    async def _plan(self, job: FineTuneJob) -> tuple[Plan, Observed]:
        """Reconcile until nothing has to be read or created any more."""
        observed = self._cache.observed(job.uid)
        for _ in range(MAX_ROUNDS):
            plan = reconcile(job, observed, self._clock(), self._pace)
            if plan.look_ups:
                for look_up in plan.look_ups:
                    observed = await self._look_up(job, look_up, observed)
            elif plan.create is not None:
                observed = await self._create(job, plan.create, observed)
            else:
                return plan, observed
        raise RetryLater(f"the facts about {job.key} changed {MAX_ROUNDS} times while they were read")

    # --- reading -----------------------------------------------------------------------------------------------

    async def _look_up(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        match look_up.kind:
            case LookUpKind.JOB:
                return await self._look_up_job(job, look_up, observed)
            case LookUpKind.PODS:
                return await self._look_up_pods(job, look_up, observed)
            case LookUpKind.EVENTS:
                return await self._look_up_events(job, look_up, observed)

    async def _look_up_job(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        """Only a live 404 (or another Job under the name) says that an attempt's Job is missing."""
        try:
            facts = observe_job(await self._cluster.read_child_job(job.namespace, look_up.name))
        except NotFound:
            facts = None
        if facts is None or facts.uid != look_up.uid:
            return replace(observed, absent_jobs=observed.absent_jobs | {look_up.name})
        self._cache.add_child_job(facts)
        return observed.with_job(facts)

    async def _look_up_pods(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        pods = [
            facts
            async for body in self._cluster.list_pods_of_job(job.namespace, look_up.name)
            if (facts := observe_pod(body)) is not None and facts.job_uid == look_up.uid
        ]
        others = tuple(pod for pod in observed.pods if pod.job_uid != look_up.uid)
        return replace(
            observed,
            pods=(*others, *pods),
            jobs_with_all_pods=observed.jobs_with_all_pods | {look_up.uid},
        )

    async def _look_up_events(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        try:
            bodies = [body async for body in self._cluster.list_events_about(job.namespace, look_up.uid)]
        except ClusterError as error:
            # Events only explain; a job must not stand still because they cannot be read.
            job_logger(logger, job).warning("events about %s cannot be read: %s", look_up.name, error)
            bodies = []
        seen = EventsSeen(observe_complaint(bodies), self._clock())
        self._cache.note_events(job.uid, look_up.uid, seen)
        return replace(observed, events={**observed.events, look_up.uid: seen})

    # --- acting ------------------------------------------------------------------------------------------------

    async def _create(self, job: FineTuneJob, wanted: Starting, observed: Observed) -> Observed:
        name = child_name(job.name, wanted.stage, wanted.number)
        try:
            facts = await self._children.create(job, wanted.stage, wanted.number)
        except ChildConflict as error:
            return replace(observed, refusal=Refusal(Reason.NAME_CONFLICT, str(error)))
        except NamespaceTerminating:
            raise
        except Refused as error:
            explanation = explain_refusal(f"Job {name} cannot be created", error.message)
            return replace(observed, refusal=Refusal(explanation.reason, explanation.message))
        job_logger(logger, job, attempt=name).info("Job %s exists", name)
        self._cache.add_child_job(facts)
        return observed.with_job(facts)

    async def _write_status(self, job: FineTuneJob, plan: Plan) -> None:
        status = plan.status.model_dump(mode="json", exclude_none=True)
        try:
            body = await self._cluster.write_status(job, status)
        except Refused:
            # The one part of a status that comes from outside is the report of a pod.
            self._cache.forget_report(job.uid)
            raise
        metrics.STATUS_WRITES.inc()
        if plan.status.phase != job.status.phase or plan.status.reason != job.status.reason:
            job_logger(logger, job).info(
                "%s: %s: %s", plan.status.phase, plan.status.reason, plan.status.message
            )
        self._cache.observe_finetune_job(body)

    async def _tell(self, job: FineTuneJob, plan: Plan, report: ReceivedReport | None) -> None:
        """Post one event per transition. Events are for people: none is worth a retry."""
        for event in decide_events(job.status, plan.status, report):
            try:
                await self._cluster.create_event(build_event(job, event, self._clock()))
            except (AlreadyExists, NamespaceTerminating):
                continue
            except ClusterError as error:
                job_logger(logger, job).warning("event %s was not posted: %s", event.reason, error)

    async def _delete(self, child: JobFacts, plan: Plan) -> None:
        failed = {a.job_uid for a in plan.status.attempts if a.outcome is AttemptOutcome.FAILED}
        await self._children.delete(child, with_config_map=child.uid in failed)

    async def _refresh(self, key: JobKey) -> float | None:
        """The job is not what we thought it was: read it and begin anew."""
        job = self._cache.job(key)
        try:
            body = await self._cluster.read_job(key)
        except NotFound:
            if job is not None:
                self._cache.forget_finetune_job(key, job.uid)
            return None
        except ClusterError as error:
            raise RetryLater(error.message) from error
        self._cache.observe_finetune_job(body)
        return 0.0 if self._cache.job(key) is not None else None

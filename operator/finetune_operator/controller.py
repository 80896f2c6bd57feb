"""The rim around the reconciler: takes facts from the cache, carries out the plan, writes status once and tells.

Order matters: children are created first and status is written after, so that a killed operator finds the child
again by its name; children are deleted only when their facts stand in status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Protocol

from finetune_api.names import Stage, child_name
from finetune_api.reasons import Reason
from finetune_api.status import AttemptOutcome, Phase
from finetune_operator import logs, metrics
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
from finetune_operator.crash_points import reach
from finetune_operator.events import JobEvent, decide_events
from finetune_operator.job_resource import FineTuneJob, JobKey
from finetune_operator.logs import job_logger
from finetune_operator.manifests.event import build_event
from finetune_operator.observation import (
    EventsSeen,
    JobFacts,
    Observed,
    QueueSeen,
    ReceivedReport,
    Refusal,
    observe_complaint,
    observe_job,
    observe_pod,
    observe_queue,
)
from finetune_operator.pace import Pace
from finetune_operator.plan import Plan
from finetune_operator.reconciler import reconcile
from finetune_operator.standing import Starting
from finetune_operator.times import earliest, has_passed, seconds_until
from finetune_operator.waiting import Explanation, explain_refusal
from finetune_operator.wording import as_sentence
from finetune_operator.work_queue import RetryLater

# Look-ups and a creation follow one another in one pass; more rounds than these mean that facts contradict.
MAX_ROUNDS = 8

logger = logging.getLogger(__name__)


class Budget(Protocol):
    """What bounds the requests of all jobs together."""

    def reserve(self, key: JobKey) -> float:
        """Seconds to wait before this job may make its request; 0: now."""

    def forget(self, key: JobKey) -> None:
        """The job needs none any more."""


class Controller:
    """Reconciles one job at a time per key; the work queue sees to that."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        children: Children,
        pace: Pace,
        clock: Callable[[], datetime],
        progress_budget: Budget,
        look_up_budget: Budget,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._children = children
        self._pace = pace
        self._clock = clock
        self._progress_budget = progress_budget
        self._look_up_budget = look_up_budget

    async def reconcile_key(self, key: JobKey) -> float | None:
        """Bring one job to where it should be. Returns after how many seconds to look again, or None."""
        job = self._cache.job(key)
        if job is None:
            return await self._expire(key)
        metrics.observe_job(None, job)
        try:
            with metrics.RECONCILE_SECONDS.time(), logs.concerning(job):
                return await self._reconcile(job)
        except NamespaceTerminating:
            return None  # The job goes with its namespace; the watch will say so.
        except (NotFound, Conflict) as error:
            metrics.reconcile_failed(type(error).__name__)
            return await self._refresh(key)
        except Unavailable as error:
            metrics.reconcile_failed("Unavailable")
            raise RetryLater(error.message, delay_seconds=error.retry_after_seconds) from error
        except Refused as error:
            metrics.reconcile_failed("Refused")
            raise RetryLater(error.message) from error

    async def _reconcile(self, job: FineTuneJob) -> float | None:
        plan, observed = await self._plan(job)
        if plan.finalizer is not None:
            return await self._set_finalizer(job, plan)
        plan = self._within_budget(job, plan)
        plan = await self._delete_told(job, plan)
        if plan.delete and plan.status.phase is Phase.SUCCEEDED:
            history = _without_end(job, plan)
            if history.status != job.status:
                await self._write_and_tell(job, history, observed.report)
                return 0.0  # Now they are told, so that they can go before the end is written.
        if plan.status != job.status:
            await self._write_and_tell(job, plan, observed.report)
        for child in plan.stop:
            await self._stop(child)
        for child in plan.delete:
            await self._delete(child, plan)
        return earliest(plan.requeue_seconds, observed.look_again_seconds)

    async def _plan(self, job: FineTuneJob) -> tuple[Plan, Observed]:
        """Reconcile until nothing has to be read or created any more."""
        observed = self._cache.observed(job.uid)
        for _ in range(MAX_ROUNDS):
            plan = reconcile(job, observed, self._clock(), self._pace)
            if plan.look_ups:
                for look_up in plan.look_ups:
                    observed = await self._look_up(job, look_up, observed)
            elif plan.create is not None:
                observed = await self._create(job.with_status(plan.status), plan.create, observed)
            else:
                return plan, observed
        raise RetryLater(f"the facts about {job.key} changed {MAX_ROUNDS} times while they were read")

    def _within_budget(self, job: FineTuneJob, plan: Plan) -> Plan:
        """Hold figures back while those of other jobs have their turn."""
        wait_seconds = self._progress_budget.reserve(job.key) if plan.is_progress_only else 0.0
        if wait_seconds == 0:
            return plan
        wake = min(wait_seconds, plan.requeue_seconds or wait_seconds)
        return replace(plan, status=job.status, requeue_seconds=wake)

    async def _expire(self, key: JobKey) -> float | None:
        """Delete a finished job whose time is up. Its version is named, so that one edited meanwhile stays."""
        expiry = self._cache.expiry(key)
        if expiry is None:
            return None
        if not has_passed(expiry.at, self._clock()):
            return seconds_until(expiry.at, self._clock())
        try:
            await self._cluster.delete_finetune_job(key, expiry.uid, expiry.resource_version)
        except (NotFound, Conflict):
            return None  # Gone, or another version that the watch brings.
        except ClusterError as error:
            raise RetryLater(error.message) from error
        logger.info("%s was deleted: its ttlSecondsAfterFinished is over", key)
        return None

    # --- reading -----------------------------------------------------------------------------------------------

    # Look-ups of events and Workloads only explain. Those of thousands of waiting jobs must not become the API server's
    # load: whose turn it is not yet goes on with what is known.

    async def _look_up(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        match look_up.kind:
            case LookUpKind.JOB:
                return await self._look_up_job(job, look_up, observed)
            case LookUpKind.PODS:
                return await self._look_up_pods(job, look_up, observed)
            case LookUpKind.EVENTS:
                return await self._look_up_events(job, look_up, observed)
            case LookUpKind.QUEUE:
                return await self._look_up_queue(job, look_up, observed)
            case LookUpKind.NAMESPACE:
                return await self._look_up_namespace(job, observed)

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

    async def _look_up_queue(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        """Ask for Kueue's Workload; where there is no Kueue, nothing was found either."""
        if (wait_seconds := self._look_up_budget.reserve(job.key)) > 0:
            known = observed.queues.get(look_up.uid) or QueueSeen(
                exists=True, told="", looked_at=self._clock()
            )
            queues = {**observed.queues, look_up.uid: replace(known, looked_at=self._clock())}
            return replace(observed, queues=queues, look_again_seconds=wait_seconds)
        try:
            bodies = [body async for body in self._cluster.list_workloads_of(job.namespace, look_up.uid)]
            seen = observe_queue(bodies, self._clock())
        except NotFound:
            seen = QueueSeen(exists=False, told="", looked_at=self._clock())
        except ClusterError as error:
            job_logger(logger, job).warning("Workloads of %s cannot be read: %s", look_up.name, error)
            seen = QueueSeen(exists=True, told="", looked_at=self._clock())
        self._cache.note_queue(job.uid, look_up.uid, seen)
        return replace(observed, queues={**observed.queues, look_up.uid: seen})

    async def _look_up_namespace(self, job: FineTuneJob, observed: Observed) -> Observed:
        """Whether the namespace still takes new objects: the event that tells of the cleanup is one."""
        told = "The pods are ended, then the run's folder is removed from the store (spec.deletionPolicy: Delete)."
        event = JobEvent("Normal", Reason.CLEANING_UP, told, "once")
        try:
            await self._cluster.create_event(build_event(job, event, self._clock()))
        except AlreadyExists:
            pass
        except NamespaceTerminating:
            return replace(observed, namespace_terminating=True)
        return replace(observed, namespace_terminating=False)

    async def _look_up_events(self, job: FineTuneJob, look_up: LookUp, observed: Observed) -> Observed:
        if (wait_seconds := self._look_up_budget.reserve(job.key)) > 0:
            known = observed.events.get(look_up.uid) or EventsSeen(None, self._clock())
            events = {**observed.events, look_up.uid: replace(known, looked_at=self._clock())}
            return replace(observed, events=events, look_again_seconds=wait_seconds)
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
        with logs.concerning(job, attempt=name):
            try:
                facts = await self._children.create(job, wanted.stage, wanted.number)
            except ChildConflict as error:
                return replace(observed, refusal=Refusal(Reason.NAME_CONFLICT, str(error)))
            except NamespaceTerminating:
                if wanted.stage is not Stage.CLEANUP:
                    raise
                return replace(observed, namespace_terminating=True)
            except Refused as error:
                explanation = _explain_refused(name, error)
                return replace(observed, refusal=Refusal(explanation.reason, explanation.message))
            logger.info("Job %s exists", name)
        self._cache.add_child_job(facts)
        return observed.with_job(facts)

    async def _set_finalizer(self, job: FineTuneJob, plan: Plan) -> float | None:
        """Set it before anything is written to the store, or let the job go."""
        await self._tell(job, plan.events)
        reach("before-finalizer")
        if plan.finalizer:
            self._cache.observe_finetune_job(await self._cluster.add_finalizer(job))
        else:
            await self._cluster.remove_finalizer(job)
        reach("after-finalizer")
        job_logger(logger, job).info("finalizer %s", "set" if plan.finalizer else "taken away")
        return 0.0 if plan.finalizer else None

    async def _write_and_tell(self, job: FineTuneJob, plan: Plan, report: ReceivedReport | None) -> None:
        """Write the status and post its events side by side, so that no crash or lost answer parts them."""
        telling = self._tell(job, decide_events(job.status, plan.status, report))
        written, _ = await asyncio.gather(self._write_status(job, plan), telling, return_exceptions=True)
        if isinstance(written, BaseException):
            raise written

    async def _write_status(self, job: FineTuneJob, plan: Plan) -> None:
        status = plan.status.model_dump(mode="json", exclude_none=True)
        reach("before-status")
        try:
            body = await self._cluster.write_status(job, status)
        except Refused:
            # The one part of a status that comes from outside is the report of a pod.
            self._cache.forget_report(job.uid)
            raise
        reach("after-status")
        metrics.status_written(progress_only=plan.is_progress_only)
        metrics.observe_job(job, job.with_status(plan.status))
        if not plan.is_progress_only:
            self._progress_budget.forget(job.key)
        if plan.status.phase != job.status.phase or plan.status.reason != job.status.reason:
            job_logger(logger, job).info(
                "%s: %s: %s", plan.status.phase, plan.status.reason, plan.status.message
            )
        self._cache.observe_finetune_job(body)

    async def _tell(self, job: FineTuneJob, events: Iterable[JobEvent]) -> None:
        """Post one event per transition. Events are for people: none is worth a retry."""
        for event in events:
            reach("before-event")
            try:
                await self._cluster.create_event(build_event(job, event, self._clock()))
            except (AlreadyExists, NamespaceTerminating):
                continue
            except ClusterError as error:
                job_logger(logger, job).warning("event %s was not posted: %s", event.reason, error)
            reach("after-event")

    async def _delete_told(self, job: FineTuneJob, plan: Plan) -> Plan:
        """Delete the children whose facts stand in status already, before a status that may call the job finished.

        A finished job is not looked at again: what a killed operator had not deleted by then would stay.
        """
        told = {a.job_uid for a in job.status.attempts if a.outcome is not AttemptOutcome.RUNNING}
        for child in plan.delete:
            if child.uid in told:
                await self._delete(child, plan)
        return replace(plan, delete=tuple(child for child in plan.delete if child.uid not in told))

    async def _stop(self, child: JobFacts) -> None:
        reach("before-delete")
        await self._children.stop(child)
        reach("after-delete")

    async def _delete(self, child: JobFacts, plan: Plan) -> None:
        succeeded = {a.job_uid for a in plan.status.attempts if a.outcome is AttemptOutcome.SUCCEEDED}
        reach("before-delete")
        await self._children.delete(child, with_config=child.uid not in succeeded)
        reach("after-delete")

    async def _refresh(self, key: JobKey) -> float | None:
        """The job is not what we thought it was: read it and begin anew."""
        job = self._cache.job(key)
        try:
            body = await self._cluster.read_job(key)
        except NotFound:
            if job is not None:
                self._cache.forget_finetune_job(key, job.uid)
                metrics.forget_job(key.namespace, key.name)
            return None
        except ClusterError as error:
            raise RetryLater(error.message) from error
        self._cache.observe_finetune_job(body)
        return 0.0 if self._cache.job(key) is not None else None


def _explain_refused(name: str, error: Refused) -> Explanation:
    """Why an attempt could not be created. What is invalid stays so until the spec is another."""
    if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        told = f"Job {name} cannot be made from this spec: {as_sentence(error.message)} Correct the spec."
        return Explanation(Reason.INVALID_SPEC, told)
    return explain_refusal(f"Job {name} cannot be created", error.message)


def _without_end(job: FineTuneJob, plan: Plan) -> Plan:
    """The plan with the history brought up to date, but the job not finished yet.

    An operator that was killed again and again may learn of all attempts and of the end in one pass.
    """
    before = job.status
    status = plan.status.model_copy(
        update={
            "conditions": before.conditions,
            "phase": before.phase,
            "reason": before.reason,
            "message": before.message,
            "completion_time": before.completion_time,
            "observed_generation": before.observed_generation,
        }
    )
    return replace(plan, status=status, delete=())

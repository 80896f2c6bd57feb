"""Prometheus metrics of the operator, served at /metrics. Names and labels are an interface: people alert on them.

Times are in seconds, sizes in bytes, shares are ratios. Labels are bounded: namespaces, and words of our own; only
the figures of jobs in training are labelled with a job's name, see job_figures.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from finetune_api.names import Stage
from finetune_api.reasons import FailureClass, Reason
from finetune_api.status import Attempt, AttemptOutcome, FineTuneJobStatus, Phase
from finetune_operator.attempt_starts import AttemptStarts
from finetune_operator.job_figures import JobFigures
from finetune_operator.job_resource import FineTuneJob, JobKey

# When a counter began is known from the process; a second series for each would double the number of them.
disable_created_metrics()  # type: ignore[no-untyped-call]

_RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_START_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)
_REASONS = frozenset([*FailureClass, *Reason])
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

# --- the operator ------------------------------------------------------------------------------------------------

BUILD_INFO = Gauge("finetune_operator_build_info", "Always 1; the label tells the version.", ["version"])
# The image holds the code without its packaging, and says by this variable what it was built from.
BUILD_INFO.labels(version=os.environ.get("FINETUNE_VERSION", "dev")).set(1)
LEASE_HELD = Gauge("finetune_lease_held", "1 while this process holds the Lease and so may act, else 0.")
QUEUE_LENGTH = Gauge("finetune_work_queue_length", "FineTuneJobs that wait for a reconcile or are in one.")
LIVE_JOBS = Gauge("finetune_live_jobs", "FineTuneJobs that have not ended.")
RECONCILE_SECONDS = Histogram(
    "finetune_reconcile_duration_seconds",
    "Duration of one reconcile of one FineTuneJob, requests included.",
    buckets=_RECONCILE_BUCKETS,
)
RECONCILE_ERRORS = Counter(
    "finetune_reconcile_errors_total", "Reconciles that could not be finished, by kind of error.", ["kind"]
)
STATUS_WRITES = Counter(
    "finetune_status_writes_total",
    "Writes of a FineTuneJob's status. kind: progress (nothing but figures) or transition (anything else).",
    ["kind"],
)
API_REQUESTS = Counter(
    "finetune_api_requests_total",
    "Requests to the API server beside watches, by verb, resource and HTTP status; code `none`: no answer.",
    ["verb", "resource", "code"],
)
PROGRESS_REPORTS = Counter(
    "finetune_progress_reports_total", "Progress reports from pods, by HTTP status of the answer.", ["code"]
)
CERTIFICATE_EXPIRATION = Gauge(
    "finetune_certificate_expiration_timestamp_seconds",
    "When the progress server's certificate ends (Unix time). certificate: server or authority.",
    ["certificate"],
)

# --- jobs --------------------------------------------------------------------------------------------------------

ATTEMPTS = Counter(
    "finetune_attempts_total",
    "Attempts that ended, by stage, outcome and reason (a failure class, or why the operator stopped it).",
    ["stage", "outcome", "reason"],
)
RESTARTS = Counter(
    "finetune_restarts_total", "Restarts that counted against failurePolicy.maxRestarts.", ["namespace"]
)
PREEMPTIONS = Counter(
    "finetune_preemptions_total", "Evictions and disruptions that did not count as restarts.", ["namespace"]
)
QUEUE_WAIT_SECONDS = Histogram(
    "finetune_queue_wait_seconds",
    "From the creation of a train attempt's Job, which is when admission is asked for, until all its containers "
    "run. Once per attempt.",
    ["namespace"],
    buckets=_START_BUCKETS,
)
FIRST_STEP_SECONDS = Histogram(
    "finetune_time_to_first_step_seconds",
    "From when all containers of a train attempt run until it reports a step that it did itself. Once per attempt.",
    ["namespace"],
    buckets=_START_BUCKETS,
)

_FIGURES, _STARTS = JobFigures(), AttemptStarts()
REGISTRY.register(_FIGURES)


class _JobsByPhase(Collector):
    """Counted at every scrape from what the operator knows: nothing can drift."""

    def __init__(self, count: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Show every phase of a namespace that has jobs, so that none is missing from a graph."""
        counted = self._count()
        family = GaugeMetricFamily(
            "finetune_jobs",
            "FineTuneJobs by namespace and phase, ended ones included.",
            labels=["namespace", "phase"],
        )
        for namespace in sorted({namespace for namespace, _ in counted}):
            for phase in Phase:
                family.add_metric([namespace, phase], counted.get((namespace, phase), 0))
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is counted before somebody asks."""
        yield GaugeMetricFamily("finetune_jobs", "")


def count_jobs_with(
    count: Callable[[], Mapping[tuple[str, str], int]], registry: CollectorRegistry = REGISTRY
) -> None:
    """Say what counts FineTuneJobs by (namespace, phase). To be called once."""
    registry.register(_JobsByPhase(count))


class _Family(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


async def expose(registry: CollectorRegistry = REGISTRY) -> bytes:
    """Write all metrics as Prometheus reads them, family by family: thousands of jobs must not hold up the watches."""
    written = []
    for family in registry.collect():
        written.append(generate_latest(_Family(family)))
        await asyncio.sleep(0)
    return b"".join(written)


# --- what happened -------------------------------------------------------------------------------------------------


def observe_job(before: FineTuneJob | None, after: FineTuneJob) -> None:
    """Take in a live job. `before`: what it was before a status write; None where nothing was written."""
    _FIGURES.observe(after)
    if before is None or before.uid != after.uid:
        return
    old, new = before.status, after.status
    for attempt in _newly_ended(old, new):
        attempt_ended(attempt.stage, attempt.outcome, attempt.reason or "")
    RESTARTS.labels(after.namespace).inc(_increase(old.restarts, new.restarts))
    PREEMPTIONS.labels(after.namespace).inc(_increase(old.preemptions, new.preemptions))
    starts = _STARTS.observe(before, after)
    if starts.queue_wait_seconds is not None:
        QUEUE_WAIT_SECONDS.labels(after.namespace).observe(starts.queue_wait_seconds)
    if starts.first_step_seconds is not None:
        FIRST_STEP_SECONDS.labels(after.namespace).observe(starts.first_step_seconds)


def forget_job(namespace: str, name: str) -> None:
    """Drop the series of a job that was deleted."""
    _FIGURES.forget(JobKey(namespace, name))
    _STARTS.forget(JobKey(namespace, name))


def attempt_ended(stage: Stage, outcome: AttemptOutcome, reason: str) -> None:
    """Count an attempt. A reason that is none of ours would make the number of series anybody's choice."""
    ATTEMPTS.labels(stage=stage, outcome=outcome, reason=reason if reason in _REASONS else "").inc()


def reconcile_failed(kind: str) -> None:
    """Count a reconcile that could not be finished."""
    RECONCILE_ERRORS.labels(kind=kind).inc()


def status_written(*, progress_only: bool) -> None:
    """Count a write of a status."""
    STATUS_WRITES.labels(kind="progress" if progress_only else "transition").inc()


def request_answered(method: str, path: str, code: int | None) -> None:
    """Count a request to the API server; None where no answer came."""
    resource, is_named = _resource(path)
    verb = _VERBS.get(method) or ("get" if is_named else "list")
    API_REQUESTS.labels(verb=verb, resource=resource, code=str(code or "none")).inc()


def _resource(path: str) -> tuple[str, bool]:
    """Resource, with its subresource, that a path is about, and whether it names one object."""
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis"):
        return path, True
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join([*parts[:1], *parts[2:3]]), len(parts) > 1


def _newly_ended(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[Attempt]:
    known = {(attempt.job_uid, attempt.outcome) for attempt in old.attempts}
    for attempt in new.attempts:
        has_ended = attempt.outcome is not AttemptOutcome.RUNNING
        if has_ended and (attempt.job_uid, attempt.outcome) not in known:
            yield attempt


def _increase(old: int, new: int) -> int:
    """What was added to a figure that begins anew with every stage."""
    return new - old if new >= old else new

"""Prometheus metrics of the operator, served at /metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECONCILE_SECONDS = Histogram(
    "finetune_reconcile_seconds", "Duration of one reconcile of one FineTuneJob, requests included."
)
STATUS_WRITES = Counter("finetune_status_writes_total", "Writes of a FineTuneJob's status.")
PROGRESS_REPORTS = Counter(
    "finetune_progress_reports_total", "Progress reports from pods, by HTTP status of the answer.", ["code"]
)
QUEUE_LENGTH = Gauge("finetune_work_queue_length", "FineTuneJobs that wait for a reconcile or are in one.")
LIVE_JOBS = Gauge("finetune_live_jobs", "FineTuneJobs that have not ended.")

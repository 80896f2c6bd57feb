"""A v1 Event about a FineTuneJob, as `kubectl describe` shows it."""

from __future__ import annotations

from datetime import datetime

from finetune_api import API_VERSION, KIND, names
from finetune_operator.events import JobEvent
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.times import format_time


def build_event(job: FineTuneJob, event: JobEvent, now: datetime) -> JsonObject:
    """Build the event."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event.name(job.name, job.uid), "namespace": job.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.short_message,
        "source": {"component": names.OPERATOR_NAME},
        "reportingComponent": names.OPERATOR_NAME,
        "reportingInstance": names.OPERATOR_NAME,
        "firstTimestamp": format_time(now),
        "lastTimestamp": format_time(now),
        "count": 1,
    }

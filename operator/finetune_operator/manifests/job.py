"""The attempt's batch/v1 Job: its pods start, end and fail as one, and are tried once."""

from __future__ import annotations

from finetune_api import names
from finetune_api.names import Stage
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.job_file import build_job_file
from finetune_operator.manifests.metadata import build_labels, build_metadata, pass_through
from finetune_operator.manifests.pod import build_pod_spec
from finetune_operator.manifests.volumes import ANNOTATION_JOB_FILE
from finetune_operator.manifests.wanted import WantedAttempt
from finetune_operator.settings import PodSettings
from finetune_operator.spec_digest import spec_digest

# Nobody may be left to watch a cleanup Job: it ends by itself, also when its pod can never start, and then goes.
CLEANUP_DEADLINE_SECONDS = 1800
CLEANUP_TTL_SECONDS = 600


def build_job(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    """Build the Job. It never starts a second pod: the operator classifies the failure and starts the next attempt."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(wanted, settings),
        "spec": {
            "completions": wanted.nodes,
            "parallelism": wanted.nodes,
            # Pods of an Indexed Job have names that the others can look up.
            **({"completionMode": "Indexed"} if wanted.is_gang else {}),
            "backoffLimit": 0,
            # A pod that still saves its checkpoint counts as active, not as failed.
            "podReplacementPolicy": "Failed",
            **({"suspend": True} if _is_queued(wanted) else {}),
            **(_own_end() if wanted.stage is Stage.CLEANUP else {}),
            "template": {
                "metadata": _pod_metadata(wanted, settings),
                "spec": build_pod_spec(wanted, settings),
            },
        },
    }


def _metadata(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    metadata = build_metadata(wanted)
    passed = pass_through(wanted.job.annotations, settings.pass_through_annotations)
    return {
        **metadata,
        "labels": {**_passed_labels(wanted, settings), **metadata["labels"], **_queue_labels(wanted)},
        "annotations": {**passed, names.ANNOTATION_SPEC_DIGEST: spec_digest(wanted.spec)},
    }


def _pod_metadata(wanted: WantedAttempt, settings: PodSettings) -> JsonObject:
    passed = pass_through(wanted.job.annotations, settings.pass_through_annotations)
    own = {ANNOTATION_JOB_FILE: build_job_file(wanted)} if wanted.stage is Stage.CLEANUP else {}
    annotations = {**passed, **own}
    return {
        "labels": {**_passed_labels(wanted, settings), **build_labels(wanted)},
        **({"annotations": annotations} if annotations else {}),
    }


def _passed_labels(wanted: WantedAttempt, settings: PodSettings) -> dict[str, str]:
    return pass_through(wanted.job.labels, settings.pass_through_labels)


def _is_queued(wanted: WantedAttempt) -> bool:
    """Whether Kueue decides when the pods may start: only GPUs are worth a queue."""
    return wanted.stage is Stage.TRAIN and wanted.spec.queue_name is not None


def _queue_labels(wanted: WantedAttempt) -> dict[str, str]:
    queue, priority_class = wanted.spec.queue_name, wanted.spec.workload_priority_class_name
    if queue is None or not _is_queued(wanted):
        return {}
    return {
        names.LABEL_KUEUE_QUEUE: queue,
        **({names.LABEL_KUEUE_PRIORITY_CLASS: priority_class} if priority_class else {}),
    }


def _own_end() -> JsonObject:
    return {
        "activeDeadlineSeconds": CLEANUP_DEADLINE_SECONDS,
        "ttlSecondsAfterFinished": CLEANUP_TTL_SECONDS,
    }

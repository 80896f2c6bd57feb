"""Names, labels and owner of an attempt's objects."""

from __future__ import annotations

from finetune_api import API_VERSION, KIND, names
from finetune_api.names import Stage, child_name
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject

APPLICATION_NAME = "finetune-job"


def build_metadata(job: FineTuneJob, stage: Stage, attempt: int) -> JsonObject:
    """Metadata of the attempt's Job and ConfigMap: they go when the FineTuneJob goes."""
    return {
        "name": child_name(job.name, stage, attempt),
        "namespace": job.namespace,
        "labels": build_labels(job, stage, attempt),
        "ownerReferences": [build_owner_reference(job)],
    }


def build_labels(job: FineTuneJob, stage: Stage, attempt: int) -> dict[str, str]:
    """Labels of everything that belongs to an attempt. Identity is in the owner reference, never in labels."""
    return {
        "app.kubernetes.io/name": APPLICATION_NAME,
        "app.kubernetes.io/instance": job.name,
        "app.kubernetes.io/component": stage.value,
        "app.kubernetes.io/part-of": names.OPERATOR_NAME,
        names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
        names.LABEL_JOB: job.name,
        names.LABEL_JOB_UID: job.uid,
        names.LABEL_STAGE: stage.value,
        names.LABEL_ATTEMPT: str(attempt),
    }


def build_owner_reference(job: FineTuneJob) -> JsonObject:
    """The FineTuneJob as controlling owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }

"""Names, labels and owner of an attempt's objects, and what an administrator lets pass from the FineTuneJob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finetune_api import API_VERSION, KIND, names
from finetune_operator.job_resource import FineTuneJob
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.wanted import WantedAttempt

APPLICATION_NAME = "finetune-job"


def build_metadata(wanted: WantedAttempt) -> JsonObject:
    """Metadata of an attempt's object: it goes when the FineTuneJob goes, unless it cleans up behind it."""
    return {
        "name": wanted.name,
        "namespace": wanted.job.namespace,
        "labels": build_labels(wanted),
        **({"ownerReferences": [build_owner_reference(wanted.job)]} if wanted.is_owned else {}),
    }


def build_labels(wanted: WantedAttempt) -> dict[str, str]:
    """Labels of everything that belongs to an attempt. Identity is in the owner reference, never in labels."""
    return {
        "app.kubernetes.io/name": APPLICATION_NAME,
        "app.kubernetes.io/instance": wanted.job.name,
        "app.kubernetes.io/component": wanted.stage.value,
        "app.kubernetes.io/part-of": names.OPERATOR_NAME,
        names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
        **select_pods(wanted),
        names.LABEL_JOB: wanted.job.name,
    }


def select_pods(wanted: WantedAttempt) -> dict[str, str]:
    """The labels that only the pods of this attempt have."""
    return {
        names.LABEL_JOB_UID: wanted.job.uid,
        names.LABEL_STAGE: wanted.stage.value,
        names.LABEL_ATTEMPT: str(wanted.number),
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


def pass_through(found: Mapping[str, str], allowed: Sequence[str]) -> dict[str, str]:
    """Pick the labels or annotations of the FineTuneJob that the administrator lets pass to its pods and Jobs."""
    return {key: found[key] for key in allowed if key in found}

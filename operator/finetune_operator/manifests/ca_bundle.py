"""The ConfigMap by which pods know the progress server's certificate."""

from __future__ import annotations

import posixpath

from finetune_api import names
from finetune_operator.kubernetes_objects import JsonObject


def build_ca_bundle(name: str, namespace: str, certificates: str) -> JsonObject:
    """Build it for server-side apply. It belongs to no job: all jobs of the namespace share it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/part-of": names.OPERATOR_NAME,
                names.LABEL_MANAGED_BY: names.OPERATOR_NAME,
            },
        },
        "data": {posixpath.basename(names.PROGRESS_CA_PATH): certificates},
    }

"""The headless Service by which the pods of a gang find pod 0."""

from __future__ import annotations

from finetune_api import names
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.manifests.metadata import build_metadata
from finetune_operator.manifests.wanted import WantedAttempt

# The Job controller puts it on every pod that it makes.
LABEL_OF_PODS = "batch.kubernetes.io/job-name"


def build_service(wanted: WantedAttempt) -> JsonObject:
    """Build it. Names must resolve before the pods are ready: the ranks meet in order to become so."""
    port = names.RENDEZVOUS_PORT
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(wanted),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {LABEL_OF_PODS: wanted.name},
            "ports": [{"name": "rendezvous", "protocol": "TCP", "port": port, "targetPort": port}],
        },
    }


def coordinator_address(wanted: WantedAttempt) -> str:
    """`host:port` where the ranks meet: pod 0's name within the Service, as the Job controller makes it."""
    return f"{wanted.name}-0.{wanted.name}:{names.RENDEZVOUS_PORT}"

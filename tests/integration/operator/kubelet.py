"""A stand-in for the kubelet: no node runs here, so tests say what became of the pods that the Job controller made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tests.integration.operator.api_client import BATCH, CORE, Api, JsonObject, wait_until

PREPARED = {
    "reason": "Prepared",
    "message": "480 rows are ready.",
    "prepared": {
        "datasetDigest": "d" * 64,
        "modelDigest": "m" * 64,
        "rowsUsed": 480,
        "rowsDropped": 3,
        "totalSteps": 90,
    },
}
TRAINED = {
    "reason": "Trained",
    "message": "All 90 steps are done.",
    "step": 90,
    "trained": {
        "step": 90,
        "loss": 0.25,
        "checkpointUri": "s3://models/bot/runs/x/checkpoints/step-00000090",
    },
}
EXPORTED = {
    "reason": "Exported",
    "message": "The model is exported.",
    "exported": {
        "adapterUri": "s3://models/bot/runs/x/adapter",
        "mergedUri": "s3://models/bot/runs/x/merged",
        "manifestDigest": "e" * 64,
        "mergeMaxLogitDifference": 1e-6,
    },
}


class Kubelet:
    """Patches pods' status as a kubelet would."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def pod_of(self, job_name: str) -> JsonObject:
        """Wait for the pod of a Job."""

        def find() -> JsonObject | None:
            label = "batch.kubernetes.io/job-name"
            pods = [
                p
                for p in self._api.list_objects(CORE, "pods")
                if p["metadata"]["labels"].get(label) == job_name
            ]
            return pods[0] if pods else None

        return wait_until(find, what=lambda: f"pod of Job {job_name}")

    def start(self, job_name: str) -> JsonObject:
        """The container runs."""
        pod = self.pod_of(job_name)
        self._patch(pod, "Running", {"running": {"startedAt": _now()}})
        return pod

    def succeed(self, job_name: str, message: JsonObject) -> None:
        """The container ends with exit code 0 and a termination message."""
        pod = self.pod_of(job_name)
        self._patch(pod, "Succeeded", {"terminated": _terminated(0, "Completed", json.dumps(message))})

    def fail(
        self, job_name: str, exit_code: int, *, reason: str = "Error", message: JsonObject | None = None
    ) -> None:
        """The container ends with another exit code."""
        pod = self.pod_of(job_name)
        text = json.dumps(message) if message else ""
        self._patch(pod, "Failed", {"terminated": _terminated(exit_code, reason, text)})

    def complain(self, pod: JsonObject, reason: str, message: str) -> None:
        """Write a Warning event about a pod."""
        metadata = pod["metadata"]
        self._api.create(
            CORE,
            "events",
            {
                "metadata": {"generateName": f"{metadata['name']}."},
                "involvedObject": {
                    "kind": "Pod",
                    "apiVersion": "v1",
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "uid": metadata["uid"],
                },
                "type": "Warning",
                "reason": reason,
                "message": message,
                "source": {"component": "kubelet"},
                "firstTimestamp": _now(),
                "lastTimestamp": _now(),
                "count": 1,
            },
        )

    def assign(self, pod: JsonObject, node: str) -> None:
        """Bind the pod to a node, as the scheduler does."""
        name = pod["metadata"]["name"]
        path = f"{self._api.path(CORE, 'pods', name)}/binding"
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        self._api.send("POST", path, {"metadata": {"name": name}, "target": target})

    def _patch(self, pod: JsonObject, phase: str, state: JsonObject) -> None:
        status: dict[str, Any] = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": "trainer",
                    "state": state,
                    "ready": phase == "Running",
                    "restartCount": 0,
                    "image": "trainer",
                    "imageID": "",
                }
            ],
        }
        self._api.patch_status(CORE, "pods", pod["metadata"]["name"], status)


def _terminated(exit_code: int, reason: str, message: str) -> JsonObject:
    return {
        "exitCode": exit_code,
        "reason": reason,
        "message": message,
        "startedAt": _now(),
        "finishedAt": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_is_there(api: Api, name: str) -> JsonObject:
    """Wait for a Job."""
    return wait_until(lambda: api.read(BATCH, "jobs", name), what=lambda: f"Job {name}")

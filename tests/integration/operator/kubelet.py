"""A stand-in for the kubelet: no node runs here, so tests say what became of the pods that the Job controller made.

`Kubelet` does what the test says, when the test says it; scripted_kubelet.py plays many pods by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.integration.operator.api_client import BATCH, CORE, Api, JsonObject, wait_until

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
TRAINER = "trainer"
PREEMPTED = 22

PREPARED = {
    "reason": "Prepared",
    "message": "Prepared 480 of 483 rows (3 dropped: 3 too long), 61,000 tokens, 41 % learned; 30 steps an epoch.",
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


@dataclass(frozen=True)
class End:
    """How a container ends."""

    exit_code: int = 0
    reason: str = ""
    message: JsonObject | None = None

    @property
    def text(self) -> str:
        """The termination message, as the kubelet reads it from the container's file."""
        return json.dumps(self.message) if self.message else ""


SAVED = End(PREEMPTED, message={"reason": "Preempted", "message": "A checkpoint was saved after SIGTERM."})


class Kubelet:
    """Patches pods' status as a kubelet would. `rank` is the pod's index in an Indexed Job."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def pod_of(self, job_name: str, rank: int = 0) -> JsonObject:
        """Wait for the newest pod of a Job's rank."""
        return wait_until(
            lambda: next((pod for pod in self.list_pods(job_name) if rank_of(pod) == rank), None),
            what=lambda: f"pod {rank} of Job {job_name}",
        )

    def pods_of(self, job_name: str, ranks: int) -> list[JsonObject]:
        """Wait for one pod of every rank."""
        return [self.pod_of(job_name, rank) for rank in range(ranks)]

    def list_pods(self, job_name: str) -> list[JsonObject]:
        """Pods of a Job as they are now, the newest first."""
        pods = self._api.list_objects(CORE, "pods", f"{JOB_NAME_LABEL}={job_name}")
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def start(self, job_name: str, rank: int = 0, node: str | None = None) -> JsonObject:
        """The container runs, on a node if one is named: only then does deleting the pod take its grace period."""
        pod = self.pod_of(job_name, rank)
        if node is not None and "nodeName" not in pod["spec"]:
            self.assign(pod, node)
        write_running(self._api, pod)
        return pod

    def start_all(self, job_name: str, ranks: int, node: str | None = None) -> None:
        """The containers of all ranks run."""
        for rank in range(ranks):
            self.start(job_name, rank, node)

    def succeed(self, job_name: str, message: JsonObject, rank: int = 0) -> None:
        """The container ends with exit code 0 and a termination message."""
        write_end(self._api, self.pod_of(job_name, rank), End(0, "Completed", message))

    def fail(
        self,
        job_name: str,
        exit_code: int,
        *,
        reason: str = "Error",
        message: JsonObject | None = None,
        rank: int = 0,
    ) -> None:
        """The container ends with another exit code."""
        write_end(self._api, self.pod_of(job_name, rank), End(exit_code, reason, message))

    def evict_for_pressure(self, job_name: str, rank: int = 0) -> None:
        """The node runs out of memory and its kubelet evicts the pod."""
        why = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 4Mi."
        disruption = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "TerminationByKubelet",
            "message": why,
        }
        pod = self.pod_of(job_name, rank)
        write_status(
            self._api,
            pod,
            {"phase": "Failed", "reason": "Evicted", "message": why, "conditions": [disruption]},
        )

    def obey_deletion(self, job_name: str, end: End = SAVED, rank: int = 0) -> None:
        """Wait until the pod was told to go, let its container end, and confirm."""

        def told() -> JsonObject | None:
            pods = [pod for pod in self.list_pods(job_name) if rank_of(pod) == rank]
            return next((pod for pod in pods if "deletionTimestamp" in pod["metadata"]), None)

        pod = wait_until(told, what=lambda: f"deletion of pod {rank} of Job {job_name}")
        write_end(self._api, pod, end)
        remove(self._api, pod)

    def refuse_image(self, job_name: str, image: str) -> None:
        """The registry has no such image."""
        waiting = {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
        write_status(
            self._api,
            self.pod_of(job_name),
            {"phase": "Pending", **_container({"waiting": waiting}, ready=False)},
        )

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
                "firstTimestamp": now_in_seconds(),
                "lastTimestamp": now_in_seconds(),
                "count": 1,
            },
        )

    def assign(self, pod: JsonObject, node: str) -> None:
        """Bind the pod to a node, as the scheduler does."""
        bind(self._api, pod, node)


def rank_of(pod: JsonObject) -> int:
    """The pod's index in its Job; 0 where the Job is not indexed."""
    return int(pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION, 0))


def bind(api: Api, pod: JsonObject, node: str) -> None:
    """Bind a pod to a node, after the real scheduler has said that it finds none: it must not say so afterwards."""
    name = pod["metadata"]["name"]
    wait_until(lambda: _was_judged(api, name), what=lambda: f"word of the scheduler about {name}")
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"metadata": {"name": name}, "target": target}
    api.send("POST", f"{api.path(CORE, 'pods', name)}/binding", binding)


def _was_judged(api: Api, name: str) -> bool:
    pod = api.read(CORE, "pods", name)
    return pod is None or any(each["type"] == "PodScheduled" for each in pod["status"].get("conditions", ()))


def write_running(api: Api, pod: JsonObject) -> None:
    """The container has been started and is ready; it is started only once, however often this is told."""
    ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
    state = _container({"running": {"startedAt": _started_at(api, pod)}}, ready=True)
    write_status(api, pod, {"phase": "Running", "conditions": ready, **state})


def write_end(api: Api, pod: JsonObject, end: End) -> None:
    """The container has ended, and with it the pod."""
    terminated = {
        "exitCode": end.exit_code,
        "reason": end.reason or ("Completed" if end.exit_code == 0 else "Error"),
        "message": end.text,
        "startedAt": _started_at(api, pod),
        "finishedAt": now_in_seconds(),
    }
    unready = [{"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")]
    phase = "Succeeded" if end.exit_code == 0 else "Failed"
    state = _container({"terminated": terminated}, ready=False)
    write_status(api, pod, {"phase": phase, "conditions": unready, **state})


def write_status(api: Api, pod: JsonObject, status: JsonObject) -> None:
    """Merge into the status of a pod, unless it is gone."""
    path = f"{api.path(CORE, 'pods', pod['metadata']['name'])}/status"
    body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
    api.send("PATCH", path, body, "application/strategic-merge-patch+json")


def remove(api: Api, pod: JsonObject) -> None:
    """Confirm that nothing of a deleted pod is left on its node."""
    now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
    api.send("DELETE", api.path(CORE, "pods", pod["metadata"]["name"]), now)


def _started_at(api: Api, pod: JsonObject) -> str:
    """When the container was started, where the kubelet has said so before."""
    known = api.read(CORE, "pods", pod["metadata"]["name"]) or pod
    states = [each["state"] for each in known["status"].get("containerStatuses", ())]
    started: str = next(
        (state["running"]["startedAt"] for state in states if "running" in state), now_in_seconds()
    )
    return started


def _container(state: JsonObject, *, ready: bool) -> JsonObject:
    status: dict[str, Any] = {
        "name": TRAINER,
        "state": state,
        "ready": ready,
        "restartCount": 0,
        "image": TRAINER,
        "imageID": "",
    }
    return {"containerStatuses": [status]}


def now_in_seconds() -> str:
    """The time as Kubernetes tells it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_is_there(api: Api, name: str) -> JsonObject:
    """Wait for a Job."""
    return wait_until(lambda: api.read(BATCH, "jobs", name), what=lambda: f"Job {name}")


def job_is_gone(api: Api, name: str) -> None:
    """Wait until a Job is no more."""
    wait_until(lambda: api.read(BATCH, "jobs", name) is None, what=lambda: f"end of Job {name}")

"""A stand-in for Kueue that does to a plain batch/v1 Job what Kueue does, and nothing else.

Kueue cannot be had as a module to build from, so its writes were read from its sources (kubernetes-sigs/kueue,
pkg/controller/jobs/job/job_controller.go and job_webhook.go, pkg/controller/jobframework/reconciler.go, pkg/podset/podset.go)
and are pinned here. `docs/decisions` keeps the same list.

To the Job, in this order of a life:

1. CREATE, by its mutating webhook: `spec.suspend: true` where the label `kueue.x-k8s.io/queue-name` stands, or on every
   Job where the administrator set manageJobsWithoutQueueName; a Job that runs without being admitted is suspended by PATCH.
   (`managedBy` for MultiKueue and a default LocalQueue's label are optional features of the same webhook.)
2. Admission: one merge PATCH with resourceVersion that sets `spec.suspend: false` and merges into the pod template
   `nodeSelector` and `tolerations` of the flavour, labels (`kueue.x-k8s.io/podset`), annotations and scheduling gates
   (topology). `parallelism` and `completions` only under the annotation for partial admission, which we never set.
3. Eviction (preemption, deactivation, a failed check, pods not ready in time): PATCH `spec.suspend: true` with annotation
   `kueue.x-k8s.io/stopping: "true"`; PATCH of the status subresource: `startTime: null`, without which the pod template of
   a Job that has started stays immutable; PATCH that puts labels, annotations, nodeSelector, tolerations and scheduling
   gates of the template back to what they were, and removes the annotation.
4. The same Job is admitted again by (2), perhaps to another flavour.
5. Events about the Job: CreatedWorkload, Started, Stopped, FinishedWorkload. Nothing is deleted, pods are not touched.

Beside the Job: a Workload with the Job as controlling owner, label `kueue.x-k8s.io/job-uid`, finalizer
`kueue.x-k8s.io/resource-in-use`, `spec.podSets[0].template` as the Job's was at first, conditions QuotaReserved, Admitted,
Evicted, Requeued, Finished, and `status.admission` while it has quota. v1beta1 and v1beta2 say all this alike;
v1beta2 has been served since 0.15, v1beta1 is to be served no more from 0.20.

What the Job controller makes of it (seen on a real one): pods of a suspended Job get SIGTERM and lose their tracking
finalizer at once, so they count as neither active nor failed, whatever they exit with. `status.active` is 0 while they
still save, and Kueue may admit the Job again meanwhile; under podReplacementPolicy Failed its new pods come only when
the old ones have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.integration.operator.api_client import BATCH, MERGE, Api, JsonObject, RequestRefused, wait_until
from tests.integration.operator.kubelet import job_is_there, now_in_seconds

GROUP = "kueue.x-k8s.io"
QUEUE_LABEL, PRIORITY_LABEL = f"{GROUP}/queue-name", f"{GROUP}/priority-class"
JOB_UID_LABEL, POD_SET_LABEL = f"{GROUP}/job-uid", f"{GROUP}/podset"
STOPPING = f"{GROUP}/stopping"
CRDS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRD_NAME = f"workloads.{GROUP}"
SERVED = ("v1beta2",)
PENDING = (
    "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor default-flavor, "
    "1 more needed"
)


def install(api: Api, *versions: str) -> None:
    """Serve Workloads in these versions; the last one is stored."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = [
        {
            "name": version,
            "served": True,
            "storage": version == versions[-1],
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }
        for version in versions
    ]
    names = {"kind": "Workload", "listKind": "WorkloadList", "plural": "workloads", "singular": "workload"}
    spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": served}
    # The group is an approved one of the community's; the API server asks for the proof.
    approved = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/kueue"}
    api.send("POST", CRDS, {"metadata": {"name": CRD_NAME, "annotations": approved}, "spec": spec})
    wait_until(lambda: _is_served(api, versions[-1]), 30)


def _is_served(api: Api, version: str) -> bool:
    try:
        return api.send("GET", f"apis/{GROUP}/{version}/workloads") is not None
    except RequestRefused:
        return False  # A new resource's storage takes a moment.


def uninstall(api: Api) -> None:
    """Serve Workloads no more."""
    api.send("DELETE", f"{CRDS}/{CRD_NAME}")
    wait_until(lambda: api.send("GET", f"{CRDS}/{CRD_NAME}") is None, 30)


class Kueue:
    """Queues, admits and evicts Jobs of a namespace when the test says so."""

    def __init__(self, api: Api, version: str = SERVED[-1]) -> None:
        self._api = api
        self._workloads = f"apis/{GROUP}/{version}"

    def queue(self, job_name: str, message: str = PENDING) -> JsonObject:
        """See the Job and make its Workload, for which there is no quota yet. Returns the Job."""
        job = job_is_there(self._api, job_name)
        uid = job["metadata"]["uid"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": uid, "controller": True}
        workload = {
            "apiVersion": self._workloads.removeprefix("apis/"),
            "kind": "Workload",
            "metadata": {
                "name": _workload_name(job_name),
                "labels": {JOB_UID_LABEL: uid},
                "ownerReferences": [owner],
            },
            "spec": {
                "active": True,
                "queueName": job["metadata"]["labels"].get(QUEUE_LABEL, ""),
                "podSets": [
                    {"name": "main", "count": job["spec"]["parallelism"], "template": job["spec"]["template"]}
                ],
            },
        }
        self._api.create(self._workloads, "workloads", workload)
        self._set_conditions(job_name, _condition("QuotaReserved", "False", "Pending", message))
        return job

    def admit(
        self,
        job_name: str,
        *,
        node_selector: Mapping[str, str] | None = None,
        tolerations: Sequence[Mapping[str, str]] = (),
    ) -> JsonObject:
        """Reserve quota, admit the Workload and start the Job on a flavour."""
        admitted = "Admitted by ClusterQueue cluster-queue"
        self._set_conditions(
            job_name,
            _condition(
                "QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue cluster-queue"
            ),
            _condition("Admitted", "True", "Admitted", admitted),
            _condition("Evicted", "False", "QuotaReserved", "Previously: evicted"),
            admission={"clusterQueue": "cluster-queue", "podSetAssignments": [{"name": "main"}]},
        )
        template = self._job(job_name)["spec"]["template"]
        pod_spec = {
            "nodeSelector": dict(node_selector or {}),
            "tolerations": [*template["spec"].get("tolerations", ()), *map(dict, tolerations)],
        }
        labels = {"metadata": {"labels": {POD_SET_LABEL: "main"}}}
        return self._patch_job(
            job_name, {"spec": {"suspend": False, "template": {**labels, "spec": pod_spec}}}
        )

    def evict(
        self, job_name: str, message: str = "Preempted to accommodate a workload of higher priority"
    ) -> None:
        """Take the quota back: suspend the Job and put its template back."""
        self._set_conditions(job_name, _condition("Evicted", "True", "Preempted", message))
        self._stop(job_name)
        self._restore(job_name)
        wait_until(lambda: not self._job(job_name)["status"].get("active"))
        self._set_conditions(
            job_name,
            _condition("QuotaReserved", "False", "Pending", message),
            _condition("Admitted", "False", "NoReservation", "The workload has no reservation"),
            _condition("Requeued", "True", "Preempted", message),
            admission=None,
        )

    def suspend(self, job_name: str) -> None:
        """Suspend a Job that was not made suspended, as on clusters that queue every Job."""
        self._stop(job_name)
        self._patch_job(job_name, {"metadata": {"annotations": {STOPPING: None}}})

    def workload(self, job_name: str) -> JsonObject | None:
        """The Workload of a Job."""
        return self._api.read(self._workloads, "workloads", _workload_name(job_name))

    def _stop(self, job_name: str) -> None:
        stopping = {"metadata": {"annotations": {STOPPING: "true"}}, "spec": {"suspend": True}}
        self._patch_job(job_name, stopping)
        if self._job(job_name)["status"].get("startTime") is not None:
            path = f"{self._api.path(BATCH, 'jobs', job_name)}/status"
            self._api.send("PATCH", path, {"status": {"startTime": None}}, MERGE)

    def _restore(self, job_name: str) -> None:
        workload, job = self.workload(job_name), self._job(job_name)
        assert workload is not None
        first, now = workload["spec"]["podSets"][0]["template"], job["spec"]["template"]
        labels = _replace(now["metadata"].get("labels"), first["metadata"].get("labels"))
        selector = _replace(now["spec"].get("nodeSelector"), first["spec"].get("nodeSelector"))
        template = {
            "metadata": {"labels": labels},
            "spec": {"nodeSelector": selector, "tolerations": first["spec"].get("tolerations")},
        }
        self._patch_job(
            job_name, {"metadata": {"annotations": {STOPPING: None}}, "spec": {"template": template}}
        )

    def _job(self, job_name: str) -> JsonObject:
        job = self._api.read(BATCH, "jobs", job_name)
        assert job is not None, f"there is no Job {job_name}"
        return job

    def _patch_job(self, job_name: str, changes: JsonObject) -> JsonObject:
        return self._api.patch(BATCH, "jobs", job_name, changes)

    def _set_conditions(self, job_name: str, *conditions: JsonObject, **status: Any) -> None:
        workload = self.workload(job_name)
        assert workload is not None, f"Job {job_name} has no Workload"
        known = {each["type"]: each for each in workload.get("status", {}).get("conditions", ())}
        merged = {**known, **{each["type"]: each for each in conditions}}
        path = f"{self._api.path(self._workloads, 'workloads', _workload_name(job_name))}/status"
        self._api.send("PATCH", path, {"status": {"conditions": list(merged.values()), **status}}, MERGE)


def _workload_name(job_name: str) -> str:
    return f"job-{job_name}-0a1b2"


def _condition(kind: str, status: str, reason: str, message: str) -> JsonObject:
    now = now_in_seconds()
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now}


def _replace(now: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> JsonObject:
    """A merge patch that turns one map into the other."""
    return {key: (wanted or {}).get(key) for key in {*(now or {}), *(wanted or {})}}

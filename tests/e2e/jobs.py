"""FineTuneJobs of one namespace: written through kubectl, as a person does, and read straight from the API.

A kubectl for each look would take more of the machine than what is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import yaml

from devcluster.cluster import open_cluster
from devcluster.console import QUIET
from devcluster.http_client import ApiClient
from examples.quickstart.environment import Environment, QuickstartError
from examples.quickstart.installation import ensure_restricted_namespace
from examples.quickstart.run import credentials_secret
from tests.builders.jobs import make_manifest
from tests.e2e.bucket import Bucket
from tests.e2e.deadlines import wait_until
from tests.e2e.evidence import Evidence
from tests.e2e.nodes import STATE

JsonObject = dict[str, Any]
API_GROUPS = {
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "services": "/api/v1",
    "events": "/api/v1",
    "jobs": "/apis/batch/v1",
    "finetunejobs": "/apis/finetune.dev/v1alpha1",
}
# Each node offers one of either: pods that need one stand on different nodes.
LINKS = ("finetune.dev/fake-link-a", "finetune.dev/fake-link-b")
# For what takes long only because of everything else that the machine has to do at the same time.
SLOW_SECONDS = 600
# The same for kubectl.
PATIENCE = f"--timeout={SLOW_SECONDS}s"
NO_MERGE = {"output__merged": {"enabled": False}}


class Jobs:
    """Creates jobs in its namespace and waits for what tests are about, with deadlines instead of sleeps."""

    def __init__(
        self,
        environment: Environment,
        api: ApiClient,
        namespace: str,
        bucket: Bucket,
        evidence: Evidence,
    ) -> None:
        self.environment = environment
        self._api = api
        self.namespace = namespace
        self.bucket = bucket
        self._evidence = evidence

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Add to an error of the block what the namespace shows; keep that in any case."""
        try:
            yield
        except Exception as error:
            error.add_note(self._evidence.show(self.environment, self.namespace))
            raise
        finally:
            self._evidence.collect(self.environment, self.namespace)

    # --- what a user writes ------------------------------------------------------------------------------------

    def manifest(self, name: str, **changes: Any) -> JsonObject:
        """A small CPU job on the tiny base model; `changes` as in tests.builders.jobs."""
        store = self.environment.store
        defaults: JsonObject = {
            "model__source": self.bucket.uri("base"),
            "dataset__train": [{"source": self.bucket.uri("data/train.jsonl")}],
            "dataset__preparation__maxLength": 256,
            "training__maxSteps": 12,
            "training__globalBatchSize": 8,
            "parallelism__gpusPerNode": 0,
            "checkpoints__everySteps": 5,
            "resources__cpu": "200m",
            "resources__memory": "3Gi",
            "resources__ephemeralStorage": "1Gi",
            "resources__sharedMemory": "256Mi",
            "resources__gpuResourceName": "finetune.dev/fake-gpu",
            "resources__prepare": {"cpu": "100m", "memory": "1Gi", "ephemeralStorage": "1Gi"},
            "resources__export": {"cpu": "200m", "memory": "3Gi", "ephemeralStorage": "1Gi"},
            "output__uri": self.bucket.uri(f"models/{self.namespace}/{name}"),
            "output__store__endpoint": store.endpoint,
            "output__store__region": store.region,
        }
        return make_manifest(name, self.namespace, **{**defaults, **changes})

    def apply(self, name: str, **changes: Any) -> None:
        """`kubectl apply` of the job."""
        self.create(self.manifest(name, **changes))

    def create(self, *objects: JsonObject) -> None:
        """`kubectl apply` of any objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def patch(self, name: str, **fields: Any) -> None:
        """`kubectl patch` of fields of the job's spec."""
        self.kubectl("patch", "ftj", name, "--type=merge", "-p", json.dumps({"spec": fields}))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """`kubectl -n NAMESPACE …`; raises with kubectl's words."""
        return self.environment.run("kubectl", "-n", self.namespace, *arguments, stdin=stdin, quiet=True)

    def evict(self, pod: JsonObject) -> None:
        """Ask for the pod's eviction, as `kubectl drain` does."""
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    # --- what a user sees --------------------------------------------------------------------------------------

    def get(self, kind: str, labels: str = "", fields: str = "") -> list[JsonObject]:
        """The objects of a kind in the namespace."""
        query = urlencode({"labelSelector": labels, "fieldSelector": fields})
        found: Any = self._read(f"{API_GROUPS[kind]}/namespaces/{self.namespace}/{kind}?{query}")
        items: list[JsonObject] = found["items"]
        return items

    def pods(self, name: str, stage: str = "train", attempt: int | None = None) -> list[JsonObject]:
        """The pods of a stage, of all its attempts or of one, in the order of their ranks."""
        number = "" if attempt is None else f",finetune.dev/attempt={attempt}"
        found = self.get("pods", f"finetune.dev/job={name},finetune.dev/stage={stage}{number}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def read(self, name: str) -> JsonObject:
        """The FineTuneJob."""
        return self._read(f"{API_GROUPS['finetunejobs']}/namespaces/{self.namespace}/finetunejobs/{name}")

    def read_node(self, name: str) -> JsonObject:
        """A Node."""
        return self._read(f"/api/v1/nodes/{name}")

    def _read(self, path: str) -> JsonObject:
        found = self._api.read(path)
        assert found is not None, f"there is no {path}"
        return found

    def status(self, name: str) -> JsonObject:
        """The job's status, empty before the operator has seen it."""
        status: JsonObject = self.read(name).get("status", {})
        return status

    def event_reasons(self, name: str) -> list[str]:
        """Reasons of the events about the FineTuneJob."""
        about = f"involvedObject.kind=FineTuneJob,involvedObject.name={name}"
        return [str(event["reason"]) for event in self.get("events", fields=about)]

    def metrics(self, status: JsonObject) -> list[JsonObject]:
        """One line a step, as training left them in the store."""
        return self.bucket.read_lines(f"{status['outputs']['runURI']}/metrics.jsonl")

    # --- waiting -----------------------------------------------------------------------------------------------

    def wait_for(self, name: str, condition: str, timeout_seconds: float = SLOW_SECONDS) -> JsonObject:
        """Poll until the job has ended, either way; then the condition holds for `kubectl wait` too. The status."""
        status = self.wait_until(name, "Finished", is_finished, timeout_seconds)
        try:
            self.kubectl("wait", f"--for=condition={condition}", "--timeout=0s", f"ftj/{name}")
        except QuickstartError as error:
            told = f"{status['phase']}, {status['reason']}: {status['message']}"
            raise AssertionError(f"{name} is not {condition} but {told}") from error
        return status

    def wait_until(
        self, name: str, what: str, holds: Callable[[JsonObject], bool], timeout_seconds: float = SLOW_SECONDS
    ) -> JsonObject:
        """Poll the status until `holds`; the error shows the last one."""
        return wait_until(lambda: self.status(name), holds, f"{name} is {what}", timeout_seconds)

    def wait_for_checkpoint(self, name: str, step: int = 1, attempt: int = 1) -> JsonObject:
        """Poll until this attempt runs and has a committed checkpoint of this step or a later one."""

        def holds(status: JsonObject) -> bool:
            newest = status.get("attempts", [{}])[-1]
            is_there = status.get("checkpoint", {}).get("step", 0) >= step
            return is_there and (newest["stage"], newest["number"]) == ("train", attempt)

        return self.wait_until(name, f"past a checkpoint at step {step} in attempt {attempt}", holds)


def create_jobs(environment: Environment, namespace: str, bucket: Bucket, evidence: Evidence) -> Jobs:
    """A new restricted namespace with the credentials Secret."""
    api = open_cluster(STATE.root, QUIET).control_plane.client
    jobs = Jobs(environment, api, namespace, bucket, evidence)
    ensure_restricted_namespace(environment, namespace)
    jobs.create(credentials_secret(environment.store, jobs.manifest("any")))
    return jobs


def is_finished(status: JsonObject) -> bool:
    """Whether it has ended, well or not."""
    return any(
        each["type"] == "Finished" and each["status"] == "True" for each in status.get("conditions", [])
    )


def attempts_of(status: JsonObject, stage: str = "train") -> list[JsonObject]:
    """The attempts of a stage."""
    return [attempt for attempt in status.get("attempts", []) if attempt["stage"] == stage]


def on_two_nodes(link: str) -> JsonObject:
    """Changes to a job that put a rank on each of the two nodes: a node has one link of a kind, and a pod needs one."""
    return {"parallelism__nodes": 2, "resources__extended": {link: 1}}

"""FineTuneJobs of one namespace, as a person at a terminal sees them: everything goes through kubectl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import yaml

from examples.quickstart.environment import Environment, QuickstartError
from tests.builders.jobs import make_manifest


class Jobs:
    """Creates jobs in its namespace and waits for what tests are about, with deadlines instead of sleeps."""

    def __init__(self, environment: Environment, namespace: str, bucket: str) -> None:
        self.environment = environment
        self.namespace = namespace
        self.bucket = bucket

    def manifest(self, name: str, **changes: Any) -> dict[str, Any]:
        """A small CPU job on the tiny base model; `changes` as in tests.builders.jobs."""
        store = self.environment.store
        defaults: dict[str, Any] = {
            "model__source": f"s3://{self.bucket}/base",
            "dataset__train": [{"source": f"s3://{self.bucket}/data/train.jsonl"}],
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
            "output__uri": f"s3://{self.bucket}/models/{self.namespace}/{name}",
            "output__store__endpoint": store.endpoint,
            "output__store__region": store.region,
        }
        return make_manifest(name, self.namespace, **{**defaults, **changes})

    def apply(self, name: str, **changes: Any) -> None:
        """`kubectl apply` of the job."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(self.manifest(name, **changes)))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """`kubectl -n NAMESPACE …`; raises with kubectl's words."""
        return self.environment.run("kubectl", "-n", self.namespace, *arguments, stdin=stdin, quiet=True)

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a kind in the namespace."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *arguments, "-o", "json"))["items"]
        return items

    def status(self, name: str) -> dict[str, Any]:
        """The job's status, empty before the operator has seen it."""
        job: dict[str, Any] = json.loads(self.kubectl("get", "ftj", name, "-o", "json"))
        status: dict[str, Any] = job.get("status", {})
        return status

    def uid(self, name: str) -> str:
        """The job's uid."""
        return self.kubectl("get", "ftj", name, "-o", "jsonpath={.metadata.uid}")

    def wait_for(self, name: str, condition: str, timeout_seconds: int = 240) -> dict[str, Any]:
        """`kubectl wait` until the job has ended, then for the condition; the status, also in the error."""
        try:
            self.kubectl("wait", "--for=condition=Finished", f"--timeout={timeout_seconds}s", f"ftj/{name}")
            self.kubectl("wait", f"--for=condition={condition}", "--timeout=0s", f"ftj/{name}")
        except QuickstartError as error:
            raise AssertionError(
                f"{name} is not {condition}: {json.dumps(self.status(name), indent=1)}"
            ) from error
        return self.status(name)

    def wait_until(
        self, name: str, what: str, holds: Callable[[dict[str, Any]], bool], timeout_seconds: float = 120
    ) -> dict[str, Any]:
        """Poll the status until `holds`; the error shows the last one."""
        deadline = time.monotonic() + timeout_seconds
        while not holds(status := self.status(name)):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{name}: not {what} within {timeout_seconds} s: {json.dumps(status, indent=1)}"
                )
            time.sleep(0.25)
        return status

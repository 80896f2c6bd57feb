"""The steps that many tests of the life cycle begin with or look at."""

from __future__ import annotations

from typing import Any

from finetune_api import PLURAL
from finetune_api.names import LABEL_STAGE
from tests.builders.jobs import make_manifest
from tests.integration.operator.api_client import BATCH, FINETUNE, Api, JsonObject
from tests.integration.operator.kubelet import EXPORTED, PREPARED, TRAINED, Kubelet


def apply_job(api: Api, name: str = "bot", **changes: Any) -> JsonObject:
    """Create a FineTuneJob; `changes` as for make_manifest."""
    return api.create(FINETUNE, PLURAL, make_manifest(name, api.namespace, **changes))


def delete_job(api: Api, name: str = "bot") -> None:
    """Delete a FineTuneJob as `kubectl delete` does."""
    api.delete(FINETUNE, PLURAL, name)


def condition(status: JsonObject, kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    found = next(each for each in status["conditions"] if each["type"] == kind)
    return found["status"], found["reason"]


def attempts(api: Api, name: str = "bot") -> list[tuple[str, int, str, str | None]]:
    """Stage, number, outcome and reason of every attempt in status."""
    told = api.status(name).get("attempts", ())
    return [(each["stage"], each["number"], each["outcome"], each.get("reason")) for each in told]


def child_jobs(api: Api, stage: str | None = None) -> list[str]:
    """Names of all Jobs in the namespace, or of those of a stage."""
    selector = f"{LABEL_STAGE}={stage}" if stage else ""
    return sorted(job["metadata"]["name"] for job in api.list_objects(BATCH, "jobs", selector))


def reach_preparing(api: Api, kubelet: Kubelet, name: str = "bot", node: str | None = None) -> None:
    """The prepare pod runs."""
    kubelet.start(f"{name}-prepare-1", node=node)
    api.wait_for_status(name, phase="Preparing")


def reach_train_job(api: Api, kubelet: Kubelet, name: str = "bot") -> None:
    """Prepare is done; the train Job is there."""
    kubelet.succeed(f"{name}-prepare-1", PREPARED)
    kubelet.pod_of(f"{name}-train-1")


def reach_training(api: Api, kubelet: Kubelet, name: str = "bot", node: str | None = None) -> None:
    """The train pod of the first attempt runs."""
    kubelet.succeed(f"{name}-prepare-1", PREPARED)
    kubelet.start(f"{name}-train-1", node=node)
    api.wait_for_status(name, phase="Training")


def finish_from_training(api: Api, kubelet: Kubelet, name: str = "bot", attempt: int = 1) -> JsonObject:
    """The train pod of an attempt and the export pod end well."""
    kubelet.succeed(f"{name}-train-{attempt}", TRAINED)
    kubelet.succeed(f"{name}-export-1", EXPORTED)
    return api.wait_for_status(name, phase="Succeeded")


def saved(step: int) -> JsonObject:
    """What a train pod leaves that saved a checkpoint after SIGTERM."""
    uri = f"s3://models/support-bot/runs/bot-00000000/checkpoints/step-{step:08d}"
    return {
        "reason": "Preempted",
        "message": f"Stopped after SIGTERM; the checkpoint of step {step} is committed.",
        "step": step,
        "trained": {"step": step, "loss": 0.5, "checkpointUri": uri},
    }

"""A stand-in kubelet: nothing runs, but pods go through the phases that a kubelet would report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.operator.api import STRATEGIC_MERGE_PATCH, Api, JsonObject, path_of
from benchmarks.operator.watcher import Watcher
from finetune_api import names
from finetune_api.names import Stage
from finetune_api.termination import ExportedFacts, PreparedFacts, TerminationMessage, TrainedFacts

LABEL_JOB_NAME = "batch.kubernetes.io/job-name"
TOTAL_STEPS = 90
_RUN = "s3://models/support-bot/runs/support-bot-0a1b2c3d"
# What the trainer leaves behind when a stage succeeds.
LAST_WORDS = {
    Stage.PREPARE: TerminationMessage(
        reason="Prepared",
        message="480 rows are ready.",
        prepared=PreparedFacts(
            dataset_digest="d" * 64,
            model_digest="m" * 64,
            rows_used=480,
            rows_dropped=3,
            total_steps=TOTAL_STEPS,
        ),
    ),
    Stage.TRAIN: TerminationMessage(
        reason="Trained",
        message=f"All {TOTAL_STEPS} steps are done.",
        step=TOTAL_STEPS,
        trained=TrainedFacts(
            step=TOTAL_STEPS, loss=0.25, checkpoint_uri=f"{_RUN}/checkpoints/step-{TOTAL_STEPS:08d}"
        ),
    ),
    Stage.EXPORT: TerminationMessage(
        reason="Exported",
        message="The model is exported.",
        exported=ExportedFacts(
            adapter_uri=f"{_RUN}/adapter",
            merged_uri=f"{_RUN}/merged",
            manifest_digest="e" * 64,
            merge_max_logit_difference=1e-6,
        ),
    ),
}


@dataclass(frozen=True)
class PodLife:
    """How long a stage's pods run before they succeed; None: until they are deleted."""

    runs_seconds: float | None


class Kubelet:
    """Patches pods' status."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def start(self, pod: JsonObject) -> None:
        """The container runs."""
        await self._patch(pod, "Running", {"running": {"startedAt": _now()}})

    async def succeed(self, pod: JsonObject) -> None:
        """The container ends with exit code 0 and its stage's last words."""
        await self.end(pod, 0, LAST_WORDS[stage_of(pod)])

    async def end(self, pod: JsonObject, exit_code: int, message: TerminationMessage) -> None:
        """The container ends."""
        terminated = {
            "exitCode": exit_code,
            "reason": "Error" if exit_code else "Completed",
            "message": message.encode(),
            "startedAt": _now(),
            "finishedAt": _now(),
        }
        await self._patch(pod, "Failed" if exit_code else "Succeeded", {"terminated": terminated})

    async def _patch(self, pod: JsonObject, phase: str, state: JsonObject) -> None:
        container = {
            "name": names.TRAINER_CONTAINER,
            "state": state,
            "ready": phase == "Running",
            "restartCount": 0,
            "image": "trainer",
            "imageID": "",
        }
        metadata = pod["metadata"]
        path = f"{path_of('pods', metadata['namespace'], metadata['name'])}/status"
        body = {"status": {"phase": phase, "containerStatuses": [container]}}
        await self._api.send("PATCH", path, body, STRATEGIC_MERGE_PATCH)


class AutomaticKubelet:
    """Leads every pod through its stage's life as soon as it appears."""

    def __init__(self, kubelet: Kubelet, lives: Mapping[Stage, PodLife], tasks: asyncio.TaskGroup) -> None:
        self._kubelet = kubelet
        self._lives = lives
        self._tasks = tasks

    def on_pod(self, kind: str, pod: JsonObject) -> None:
        """Take charge of a new pod."""
        is_ours = names.LABEL_STAGE in pod["metadata"]["labels"]
        if kind == "ADDED" and is_ours and pod["status"]["phase"] == "Pending":
            self._tasks.create_task(self._lead(pod))

    async def _lead(self, pod: JsonObject) -> None:
        life = self._lives.get(stage_of(pod))
        if life is None:
            return
        await self._kubelet.start(pod)
        if life.runs_seconds is not None:
            await asyncio.sleep(life.runs_seconds)
            await self._kubelet.succeed(pod)


@asynccontextmanager
async def leading_pods(api: Api, watcher: Watcher, lives: Mapping[Stage, PodLife]) -> AsyncIterator[None]:
    """Lead every pod that appears meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        kubelet = AutomaticKubelet(Kubelet(api), lives, tasks)
        with watcher.listening("pods", kubelet.on_pod):
            yield


def stage_of(pod: JsonObject) -> Stage:
    """The stage that a pod belongs to."""
    return Stage(pod["metadata"]["labels"][names.LABEL_STAGE])


class PodArrivals:
    """Tells when the pod of a Job appears; its name is the Job controller's choice."""

    def __init__(self, watcher: Watcher) -> None:
        self._awaited: dict[tuple[str, str], asyncio.Future[JsonObject]] = {}
        self._arrived: dict[tuple[str, str], JsonObject] = {}
        watcher.listen("pods", self._on_pod)

    async def pod_of(self, namespace: str, job_name: str) -> JsonObject:
        """Wait for the pod of a Job."""
        key = (namespace, job_name)
        if key not in self._arrived:
            await self._awaited.setdefault(key, asyncio.get_running_loop().create_future())
        return self._arrived[key]

    def _on_pod(self, kind: str, pod: JsonObject) -> None:
        metadata = pod["metadata"]
        key = (metadata["namespace"], metadata["labels"].get(LABEL_JOB_NAME, ""))
        if kind != "ADDED":
            return
        self._arrived[key] = pod
        awaited = self._awaited.pop(key, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(pod)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""C-11: how large a FineTuneJob is whose training was interrupted again and again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from benchmarks.bars import Bar, Figure
from benchmarks.operator.jobs import build_job
from benchmarks.operator.kubelet import Kubelet, PodArrivals
from benchmarks.operator.scale import Scale
from benchmarks.operator.watcher import watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL
from finetune_api.exit_codes import ExitCode
from finetune_api.names import Stage, child_name
from finetune_api.termination import MAX_TERMINATION_MESSAGE_BYTES, TerminationMessage, TrainedFacts

JOB = "often-preempted"
PATIENCE_SECONDS = 60.0
KIB = 1024
# With the default of 5 s, fifty attempts would take minutes.
RESTART_DELAY_SECONDS = "0.01"


async def measure_object_size(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """End attempt after attempt with as long a message as a pod can leave, each after a new checkpoint."""
    async with (
        open_world(fast_controllers=True) as world,
        world.operator(FINETUNE_RESTART_DELAY_SECONDS=RESTART_DELAY_SECONDS),
        watching(world.api, "pods") as watcher,
    ):
        await world.api.create(PLURAL, build_job(world.namespace, JOB))
        await _interrupt(world, PodArrivals(watcher), Kubelet(world.api), scale.attempts)
        await asyncio.sleep(scale.settle_seconds)
        found = await world.api.read(PLURAL, world.namespace, JOB)
    return (_bar(found, scale.attempts),)


def _bar(found: dict[str, object], attempts: int) -> Bar:
    status = found["status"]
    assert isinstance(status, dict)
    return Bar(
        "C-11",
        f"object after {attempts} attempts",
        (Figure("size", _kib(found), "KiB", 16),),
        {
            "statusKiB": _kib(status),
            "attemptsShown": len(status["attempts"]),
            "newestAttempt": status["attempts"][-1]["number"],
            "phase": status["phase"],
        },
    )


async def _interrupt(world: World, arrivals: PodArrivals, kubelet: Kubelet, attempts: int) -> None:
    prepare = child_name(JOB, Stage.PREPARE, 1)
    await kubelet.succeed(await within(PATIENCE_SECONDS, prepare, arrivals.pod_of(world.namespace, prepare)))
    for number in range(1, attempts + 1):
        train = child_name(JOB, Stage.TRAIN, number)
        pod = await within(PATIENCE_SECONDS, f"the pod of {train}", arrivals.pod_of(world.namespace, train))
        await kubelet.start(pod)
        await kubelet.end(pod, ExitCode.PREEMPTED, _last_words(number))


def _last_words(number: int) -> TerminationMessage:
    step = number * 100
    return TerminationMessage(
        reason="Preempted",
        message="The node was taken away. " * (MAX_TERMINATION_MESSAGE_BYTES // 25),
        step=step,
        trained=TrainedFacts(
            step=step,
            loss=1.0,
            checkpoint_uri=f"s3://models/support-bot/runs/{JOB}-0a1b2c3d/checkpoints/step-{step:08d}",
        ),
    )


def _kib(content: object) -> float:
    return len(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()) / KIB

"""C-1 and C-2: how long a user waits for the first child Job, and for a pod's change to stand in status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from benchmarks.bars import Bar, Figure, percentile
from benchmarks.operator.api import JsonObject
from benchmarks.operator.jobs import build_job, first_child, has_phase, is_prepared, list_names
from benchmarks.operator.kubelet import Kubelet, PodArrivals
from benchmarks.operator.scale import Scale
from benchmarks.operator.watcher import Condition, Watcher, watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL
from finetune_api.names import Stage, child_name

PATIENCE_SECONDS = 30.0
# The Job controller writes a Job's status about a second after its pod changed: until then the cluster is not idle.
SETTLE_SECONDS = 0.1


@dataclass
class _Samples:
    """Milliseconds."""

    creation: list[float] = field(default_factory=list)
    creation_with_request: list[float] = field(default_factory=list)
    pod_ended: list[float] = field(default_factory=list)
    pod_started: list[float] = field(default_factory=list)


async def measure_latency(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Create jobs one by one, each on an idle cluster, and lead their pods one by one."""
    samples = _Samples()
    async with (
        open_world(fast_controllers=True) as world,
        world.operator(),
        watching(world.api, PLURAL, "jobs", "pods") as watcher,
    ):
        arrivals, kubelet = PodArrivals(watcher), Kubelet(world.api)
        names = list(list_names("latency", scale.latency_jobs))
        for name in names:
            await _create(world, watcher, name, samples)
            await kubelet.start(await _pod(arrivals, world, name, Stage.PREPARE))
            await asyncio.sleep(SETTLE_SECONDS)
        for name in names:
            await _lead(world, watcher, arrivals, kubelet, name, samples)
            await asyncio.sleep(SETTLE_SECONDS)
    return _bars(samples)


def _bars(samples: _Samples) -> Sequence[Bar]:
    pod_changes = samples.pod_started + samples.pod_ended
    return (
        Bar(
            "C-1",
            "create → first child Job exists, idle",
            (
                Figure("p50", percentile(samples.creation, 50), "ms", 30, samples.creation),
                Figure("p99", percentile(samples.creation, 99), "ms", 100, samples.creation),
            ),
            {
                "n": len(samples.creation),
                "from": "the answer to the create request, to the Job in a watch",
                "p50FromSendingTheRequest": percentile(samples.creation_with_request, 50),
            },
        ),
        Bar(
            "C-2",
            "pod change → FineTuneJob status",
            (
                Figure("p50", percentile(pod_changes, 50), "ms", 50, pod_changes),
                Figure("p99", percentile(pod_changes, 99), "ms", 300, pod_changes),
            ),
            {
                "n": len(pod_changes),
                "from": "the answer to the kubelet's request, to the status in a watch",
                "podStarted": _spread(samples.pod_started),
                "podSucceededAndNextStageCreated": _spread(samples.pod_ended),
            },
        ),
    )


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(samples, 50), "p99": percentile(samples, 99)}


async def _create(world: World, watcher: Watcher, name: str, samples: _Samples) -> None:
    job_exists = watcher.expect("jobs", world.namespace, first_child(name))
    sent = time.monotonic()
    await world.api.create(PLURAL, build_job(world.namespace, name))
    answered = time.monotonic()
    seen = await within(PATIENCE_SECONDS, f"the first child Job of {name}", job_exists)
    samples.creation.append((seen.at - answered) * 1000)
    samples.creation_with_request.append((seen.at - sent) * 1000)


async def _lead(
    world: World, watcher: Watcher, arrivals: PodArrivals, kubelet: Kubelet, name: str, samples: _Samples
) -> None:
    """Prepare's pod ends well, then train's pod starts."""
    ended_at = await _pod_change(
        world, watcher, name, is_prepared, kubelet.succeed(await _pod(arrivals, world, name, Stage.PREPARE))
    )
    samples.pod_ended.append(ended_at)
    started_at = await _pod_change(
        world,
        watcher,
        name,
        has_phase("Training"),
        kubelet.start(await _pod(arrivals, world, name, Stage.TRAIN)),
    )
    samples.pod_started.append(started_at)


async def _pod_change(
    world: World, watcher: Watcher, name: str, condition: Condition, change: Awaitable[None]
) -> float:
    """Milliseconds from a pod's change to the status that shows it."""
    shown = watcher.expect(PLURAL, world.namespace, name, condition)
    await change
    changed_at = time.monotonic()
    seen = await within(PATIENCE_SECONDS, f"the status of {name} after its pod changed", shown)
    return (seen.at - changed_at) * 1000


async def _pod(arrivals: PodArrivals, world: World, name: str, stage: Stage) -> JsonObject:
    child = child_name(name, stage, 1)
    return await within(PATIENCE_SECONDS, f"the pod of Job {child}", arrivals.pod_of(world.namespace, child))

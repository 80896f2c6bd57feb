"""C-7: how long children outlive a deleted FineTuneJob. It measures Kubernetes' garbage collector, so it has no bar."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.bars import Bar, median_figure
from benchmarks.operator.jobs import build_job, has_phase, list_names
from benchmarks.operator.kubelet import PodLife, leading_pods
from benchmarks.operator.scale import Scale
from benchmarks.operator.watcher import Watcher, watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL
from finetune_api.names import Stage

CHILDREN = ("jobs", "configmaps", "pods")
PATIENCE_SECONDS = 120.0
LIVES = {Stage.PREPARE: PodLife(runs_seconds=0.05), Stage.TRAIN: PodLife(runs_seconds=None)}


async def measure_deletion(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Delete jobs that train, one after the other."""
    names = list(list_names("delete", scale.deletions))
    async with (
        open_world() as world,
        world.operator(),
        watching(world.api, PLURAL, *CHILDREN) as watcher,
        leading_pods(world.api, watcher, LIVES),
    ):
        training = [watcher.expect(PLURAL, world.namespace, name, has_phase("Training")) for name in names]
        for name in names:
            await world.api.create(PLURAL, build_job(world.namespace, name))
        await within(PATIENCE_SECONDS, "training", asyncio.gather(*training))
        await asyncio.sleep(scale.settle_seconds)
        seconds = [await _delete(world, watcher, name) for name in names]
    figure = median_figure("children gone", seconds, "s")
    return (Bar("C-7", "delete → children gone", (figure,), {"n": len(seconds)}),)


async def _delete(world: World, watcher: Watcher, name: str) -> float:
    gone = [
        watcher.expect_gone(plural, world.namespace, child["metadata"]["name"])
        for plural in CHILDREN
        for child in watcher.list_seen(plural, world.namespace)
        if child["metadata"]["name"].startswith(f"{name}-")
    ]
    await world.api.delete(PLURAL, world.namespace, name)
    deleted_at = time.monotonic()
    seen = await within(PATIENCE_SECONDS, f"the end of the children of {name}", asyncio.gather(*gone))
    return max(each.at for each in seen) - deleted_at

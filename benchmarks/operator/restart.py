"""C-4 and C-5: a restart beside thousands of stored jobs, nearly all finished; and what the operator holds in memory.

The naive operator runs while the jobs are stored, so it has handled each of them; then both are restarted in turn.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.operator.api import MERGE_PATCH, gather_limited, path_of
from benchmarks.operator.audit import Request, count_by_kind
from benchmarks.operator.jobs import build_job, first_child, has_phase, list_names
from benchmarks.operator.kubelet import PodLife, leading_pods
from benchmarks.operator.scale import Scale
from benchmarks.operator.watcher import Watcher, watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL
from finetune_api.names import Stage

REQUESTS_AT_ONCE = 32
PATIENCE_SECONDS = 300.0
FINISHED, UNFINISHED, NEW = "finished", "unfinished", "new"
WHOLE_LIFE = {stage: PodLife(runs_seconds=0.05) for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EXPORT)}


@dataclass
class _Restarts:
    """Samples of the operator's restarts."""

    ready_seconds: list[float] = field(default_factory=list)
    new_job_seconds: list[float] = field(default_factory=list)
    stray_writes: list[dict[str, int]] = field(default_factory=list)
    peaks_mib: list[float] = field(default_factory=list)
    requests: list[dict[str, int]] = field(default_factory=list)


async def measure_restart(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Store the jobs, then restart both operators beside them; neither finds anything to do."""
    finished = scale.stored_jobs - scale.unfinished_jobs
    async with open_world(fast_controllers=True) as world:
        empty_mib = [await _peak_without_jobs(world, scale) for _ in range(scale.restarts)]
        status = await _prepare_unfinished(world, scale)
        with world.without_controllers():
            naive_first_mib = await _store_finished(world, scale, finished, status)
            restarts, naive_mib = _Restarts(), []
            for number in range(scale.restarts):
                await _restart(world, f"{NEW}-{number}", restarts, scale)
                naive_mib.append(await _peak_of_naive(world, scale))
    return (
        _bar_of_restart(restarts, scale.stored_jobs, finished),
        _bar_of_memory(empty_mib, restarts.peaks_mib, naive_first_mib, naive_mib, scale.stored_jobs),
    )


def _bar_of_restart(restarts: _Restarts, stored: int, finished: int) -> Bar:
    strays = [sum(counted.values()) for counted in restarts.stray_writes]
    return Bar(
        "C-4",
        f"restart with {stored} objects, {finished} finished",
        (
            median_figure("ready", restarts.ready_seconds, "s", 20),
            Figure("writes for unchanged objects", max(strays), "writes", 0, strays),
            median_figure("a new job handled", restarts.new_job_seconds, "s", 1),
        ),
        {"writesForUnchangedObjects": restarts.stray_writes, "requests": restarts.requests},
    )


def _bar_of_memory(
    empty: Sequence[float], full: Sequence[float], naive_first: float, naive: Sequence[float], stored: int
) -> Bar:
    # Kopf handles everything at once after a restart, which costs it more than to handle one after the other.
    least_of_naive = min(naive_first, statistics.median(naive))
    return Bar(
        "C-5",
        "memory (VmHWM)",
        (
            median_figure("at 0 objects", empty, "MiB", 96),
            median_figure(f"at {stored} objects", full, "MiB", round(least_of_naive, 1)),
        ),
        {
            "naiveAfterRestartMiB": list(naive),
            "naiveAfterHandlingEachMiB": naive_first,
        },
    )


async def _peak_without_jobs(world: World, scale: Scale) -> float:
    async with world.operator() as (process, _):
        await asyncio.sleep(scale.settle_seconds)
        return process.peak_memory_mib


# --- what is stored ------------------------------------------------------------------------------------------------


async def _prepare_unfinished(world: World, scale: Scale) -> dict[str, Any]:
    """Create jobs whose pods run; returns the status of another that the operator has led to its end."""
    async with world.operator(), watching(world.api, PLURAL, "pods") as watcher:
        status = await _lead_one(world, watcher)
        async with leading_pods(world.api, watcher, {Stage.PREPARE: PodLife(runs_seconds=None)}):
            names = list(list_names(UNFINISHED, scale.unfinished_jobs))
            under_way = [
                watcher.expect(PLURAL, world.namespace, name, has_phase("Preparing")) for name in names
            ]
            await gather_limited(
                (world.api.create(PLURAL, build_job(world.namespace, name)) for name in names),
                REQUESTS_AT_ONCE,
            )
            await within(PATIENCE_SECONDS, "the start of the unfinished jobs", asyncio.gather(*under_way))
            await asyncio.sleep(scale.settle_seconds)
    return status


async def _lead_one(world: World, watcher: Watcher) -> dict[str, Any]:
    """Lead one job to its end; returns its status."""
    name = "pattern"
    async with leading_pods(world.api, watcher, WHOLE_LIFE):
        succeeded = watcher.expect(PLURAL, world.namespace, name, has_phase("Succeeded", "Failed"))
        await world.api.create(PLURAL, build_job(world.namespace, name))
        seen = await within(PATIENCE_SECONDS, "the end of a job", succeeded)
    status: dict[str, Any] = seen.body["status"]
    return status


async def _store_finished(world: World, scale: Scale, count: int, status: dict[str, Any]) -> float:
    """Store copies of a finished job while the naive operator makes its Jobs; returns its peak memory."""
    names = list(list_names(FINISHED, count))
    async with world.naive_operator() as (process, _), watching(world.api, "jobs") as watcher:
        handled = [watcher.expect("jobs", world.namespace, name) for name in names]
        await gather_limited((_store_one(world, name, status) for name in names), REQUESTS_AT_ONCE)
        await within(PATIENCE_SECONDS, "a Job of the naive operator for each", asyncio.gather(*handled))
        await asyncio.sleep(scale.settle_seconds)
        return process.peak_memory_mib


async def _store_one(world: World, name: str, status: dict[str, Any]) -> None:
    await world.api.create(PLURAL, build_job(world.namespace, name))
    # Not a replacement: the naive operator may have annotated the job meanwhile.
    await world.api.send(
        "PATCH", f"{path_of(PLURAL, world.namespace, name)}/status", {"status": status}, MERGE_PATCH
    )


# --- restarts ------------------------------------------------------------------------------------------------------


async def _restart(world: World, new_name: str, restarts: _Restarts, scale: Scale) -> None:
    """Start, create a job in the moment when the operator says it is ready, and look for writes it should not make."""
    mark = world.audit.mark()
    async with watching(world.api, "jobs") as watcher, world.operator() as (process, ready_seconds):
        restarts.ready_seconds.append(ready_seconds)
        handled = watcher.expect("jobs", world.namespace, first_child(new_name))
        await world.api.create(PLURAL, build_job(world.namespace, new_name))
        created_at = time.monotonic()
        seen = await within(PATIENCE_SECONDS, f"the first child Job of {new_name}", handled)
        restarts.new_job_seconds.append(max(0.0, seen.at - created_at))
        await asyncio.sleep(scale.settle_seconds)
        restarts.peaks_mib.append(process.peak_memory_mib)
    requests = world.audit.requests(mark, user=world.installation.account.user)
    restarts.requests.append(count_by_kind(requests))
    restarts.stray_writes.append(count_by_kind(each for each in requests if _is_stray(each, world.namespace)))


def _is_stray(request: Request, namespace: str) -> bool:
    """Whether it writes to a job that nobody has touched, or to a child or an event of one."""
    is_about_stored = request.name.startswith((FINISHED, UNFINISHED))
    return request.is_write and request.namespace == namespace and is_about_stored


async def _peak_of_naive(world: World, scale: Scale) -> float:
    """Peak memory of the naive operator where it has handled every job before."""
    async with world.naive_operator() as (process, _):
        await asyncio.sleep(2 * scale.settle_seconds)
        return process.peak_memory_mib

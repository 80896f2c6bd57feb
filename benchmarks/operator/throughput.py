"""C-3: very many FineTuneJobs at once, ours and the naive operator in turn, each round on a control plane of its own.

A bare client that makes the same writes shows what the apiserver itself allows on this machine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bars import Bar, Figure, median_figure
from benchmarks.operator.api import gather_limited
from benchmarks.operator.audit import LOGGED_AFTER_SECONDS, count_by_kind
from benchmarks.operator.bare_client import BareClient, Pattern, learn_pattern
from benchmarks.operator.jobs import build_job, first_child, has_status, list_names
from benchmarks.operator.processes import Running
from benchmarks.operator.scale import Scale
from benchmarks.operator.watcher import Sighting, Watcher, watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL

# How many requests the creator of the jobs has under way.
REQUESTS_AT_ONCE = 32
PATIENCE_SECONDS = 300.0
WARM_UP = "warm-up"
Expect = Callable[[Watcher, str, str], Sequence[asyncio.Future[Sighting]]]


@dataclass(frozen=True)
class Round:
    """One burst."""

    seconds: float
    created_seconds: float
    """How long it took to create the FineTuneJobs themselves."""
    cpu_seconds: Mapping[str, float]
    """By program."""
    peak_memory_mib: float = 0.0
    requests: Mapping[str, int] | None = None

    def as_details(self, jobs: int) -> dict[str, Any]:
        """What explains the figure."""
        return {
            "seconds": self.seconds,
            "createdSeconds": self.created_seconds,
            "cpuMsPerJob": {name: used * 1000 / jobs for name, used in self.cpu_seconds.items()},
            "peakMemoryMiB": self.peak_memory_mib,
            "requests": self.requests or {},
        }


async def measure_throughput(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Ours, naive, bare; ours, naive, bare; …"""
    ours, naive, bare = [], [], []
    for _ in range(scale.burst_rounds):
        one, pattern = await _run_ours(open_world, scale.burst_jobs)
        ours.append(one)
        naive.append(await _run_naive(open_world, scale.burst_jobs))
        bare.append(await _run_bare(open_world, scale.burst_jobs, pattern))
    return (_bar(ours, naive, bare, scale.burst_jobs),)


def _bar(ours: Sequence[Round], naive: Sequence[Round], bare: Sequence[Round], jobs: int) -> Bar:
    seconds = [each.seconds for each in ours]
    # Each round against its neighbour: the machine may be slower in one part of the run than in another.
    ratios = [one.seconds / other.seconds for one, other in zip(ours, naive, strict=True)]
    ratio = statistics.median(seconds) / statistics.median(each.seconds for each in naive)
    return Bar(
        "C-3",
        f"{jobs} FineTuneJobs at once → Job, ConfigMap and status each",
        (
            median_figure("time", seconds, "s", 15),
            Figure("against the naive operator", ratio, "×", 2.5, ratios),
        ),
        {
            "jobsPerSecond": jobs / statistics.median(seconds),
            "ours": [each.as_details(jobs) for each in ours],
            "naive": [each.as_details(jobs) for each in naive],
            "bareClientSameWrites": [each.as_details(jobs) for each in bare],
        },
    )


async def _run_ours(open_world: OpenWorld, jobs: int) -> tuple[Round, Pattern]:
    async with open_world() as world, world.operator() as (process, _):
        user = world.installation.account.user
        measured = await _burst(world, user, process, jobs, _expect_all)
        return measured, await learn_pattern(world.api, world.namespace, WARM_UP)


async def _run_naive(open_world: OpenWorld, jobs: int) -> Round:
    async with open_world() as world, world.naive_operator() as (process, _):
        return await _burst(world, world.rival.user, process, jobs, _expect_job)


async def _run_bare(open_world: OpenWorld, jobs: int, pattern: Pattern) -> Round:
    """Without any operator; the watches that the others had stay open, because they cost the apiserver too."""
    async with open_world() as world, watching(world.api, PLURAL, "jobs", "configmaps"):
        client = BareClient(world.api, world.namespace, pattern)
        cpu_before, began = world.cpu_seconds(), time.monotonic()
        created, created_at = await _create(world, list(list_names("burst", jobs)))
        await gather_limited(map(client.write_children, created), REQUESTS_AT_ONCE)
        seconds = time.monotonic() - began
        return Round(seconds, created_at - began, _since(cpu_before, world.cpu_seconds()))


async def _burst(world: World, user: str, process: Running, jobs: int, expect: Expect) -> Round:
    async with watching(world.api, PLURAL, "jobs", "configmaps") as watcher:
        # The first job finds connections closed and caches empty; here the machine's limit is measured, not that.
        await _create_and_wait(world, watcher, [WARM_UP], expect)
        mark, cpu_before, began = world.audit.mark(), _cpu_seconds(world, process), time.monotonic()
        created_at, finished_at = await _create_and_wait(
            world, watcher, list(list_names("burst", jobs)), expect
        )
        used = _since(cpu_before, _cpu_seconds(world, process))
        await asyncio.sleep(LOGGED_AFTER_SECONDS)
        requests = count_by_kind(world.audit.requests(mark, user=user))
    return Round(finished_at - began, created_at - began, used, process.peak_memory_mib, requests)


def _cpu_seconds(world: World, process: Running) -> dict[str, float]:
    return {"operator": process.cpu_seconds, **world.cpu_seconds()}


def _since(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: used - before[name] for name, used in after.items()}


async def _create_and_wait(
    world: World, watcher: Watcher, names: Sequence[str], expect: Expect
) -> tuple[float, float]:
    """Create jobs; returns when they were all created, and when the last thing that is expected of them was seen."""
    expected = [each for name in names for each in expect(watcher, world.namespace, name)]
    creating = asyncio.create_task(_create(world, names))
    sightings = await within(PATIENCE_SECONDS, f"the last of {len(expected)} sightings", _all(expected))
    _, created_at = await creating
    return created_at, max(each.at for each in sightings)


async def _create(world: World, names: Sequence[str]) -> tuple[list[dict[str, Any]], float]:
    """Create jobs; returns them, and when the last one was created."""
    manifests = (build_job(world.namespace, name) for name in names)
    created = await gather_limited((world.api.create(PLURAL, each) for each in manifests), REQUESTS_AT_ONCE)
    return created, time.monotonic()


def _expect_all(watcher: Watcher, namespace: str, name: str) -> Sequence[asyncio.Future[Sighting]]:
    child = first_child(name)
    return (
        watcher.expect("jobs", namespace, child),
        watcher.expect("configmaps", namespace, child),
        watcher.expect(PLURAL, namespace, name, has_status),
    )


def _expect_job(watcher: Watcher, namespace: str, name: str) -> Sequence[asyncio.Future[Sighting]]:
    return (watcher.expect("jobs", namespace, name),)


def _all(awaited: Sequence[Awaitable[Sighting]]) -> Awaitable[list[Sighting]]:
    return asyncio.gather(*awaited)

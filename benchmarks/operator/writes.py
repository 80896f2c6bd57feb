"""C-6: what the operator asks of the apiserver: in the life of a job, for progress of many, and while all is quiet."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.bars import Bar, Figure
from benchmarks.operator.api import gather_limited
from benchmarks.operator.audit import Request, count_by_kind
from benchmarks.operator.jobs import build_job, has_phase, list_names
from benchmarks.operator.kubelet import PodLife, leading_pods
from benchmarks.operator.processes import free_port
from benchmarks.operator.reporters import Reporters
from benchmarks.operator.scale import Scale
from benchmarks.operator.transitions import Transitions
from benchmarks.operator.watcher import Watcher, watching, within
from benchmarks.operator.world import OpenWorld, World
from finetune_api import PLURAL
from finetune_api.names import Stage

REQUESTS_AT_ONCE = 32
PATIENCE_SECONDS = 300.0
# Each stage's pods run for longer than it takes the Job controller to tell.
LIFE = {stage: PodLife(runs_seconds=1.5) for stage in (Stage.PREPARE, Stage.TRAIN, Stage.EXPORT)}
UNTIL_TRAINING = {Stage.PREPARE: PodLife(runs_seconds=0.05), Stage.TRAIN: PodLife(runs_seconds=None)}
STATUS_WRITE = "finetunejobs/status"
# At least so far apart are two writes of a job's progress: 10 s, less what a request may be late.
PROGRESS_PAUSE_SECONDS = 9.8
ALL_JOBS_WINDOW_SECONDS = 10.0


@dataclass(frozen=True)
class _Life:
    """What the operator did for one job from its creation to its end."""

    writes: dict[str, int]
    reads: dict[str, int]
    events: int
    transitions: int


async def measure_writes(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Count requests in the audit log."""
    async with open_world(fast_controllers=True) as world:
        async with world.operator(), watching(world.api, PLURAL, "pods") as watcher:
            lives = await _observe_lives(world, watcher, scale)
        port = free_port()
        async with world.operator(port) as (process, _), watching(world.api, PLURAL, "pods") as watcher:
            pods = await _bring_to_training(world, watcher, scale)
            cpu_before = process.cpu_seconds
            idle = await _observe_quiet(world, scale.idle_seconds)
            idle_cores = (process.cpu_seconds - cpu_before) / scale.idle_seconds
            progress = await _observe_progress(
                world, f"https://127.0.0.1:{port}", pods, scale.progress_seconds
            )
    return (_bar(lives, idle, idle_cores, progress, scale),)


def _bar(
    lives: Sequence[_Life],
    idle: Sequence[Request],
    idle_cores: float,
    progress: Sequence[Request],
    scale: Scale,
) -> Bar:
    writes = [sum(life.writes.values()) for life in lives]
    events = [life.events / max(1, life.transitions) for life in lives]
    per_job = _writes_per_job(progress, scale.training_jobs)
    in_all = densest([write.at for write in progress], ALL_JOBS_WINDOW_SECONDS) / ALL_JOBS_WINDOW_SECONDS
    return Bar(
        "C-6",
        "requests",
        (
            Figure("writes in a life", max(writes), "writes", 14, writes),
            Figure("events per transition", max(events), "events", 1, events),
            Figure("progress of one job in 10 s", _most_of_one_job(progress), "writes", 1),
            Figure("progress of all", in_all, "writes/s", 20),
            Figure("progress, most less fewest writes of a job", max(per_job) - min(per_job), "writes", 1),
            Figure("idle beside watches", len(idle) / scale.idle_seconds, "requests/s", 0.5),
        ),
        {
            "life": [{**life.writes, **life.reads} for life in lives],
            "eventsAndTransitions": [(life.events, life.transitions) for life in lives],
            "trainingJobs": scale.training_jobs,
            "progressWrites": len(progress),
            "progressSeconds": scale.progress_seconds,
            "progressWritesPerJob": dict(sorted(Counter(per_job).items())),
            "idleRequests": count_by_kind(idle),
            "idleSeconds": scale.idle_seconds,
            "idleCores": idle_cores,
        },
    )


# --- the life of a job ---------------------------------------------------------------------------------------------


async def _observe_lives(world: World, watcher: Watcher, scale: Scale) -> list[_Life]:
    transitions = Transitions(watcher)
    async with leading_pods(world.api, watcher, LIFE):
        # The first job of a namespace also brings the certificate authority there.
        await _live(world, watcher, "first")
        names, mark = list(list_names("life", scale.lives)), world.audit.mark()
        await asyncio.gather(*(_live(world, watcher, name) for name in names))
        await asyncio.sleep(scale.settle_seconds)
    requests = world.audit.requests(mark, user=world.installation.account.user)
    return [_life_of(name, requests, transitions.count(world.namespace, name)) for name in names]


async def _live(world: World, watcher: Watcher, name: str) -> None:
    ended = watcher.expect(PLURAL, world.namespace, name, has_phase("Succeeded", "Failed"))
    await world.api.create(PLURAL, build_job(world.namespace, name))
    await within(PATIENCE_SECONDS, f"the end of {name}", ended)


def _life_of(name: str, requests: Sequence[Request], transitions: int) -> _Life:
    # Children are called <job>-<stage>-<attempt>, events <job>.<digest>.
    own = [each for each in requests if each.name == name or each.name.startswith((f"{name}-", f"{name}."))]
    events = [each for each in own if each.is_write and each.resource == "events"]
    writes = [each for each in own if each.is_write and each.resource != "events"]
    reads = [each for each in own if not each.is_write]
    return _Life(count_by_kind(writes), count_by_kind(reads), len(events), transitions)


# --- many jobs that train ------------------------------------------------------------------------------------------


async def _bring_to_training(world: World, watcher: Watcher, scale: Scale) -> list[dict[str, object]]:
    """Create jobs and lead them into training; returns their train pods."""
    names = list(list_names("train", scale.training_jobs))
    training = [watcher.expect(PLURAL, world.namespace, name, has_phase("Training")) for name in names]
    async with leading_pods(world.api, watcher, UNTIL_TRAINING):
        jobs = (world.api.create(PLURAL, build_job(world.namespace, name)) for name in names)
        await gather_limited(jobs, REQUESTS_AT_ONCE)
        await within(PATIENCE_SECONDS, f"{len(names)} jobs that train", asyncio.gather(*training))
    await asyncio.sleep(scale.settle_seconds)
    pods = watcher.list_seen("pods", world.namespace)
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


async def _observe_quiet(world: World, seconds: float) -> list[Request]:
    mark = world.audit.mark()
    await asyncio.sleep(seconds)
    return world.audit.requests(mark, user=world.installation.account.user)


async def _observe_progress(
    world: World, url: str, pods: Sequence[dict[str, object]], seconds: float
) -> list[Request]:
    """Let every pod report as the trainer does; returns the writes once the first reports have gone through."""
    async with Reporters(world.api, world.namespace, url) as reporters:
        await reporters.start(pods)
        await asyncio.sleep(min(10.0, seconds / 4))
        mark, began = world.audit.mark(), time.monotonic()
        await asyncio.sleep(seconds - (time.monotonic() - began))
        requests = world.audit.requests(mark, user=world.installation.account.user)
    return [each for each in requests if each.is_write and each.resource == STATUS_WRITE]


def _writes_per_job(progress: Sequence[Request], jobs: int) -> list[int]:
    counted = Counter(write.name for write in progress)
    return [*counted.values(), *[0] * (jobs - len(counted))]


def _most_of_one_job(progress: Sequence[Request]) -> int:
    times: dict[str, list[float]] = {}
    for write in progress:
        times.setdefault(write.name, []).append(write.at)
    return max((densest(each, PROGRESS_PAUSE_SECONDS) for each in times.values()), default=0)


def densest(times: Sequence[float], window_seconds: float) -> int:
    """The most moments within any window of this length."""
    ordered, first, most = sorted(times), 0, 0
    for last, at in enumerate(ordered):
        while ordered[first] <= at - window_seconds:
            first += 1
        most = max(most, last - first + 1)
    return most

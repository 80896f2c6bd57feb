"""Runs kopf's watches inside our process without leaving the process to kopf: signals and other tasks stay ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import kopf

AnyTask = asyncio.Task[Any]


async def run_watches(
    registry: kopf.OperatorRegistry,
    settings: kopf.OperatorSettings,
    namespaces: Sequence[str],
    take_signals_back: Callable[[], None],
) -> None:
    """Watch until cancelled, or until one of kopf's own tasks fails. Raises what it failed with."""
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings,
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    # kopf has just taken SIGTERM and SIGINT for itself. There is more to end than its tasks.
    take_signals_back()
    await kopf.run_tasks(tasks, ignored=_TasksOfOthers())


class _TasksOfOthers(Collection[AnyTask]):
    """All tasks there are: at its end kopf waits for, and cancels, every task that began after it and is not in here.

    kopf's own tasks are awaited by those who began them.
    """

    def __contains__(self, task: object) -> bool:
        return True

    def __iter__(self) -> Iterator[AnyTask]:
        return iter(asyncio.all_tasks())

    def __len__(self) -> int:
        return len(asyncio.all_tasks())

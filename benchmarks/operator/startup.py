"""C-8: how long a cluster is without its operator when the pod is replaced."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bars import Bar, median_figure
from benchmarks.operator.scale import Scale
from benchmarks.operator.world import OpenWorld


async def measure_startup(open_world: OpenWorld, scale: Scale) -> Sequence[Bar]:
    """Start the operator again and again where there is no FineTuneJob."""
    ready_seconds = []
    async with open_world() as world:
        for _ in range(scale.starts):
            async with world.operator() as (_, seconds):
                ready_seconds.append(seconds)
    figure = median_figure("ready", ready_seconds, "s", 3)
    return (Bar("C-8", "process start → ready at 0 objects", (figure,)),)

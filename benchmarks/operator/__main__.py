"""`make bench-operator`: measures every bar, prints a line for each, and writes benchmarks/results/operator.json."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.bars import Bar, JsonObject, broken_bar
from benchmarks.machine import QUIET_CORES, Usage, describe_machine, describe_versions
from benchmarks.operator.deletion import measure_deletion
from benchmarks.operator.image import measure_image
from benchmarks.operator.latency import measure_latency
from benchmarks.operator.object_size import measure_object_size
from benchmarks.operator.restart import measure_restart
from benchmarks.operator.scale import FULL, QUICK, Scale
from benchmarks.operator.startup import measure_startup
from benchmarks.operator.throughput import measure_throughput
from benchmarks.operator.world import OpenWorld, new_world, share
from benchmarks.operator.writes import measure_writes
from benchmarks.options import parse_options
from benchmarks.report import write_report
from devcluster.programs import PROGRAMS

Measure = Callable[[OpenWorld, Scale], Awaitable[Sequence[Bar]]]
PACKAGES = ("kopf", "kubernetes", "aiohttp", "pydantic", "finetune-operator")
COMPONENTS = ("kube-apiserver", "etcd")


@dataclass(frozen=True)
class Measurement:
    """One scenario and the bars that come out of it."""

    bars: tuple[str, ...]
    measure: Measure


MEASUREMENTS = (
    Measurement(("C-8",), measure_startup),
    Measurement(("C-1", "C-2"), measure_latency),
    Measurement(("C-3",), measure_throughput),
    Measurement(("C-4", "C-5"), measure_restart),
    Measurement(("C-6",), measure_writes),
    Measurement(("C-7",), measure_deletion),
    Measurement(("C-9",), measure_image),
    Measurement(("C-11",), measure_object_size),
)


@dataclass(frozen=True)
class Outcome:
    """What a scenario gave, and how much of the machine others used meanwhile."""

    bars: Sequence[Bar]
    seconds: float
    foreign_cores: float

    def as_json(self) -> JsonObject:
        """Say how long these bars took, and how quiet it was."""
        return {
            "bars": [bar.identifier for bar in self.bars],
            "seconds": round(self.seconds, 1),
            "foreignCores": round(self.foreign_cores, 3),
        }


def main(arguments: Sequence[str]) -> int:
    """Measure. Returns 1 where a measurement broke; a missed bar is a result like any other."""
    every = [bar for each in MEASUREMENTS for bar in each.bars]
    options = parse_options("operator", __doc__, every, arguments)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    machine, began = describe_machine(), time.monotonic()
    outcomes = asyncio.run(
        _measure_all(_choose(options.only), QUICK if options.quick else FULL, options.quick)
    )
    bars = sorted((bar for outcome in outcomes for bar in outcome.bars), key=_by_number)
    foreign_cores = max(outcome.foreign_cores for outcome in outcomes)
    write_report(
        options.output,
        bars,
        machine,
        _versions(),
        seconds=round(time.monotonic() - began, 1),
        isFull=not options.quick and not options.only,
        foreignCores=round(foreign_cores, 3),
        isQuiet=foreign_cores <= QUIET_CORES,
        parts=[outcome.as_json() for outcome in outcomes],
    )
    _print_summary(options, foreign_cores, time.monotonic() - began)
    return int(any(bar.error for bar in bars))


async def _measure_all(measurements: Sequence[Measurement], scale: Scale, quick: bool) -> Sequence[Outcome]:
    # SIGTERM ends everything that was started, as Ctrl-C does.
    own = asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)
    async with AsyncExitStack() as stack:
        open_world: OpenWorld = new_world
        if quick:
            open_world = share(await stack.enter_async_context(new_world(fast_controllers=True)))
        outcomes = []
        for measurement in measurements:
            outcomes.append(await _measure(measurement, open_world, scale))
            for bar in outcomes[-1].bars:
                print(bar, flush=True)
        return outcomes


async def _measure(measurement: Measurement, open_world: OpenWorld, scale: Scale) -> Outcome:
    """Measure; what breaks here leaves the other bars alone."""
    before = Usage.now()
    try:
        bars = await measurement.measure(open_world, scale)
    except Exception as error:
        logging.getLogger(__name__).exception("%s could not be measured", ", ".join(measurement.bars))
        cause = _first_cause(error)
        bars = [broken_bar(identifier, "could not be measured", cause) for identifier in measurement.bars]
    after = Usage.now()
    return Outcome(bars, after.at - before.at, before.foreign_cores(after))


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong first, inside the groups of tasks that ended with it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _choose(only: Sequence[str]) -> Sequence[Measurement]:
    return [each for each in MEASUREMENTS if not only or set(only) & set(each.bars)]


def _by_number(bar: Bar) -> int:
    return int(bar.identifier.partition("-")[2])


def _versions() -> dict[str, str]:
    components = {name: PROGRAMS[name].version.removeprefix("v") for name in COMPONENTS}
    return {**describe_versions(PACKAGES), **components}


def _print_summary(options: argparse.Namespace, foreign_cores: float, seconds: float) -> None:
    print(f"\n{seconds / 60:.1f} min, written to {options.output}")
    if options.quick:
        print("A quick run shows that everything works; its figures mean nothing.")
    elif foreign_cores > QUIET_CORES:
        print(f"Others kept {foreign_cores:.1f} cores busy meanwhile: measure again on a quiet machine.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

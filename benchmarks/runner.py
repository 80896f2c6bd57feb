"""Runs the measurements of one benchmark in turn: a line for each bar, all of them in one result file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from benchmarks.bars import Bar, broken_bar
from benchmarks.machine import QUIET_CORES, Usage, describe_machine, describe_versions
from benchmarks.options import parse_options
from benchmarks.report import write_report

S = TypeVar("S")


class Benchmark(Generic[S]):
    """Measurements by the first bar that each gives; every one has an empty folder of its own."""

    def __init__(
        self,
        name: str,
        description: str | None,
        packages: Sequence[str],
        measurements: Mapping[str, Callable[[S, Path], Sequence[Bar]]],
        *,
        full: S,
        quick: S,
    ) -> None:
        self._name = name
        self._description = description
        self._packages = packages
        self._measurements = measurements
        self._full = full
        self._quick = quick

    def run(self, arguments: Sequence[str]) -> int:
        """Measure. Returns 1 where a measurement broke; a missed bar is a result like any other."""
        options = parse_options(self._name, self._description, list(self._measurements), arguments)
        scale = self._quick if options.quick else self._full
        machine, began, before = describe_machine(), time.monotonic(), Usage.now()
        bars = [bar for name in options.only or self._measurements for bar in self._measure(name, scale)]
        foreign_cores = before.foreign_cores(Usage.now())
        write_report(
            options.output,
            bars,
            machine,
            describe_versions(self._packages),
            seconds=round(time.monotonic() - began, 1),
            isFull=not options.quick and not options.only,
            foreignCores=round(foreign_cores, 3),
            isQuiet=foreign_cores <= QUIET_CORES,
        )
        print(f"\n{(time.monotonic() - began) / 60:.1f} min, written to {options.output}")
        return int(any(bar.error for bar in bars))

    def _measure(self, name: str, scale: S) -> Sequence[Bar]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                bars = self._measurements[name](scale, Path(folder))
            except Exception as error:
                bars = [broken_bar(name, "could not be measured", error)]
        for bar in bars:
            print(bar, flush=True)
        return bars

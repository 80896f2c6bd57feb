"""Runs the measurements of one benchmark in turn: a line for each bar, all of them in one result file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from benchmarks.bars import Bar, broken_bar
from benchmarks.machine import QUIET_CORES, Usage, describe_machine, describe_versions
from benchmarks.options import parse_options
from benchmarks.report import write_report

S = TypeVar("S")


@dataclass(frozen=True)
class Benchmark(Generic[S]):
    """Measurements by the first bar that each gives; every one has an empty folder of its own."""

    name: str
    description: str | None
    packages: Sequence[str]
    measurements: Mapping[str, Callable[[S, Path], Sequence[Bar]]]
    full: S
    quick: S

    def run(self, arguments: Sequence[str]) -> int:
        """Measure. Returns 1 where a measurement broke; a missed bar is a result like any other."""
        options = parse_options(self.name, self.description, list(self.measurements), arguments)
        scale = self.quick if options.quick else self.full
        machine, began, before = describe_machine(), time.monotonic(), Usage.now()
        bars = [bar for name in options.only or self.measurements for bar in self._measure(name, scale)]
        foreign_cores = before.foreign_cores(Usage.now())
        write_report(
            options.output,
            bars,
            machine,
            describe_versions(self.packages),
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
                bars = self.measurements[name](scale, Path(folder))
            except Exception as error:
                bars = [broken_bar(name, "could not be measured", error)]
        for bar in bars:
            print(bar, flush=True)
        return bars

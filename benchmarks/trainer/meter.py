"""Counts what one run computes, and when: a callback for transformers.Trainer, for ours and for the rivals alike."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.machine import MIB, peak_memory_mib


@dataclass(frozen=True)
class Moment:
    """What was done until the end of a step. `computed` tokens count padding, `real` ones do not."""

    seconds: float
    cpu_seconds: float
    computed: int
    real: int
    loss: float


class RunMeter(TrainerCallback):  # type: ignore[misc]
    """Stamps the end of every step. Whoever feeds the model says what it feeds."""

    def __init__(self, memory_after_step: int | None = None) -> None:
        self.moments: list[Moment] = []
        self._computed = self._real = 0
        self._loss = 0.0
        self._memory_after_step = memory_after_step
        self._resting_mib = 0.0

    def count(self, computed: int, real: int) -> None:
        """Note a micro-batch that is computed now."""
        self._computed += computed
        self._real += real

    def add_loss(self, loss: float) -> None:
        """Note a micro-batch's part of the step's loss."""
        self._loss += loss

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stamp it; from the step on after which memory is watched, forget the peak until then."""
        self.moments.append(
            Moment(time.perf_counter(), time.process_time(), self._computed, self._real, self._loss)
        )
        self._loss = 0.0
        if state.global_step == self._memory_after_step:
            # proc(5): 5 resets VmHWM, the peak of the resident set.
            Path("/proc/self/clear_refs").write_text("5")
            self._resting_mib = resident_memory_mib()

    def result(self, skipped_steps: int) -> dict[str, Any]:
        """What is known after the last step: the window begins with the end of the last skipped step."""
        first, last = self.moments[skipped_steps - 1], self.moments[-1]
        seconds = last.seconds - first.seconds
        computed, real = last.computed - first.computed, last.real - first.real
        return {
            "tokensPerSecond": real / seconds,
            "seconds": seconds,
            # Of all threads: tells a run that others held up from a slow one.
            "cpuSeconds": last.cpu_seconds - first.cpu_seconds,
            "tokens": real,
            "computedTokens": computed,
            "paddingShare": 1 - real / computed,
            "losses": [moment.loss for moment in self.moments],
            "restingMiB": self._resting_mib,
            "peakMiB": peak_memory_mib(os.getpid()),
        }


def resident_memory_mib() -> float:
    """Memory that this process holds now (VmRSS)."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "/proc/self/status has no VmRSS"
    return int(found[1]) * 1024 / MIB

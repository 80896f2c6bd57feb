"""The stall watchdog, in two halves: ranks note what they are doing in a file, the launcher looks whether it changes.

It stands outside the ranks, because a rank that hangs in a collective or a driver cannot watch itself. Between two
steps of training `failurePolicy.stallTimeoutSeconds` may pass. Everything else (loading with the first step,
evaluating, saving, committing) depends on the size of the model and on the store, and gets at least half an hour, each
from its own beginning. Torch-free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_trainer.errors import Stalled

logger = logging.getLogger(__name__)

LEAST_PHASE_SECONDS = 1800.0


class Phase(StrEnum):
    """What a rank does. Only TRAINING, from the first finished step on, is bounded by stallTimeoutSeconds alone."""

    LOADING = "loading"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving a checkpoint"
    COMMITTING = "committing the result"


class Beat(ApiModel):
    """What stands in a rank's file. `number` makes every beat differ from the one before."""

    number: int
    phase: Phase
    step: int


class Heart:
    """Writes the beats of one rank."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_suffix(".unfinished")
        self._newest = Beat(number=0, phase=Phase.LOADING, step=0)

    def enter(self, phase: Phase) -> None:
        """Note that something begins that may take its time."""
        self._write(phase, self._newest.step)

    def finish_step(self, step: int) -> None:
        """Note a finished optimizer step."""
        self._write(Phase.TRAINING, step)

    def _write(self, phase: Phase, step: int) -> None:
        self._newest = Beat(number=self._newest.number + 1, phase=phase, step=step)
        # Renamed into place, so that nobody reads half of it.
        self._unfinished.write_text(self._newest.model_dump_json(), encoding="utf-8")
        self._unfinished.replace(self._path)


class Watchdog:
    """Looks at the ranks' files; begins to count when it is made."""

    def __init__(
        self,
        files: Mapping[int, Path],
        timeout_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        now = clock()
        self._beats: dict[int, Beat | None] = dict.fromkeys(files)
        self._changed = dict.fromkeys(files, now)

    def check(self, states: Callable[[], Mapping[int, str]] = dict) -> None:
        """Raise Stalled if a rank has not moved for too long. `states` tells of processes that do not run at all."""
        now = self._clock()
        for rank, path in self._files.items():
            if (beat := _read(path)) is not None and beat != self._beats[rank]:
                self._beats[rank], self._changed[rank] = beat, now
        late = [rank for rank in self._files if now - self._changed[rank] > self._limit(rank)]
        if late:
            raise self._stalled(late, states())

    def _limit(self, rank: int) -> float:
        beat = self._beats[rank]
        if beat is not None and beat.phase is Phase.TRAINING:
            return self._timeout_seconds
        return max(self._timeout_seconds, LEAST_PHASE_SECONDS)

    def _stalled(self, late: list[int], states: Mapping[int, str]) -> Stalled:
        # The others wait for the one that hangs: blamed is who does not run, else who is behind, else nobody.
        beats = {rank: self._beats[rank] for rank in late}
        steps = {rank: beat.step if beat else 0 for rank, beat in beats.items()}
        behind = [rank for rank in late if steps[rank] < max(steps.values())]
        blamed = next((rank for rank in (*states, *behind)), None)
        step = min(steps.values())
        said = "; ".join(f"rank {rank} is {state}" for rank, state in states.items())
        phases = sorted({beat.phase if beat else Phase.LOADING for beat in beats.values()})
        return Stalled(
            f"Training made no progress for {self._limit(late[0]):.0f} s after step {step}, while {', '.join(phases)}"
            f"{f' ({said})' if said else ''}. The log has the stacks of all processes. The next attempt goes on from "
            "the newest checkpoint; if it hangs too, look at the stacks, or raise "
            "spec.failurePolicy.stallTimeoutSeconds where a step really takes so long.",
            step=step,
            rank=blamed,
        )


def _read(path: Path) -> Beat | None:
    try:
        return Beat.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None

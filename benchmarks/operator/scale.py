"""How much is measured: the full run is what the bars mean, the quick one only shows that everything works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers of jobs, rounds and seconds."""

    starts: int
    latency_jobs: int
    burst_jobs: int
    burst_rounds: int
    stored_jobs: int
    unfinished_jobs: int
    restarts: int
    lives: int
    training_jobs: int
    progress_seconds: float
    idle_seconds: float
    deletions: int
    attempts: int
    settle_seconds: float
    """How long afterthoughts are waited for: deletions, events, the Job controller's own updates."""


FULL = Scale(
    starts=5,
    latency_jobs=200,
    burst_jobs=1000,
    burst_rounds=3,
    stored_jobs=5000,
    unfinished_jobs=100,
    restarts=3,
    lives=3,
    training_jobs=300,
    progress_seconds=45,
    idle_seconds=35,
    deletions=10,
    attempts=50,
    settle_seconds=4,
)
QUICK = Scale(
    starts=1,
    latency_jobs=5,
    burst_jobs=25,
    burst_rounds=1,
    stored_jobs=40,
    unfinished_jobs=4,
    restarts=1,
    lives=1,
    training_jobs=5,
    progress_seconds=11,
    idle_seconds=3,
    deletions=1,
    attempts=12,
    settle_seconds=1.5,
)

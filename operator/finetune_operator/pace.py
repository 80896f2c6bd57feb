"""How fast things are done again: the settings that decisions depend on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Pace:
    """Intervals and pauses."""

    progress_interval: timedelta = timedelta(seconds=10)
    first_restart_delay: timedelta = timedelta(seconds=5)

"""Whether this process was told to go. Heard from the first moment on, so this module imports next to nothing."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """SIGTERM only sets it: a step is never interrupted."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def listen(self) -> None:
        """Take SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def is_made(self) -> bool:
        """Whether SIGTERM has come."""
        return self._requested.is_set()

    def _on_sigterm(self, signal_number: int, frame: FrameType | None) -> None:
        self._requested.set()

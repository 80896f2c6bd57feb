"""One thread a tracker: training hands it figures and never waits for a server."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, Full, Queue

from finetune_trainer.tracker_sessions import TrackerLost, TrackerSession
from finetune_trainer.trackers import TrackerName

logger = logging.getLogger(__name__)

# Hours of steps; a tracker that is further behind than this does not keep up.
_WAITING_ENTRIES = 20_000


@dataclass(frozen=True)
class _Figures:
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Mark:
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _End:
    is_done: bool


class TrackerWorker:
    """Opens a tracker, logs to it and ends it. Whatever goes wrong is told once, and everything after it is dropped."""

    def __init__(self, name: TrackerName, open_session: Callable[[], TrackerSession]) -> None:
        self.name = name
        self._open_session = open_session
        self._waiting: Queue[_Figures | _Mark | _End] = Queue(_WAITING_ENTRIES)
        self._is_lost = threading.Event()
        # A daemon: a library that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)

    def start(self) -> None:
        """Begin to open the tracker."""
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand over figures."""
        self._put(_Figures(step, values))

    def settle(self, seconds: float) -> bool:
        """Wait until everything that was handed over is with the library; whether it is."""
        mark = _Mark()
        self._put(mark)
        return self._is_lost.is_set() or mark.reached.wait(seconds)

    def end(self, *, is_done: bool) -> None:
        """Ask for the end of the tracker's run."""
        self._put(_End(is_done))

    def wait(self, seconds: float) -> None:
        """Wait for that end, and say so if it takes longer."""
        if self._thread.ident is None or self._is_lost.is_set():
            return
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._lose("it did not take everything in time, and may lack the last steps")

    def _put(self, entry: _Figures | _Mark | _End) -> None:
        if self._is_lost.is_set():
            return
        try:
            self._waiting.put_nowait(entry)
        except Full:
            self._lose(f"it is {_WAITING_ENTRIES} steps behind")

    def _run(self) -> None:
        try:
            self._follow(self._open_session())
        except TrackerLost as error:
            self._lose(str(error))
            self._release()

    def _follow(self, session: TrackerSession) -> None:
        while True:
            entry = self._waiting.get()
            if isinstance(entry, _Figures):
                session.log(entry.step, entry.values)
            elif isinstance(entry, _Mark):
                entry.reached.set()
            else:
                session.end(is_done=entry.is_done)
                return

    def _release(self) -> None:
        """Let go who waits for a tracker that is lost."""
        with contextlib.suppress(Empty):
            while True:
                if isinstance(entry := self._waiting.get_nowait(), _Mark):
                    entry.reached.set()

    def _lose(self, reason: str) -> None:
        if not self._is_lost.is_set():
            self._is_lost.set()
            logger.warning("tracking.%s: %s. The run goes on without it.", self.name, reason)

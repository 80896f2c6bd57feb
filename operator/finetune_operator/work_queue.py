"""One reconcile per job at a time: keys come in from every watch, workers take them out.

A key that comes in while it is worked on is marked dirty and worked on once more. Failures come back later and
later, with jitter, but at once when the API server answers again. kopf serialises events per watched object, not per
job, hence this queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from finetune_operator import logs, metrics
from finetune_operator.job_resource import JobKey

DEFAULT_WORKERS = 16
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
# When the API server is back, everything that failed meanwhile comes back within this time, and not all at once.
COMEBACK_SECONDS = 5.0

logger = logging.getLogger(__name__)


class RetryLater(Exception):
    """The reconcile could not be finished; `delay_seconds` where the API server said for how long."""

    def __init__(self, message: str, *, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class WorkQueue:
    """A queue of keys. `work` returns after how many seconds it wants to see the key again, or None."""

    def __init__(
        self,
        work: Callable[[JobKey], Awaitable[float | None]],
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._jitter = jitter
        self._ready: asyncio.Queue[JobKey] = asyncio.Queue()
        self._waiting: set[JobKey] = set()
        self._running: set[JobKey] = set()
        self._dirty: set[JobKey] = set()
        self._timers: dict[JobKey, asyncio.TimerHandle] = {}
        self._failures: dict[JobKey, int] = {}
        self._closing = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def enqueue(self, key: JobKey) -> None:
        """Ask for a reconcile of a job, now."""
        if self._closing.is_set():
            return
        if key in self._running:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def enqueue_later(self, key: JobKey, delay_seconds: float) -> None:
        """Ask for a reconcile after a while; the earlier of two such wishes holds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_seconds
        timer = self._timers.get(key)
        if timer is not None and not timer.cancelled() and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._on_timer, key)

    def retry_failed(self) -> None:
        """Try again soon whatever failed: the reason is gone."""
        for key in self._failures:
            if key in self._timers:
                self.enqueue_later(key, COMEBACK_SECONDS * self._jitter())

    async def drain(self, seconds: float) -> None:
        """Begin nothing any more, and give what has begun some time to end."""
        self._closing.set()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            told = ", ".join(map(str, sorted(self._running)))
            logger.warning("the reconcile of %s did not end within %.0f s and is cut off", told, seconds)

    async def run(self, workers: int = DEFAULT_WORKERS) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._work_on_keys(), name=f"worker {number}")
        finally:
            for timer in self._timers.values():
                timer.cancel()

    def __len__(self) -> int:
        """Number of keys that wait or are worked on."""
        return len(self._waiting) + len(self._running)

    def _on_timer(self, key: JobKey) -> None:
        del self._timers[key]
        self.enqueue(key)

    async def _work_on_keys(self) -> None:
        while not self._closing.is_set():
            key = await self._ready.get()
            self._waiting.discard(key)
            if self._closing.is_set():
                return
            delay_seconds = await self._work_on(key)
            if delay_seconds is not None:
                self.enqueue_later(key, delay_seconds)
            if key in self._dirty:
                self._dirty.discard(key)
                self.enqueue(key)

    async def _work_on(self, key: JobKey) -> float | None:
        self._running.add(key)
        self._idle.clear()
        try:
            return await self._attempt(key)
        finally:
            self._running.discard(key)
            if not self._running:
                self._idle.set()

    async def _attempt(self, key: JobKey) -> float | None:
        """Work on a key; whatever goes wrong concerns this key only."""
        with logs.concerning_key(key.namespace, key.name):
            try:
                delay_seconds = await self._work(key)
            except RetryLater as error:
                retry_seconds = max(self._backoff(key), (error.delay_seconds or 0) * (1 + self._jitter() / 2))
                logger.warning("%s is tried again in %.1f s: %s", key, retry_seconds, error)
                return retry_seconds
            except Exception:
                metrics.reconcile_failed("Unexpected")
                retry_seconds = self._backoff(key)
                logger.exception(
                    "%s could not be reconciled; it is tried again in %.1f s", key, retry_seconds
                )
                return retry_seconds
        self._failures.pop(key, None)
        return delay_seconds

    def _backoff(self, key: JobKey) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause: float = min(FIRST_RETRY_SECONDS * 2 ** min(failures, 16), LONGEST_RETRY_SECONDS)
        return pause * (1 + self._jitter() / 2)

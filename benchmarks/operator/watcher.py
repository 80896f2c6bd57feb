"""The one clock: watches everything that is measured and stamps, monotonically, when it saw what.

Both ends of a latency are seen by this process, so nothing depends on the timestamps in objects, which are whole
seconds, nor on the clocks of others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.operator.api import Api, JsonObject
from benchmarks.operator.errors import BenchmarkError

T = TypeVar("T")
Condition = Callable[[JsonObject], bool]
Listener = Callable[[str, JsonObject], None]
Key = tuple[str, str, str]
GONE = "DELETED"
LISTING_SECONDS = 60.0


@dataclass(frozen=True)
class Sighting:
    """An object as it was seen at a moment."""

    at: float
    body: JsonObject


@dataclass(frozen=True)
class _Wish:
    condition: Condition | None
    """None: that it is gone."""
    granted: asyncio.Future[Sighting]


class Watcher:
    """Everything of some kinds, as last seen, and promises of what will be seen."""

    def __init__(self) -> None:
        self._seen: dict[Key, Sighting] = {}
        self._wishes: dict[Key, list[_Wish]] = {}
        self._listeners: dict[str, list[Listener]] = {}

    def expect(
        self, plural: str, namespace: str, name: str, condition: Condition = lambda _: True
    ) -> asyncio.Future[Sighting]:
        """When an object is first seen in a condition; at once where it already is."""
        key = (plural, namespace, name)
        return self._wish(key, condition, is_true=key in self._seen and condition(self._seen[key].body))

    def expect_gone(self, plural: str, namespace: str, name: str) -> asyncio.Future[Sighting]:
        """When an object that is there is gone."""
        return self._wish((plural, namespace, name), None, is_true=False)

    def list_seen(self, plural: str, namespace: str) -> list[JsonObject]:
        """The objects of a namespace that are there."""
        return [seen.body for key, seen in self._seen.items() if key[:2] == (plural, namespace)]

    def listen(self, plural: str, listener: Listener) -> None:
        """Call for every event of a kind, with its type and object."""
        self._listeners.setdefault(plural, []).append(listener)

    @contextmanager
    def listening(self, plural: str, listener: Listener) -> Iterator[None]:
        """Call for every event of a kind until the end of the context."""
        self.listen(plural, listener)
        try:
            yield
        finally:
            self._listeners[plural].remove(listener)

    async def run(self, api: Api, plural: str, listed: asyncio.Event) -> None:
        """Watch one kind for ever; the apiserver may end a watch at any time, and does so when a CRD settles."""
        version = ""
        while True:
            async for kind, body in api.watch(plural, version):
                at = time.monotonic()
                if kind == "ERROR":
                    raise BenchmarkError(f"the watch of {plural} failed: {body}")
                version = body["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    listed.set()
                else:
                    self._take(plural, kind, Sighting(at, body))

    def _take(self, plural: str, kind: str, sighting: Sighting) -> None:
        metadata = sighting.body["metadata"]
        key = (plural, metadata["namespace"], metadata["name"])
        if kind == GONE:
            self._seen.pop(key, None)
        else:
            self._seen[key] = sighting
        for wish in self._wishes.pop(key, ()):
            holds = kind == GONE if wish.condition is None else kind != GONE and wish.condition(sighting.body)
            if not holds:
                self._wishes.setdefault(key, []).append(wish)
            elif not wish.granted.done():
                wish.granted.set_result(sighting)
        for listener in tuple(self._listeners.get(plural, ())):
            listener(kind, sighting.body)

    def _wish(self, key: Key, condition: Condition | None, *, is_true: bool) -> asyncio.Future[Sighting]:
        granted: asyncio.Future[Sighting] = asyncio.get_running_loop().create_future()
        if is_true:
            granted.set_result(self._seen[key])
        else:
            self._wishes.setdefault(key, []).append(_Wish(condition, granted))
        return granted


@asynccontextmanager
async def watching(api: Api, *plurals: str) -> AsyncIterator[Watcher]:
    """Watch these kinds. A watch that fails ends the measurement."""
    watcher = Watcher()
    async with asyncio.TaskGroup() as group:
        listed = [asyncio.Event() for _ in plurals]
        tasks = [
            group.create_task(watcher.run(api, plural, event))
            for plural, event in zip(plurals, listed, strict=True)
        ]
        every_listed = asyncio.gather(*(event.wait() for event in listed))
        await within(LISTING_SECONDS, f"the first listing of {', '.join(plurals)}", every_listed)
        yield watcher
        for task in tasks:
            task.cancel()


async def within(seconds: float, what: str, awaited: Awaitable[T]) -> T:
    """Await something, or say what did not happen in time."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError as error:
        raise BenchmarkError(f"{what} did not happen within {seconds:g} s") from error

"""Whether the watches are open, and still deliver: when the last sign of life came through each of them.

kopf's watch can end or fall silent while the process looks well (kopf#1276). The API server is asked to end every
watch after a minute, so one through which neither an event nor its end comes, while the API server answers, is dead.
Both are noted where kopf takes them from the connection; a listing proves nothing about a watch and is not counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import aiohttp


@dataclass(frozen=True, order=True)
class WatchStream:
    """One watch: a kind of object, in one namespace or in all."""

    plural: str
    namespace: str | None

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else "all namespaces"
        return f"{self.plural} in {where}"


class Deliveries:
    """When each watch delivered last.

    `open` is called for every watch that begins, `note` for every piece of data, and every end, that kopf reads.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[WatchStream, float] = {}
        self._opened: set[WatchStream] = set()

    def expect(self, plurals: Iterable[str], namespaces: Iterable[str]) -> None:
        """From now on these watches have to deliver."""
        plurals, now = tuple(plurals), self._clock()
        for namespace in tuple(namespaces) or (None,):
            for plural in plurals:
                self._last[WatchStream(plural, namespace)] = now

    def open(self, stream: WatchStream) -> None:
        """The API server has begun to serve a watch; kopf has listed what was there before."""
        self._opened.add(stream)

    def describe_unopened(self) -> str | None:
        """Name the watches that have never begun: until then the operator learns of nothing new."""
        unopened = [str(stream) for stream in sorted(self._last) if stream not in self._opened]
        return f"the watch of {', '.join(unopened)} has not begun" if unopened else None

    def note(self, stream: WatchStream) -> None:
        """Something came through."""
        self._last[stream] = self._clock()

    def describe_silence(self, bound_seconds: float, answering_since: float | None) -> str | None:
        """Name the watches that were silent for too long although the API server answered all the time.

        An outage of the API server is no reason to restart: `answering_since` is None while it lasts.
        """
        if answering_since is None:
            return None
        now = self._clock()
        silent = {
            stream: now - max(last, answering_since)
            for stream, last in sorted(self._last.items())
            if now - max(last, answering_since) > bound_seconds
        }
        if not silent:
            return None
        told = ", ".join(f"{stream} ({seconds:.0f} s)" for stream, seconds in silent.items())
        return (
            f"nothing came through the watch of {told}, neither an event nor its end, although the API server "
            "answers. This process has to be restarted."
        )


def stream_at(path: str) -> WatchStream:
    """Which watch this is: …/namespaces/<namespace>/<plural>, or …/<plural> for all namespaces."""
    *_, before, namespace, plural = ("", "", *path.split("/"))
    return WatchStream(plural, namespace if before == "namespaces" else None)


def note_deliveries(deliveries: Deliveries) -> aiohttp.ClientMiddlewareType:
    """Make the middleware of a session that notes what comes through its watches."""

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        if request.url.query.get("watch") == "true" and response.status == 200:
            stream = stream_at(request.url.path)
            deliveries.open(stream)
            meter = _Meter(response.content, lambda: deliveries.note(stream))
            response.content = cast(aiohttp.StreamReader, meter)
        return response

    return middleware


class _Meter:
    """The body of a watch's answer; every piece that the reader takes is noted, and its end in good order."""

    def __init__(self, content: aiohttp.StreamReader, note: Callable[[], None]) -> None:
        self._content = content
        self._note = note

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever a StreamReader has)
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Read as a StreamReader does."""
        async for data in self._content.iter_chunked(size):
            self._note()
            yield data
        self._note()

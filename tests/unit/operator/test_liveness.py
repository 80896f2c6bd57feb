"""Liveness: a watch that delivers nothing is told apart from an API server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from finetune_operator.liveness import Deliveries, WatchStream, note_deliveries, stream_at

BOUND = 150.0
KINDS = ("finetunejobs", "jobs", "pods")
PODS, JOBS = WatchStream("pods", None), WatchStream("jobs", None)


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deliveries(clock: Clock) -> Deliveries:
    deliveries = Deliveries(clock)
    deliveries.expect(KINDS, ())
    return deliveries


def test_before_the_watches_begin_nothing_is_expected_of_them(clock: Clock) -> None:
    deliveries = Deliveries(clock)
    clock.now += 1000

    assert deliveries.describe_silence(BOUND, answering_since=0) is None


def test_a_watch_that_has_not_begun_is_named_until_it_has(deliveries: Deliveries) -> None:
    deliveries.open(PODS)
    assert deliveries.describe_unopened() == (
        "the watch of finetunejobs in all namespaces, jobs in all namespaces has not begun"
    )

    for plural in KINDS:
        deliveries.open(WatchStream(plural, None))
    assert deliveries.describe_unopened() is None


@pytest.mark.parametrize(
    ("silent_seconds", "answering_seconds", "complains"),
    [
        pytest.param(100, 1000, False, id="a short silence is nothing"),
        pytest.param(160, 1000, True, id="a long one, while the API server answers, is an ailment"),
        pytest.param(1000, None, False, id="while the API server is away nothing can come"),
        pytest.param(1000, 100, False, id="after an outage the watches have their time again"),
        pytest.param(1000, 160, True, id="a watch that did not come back after an outage is an ailment"),
    ],
)
def test_silence_counts_while_the_api_server_answers(
    silent_seconds: float,
    answering_seconds: float | None,
    complains: bool,
    clock: Clock,
    deliveries: Deliveries,
) -> None:
    clock.now += silent_seconds
    answering_since = None if answering_seconds is None else clock.now - answering_seconds

    assert (deliveries.describe_silence(BOUND, answering_since) is not None) is complains


def test_the_watch_that_is_silent_is_named_with_its_silence(clock: Clock, deliveries: Deliveries) -> None:
    clock.now += 163
    deliveries.note(PODS)
    deliveries.note(WatchStream("finetunejobs", None))

    told = deliveries.describe_silence(BOUND, answering_since=0)

    assert told is not None
    assert told.startswith("nothing came through the watch of jobs in all namespaces (163 s), neither")
    assert "pods" not in told


def test_each_namespace_has_its_watches(clock: Clock) -> None:
    deliveries = Deliveries(clock)
    deliveries.expect(KINDS, ("ml", "nlp"))
    clock.now += 160
    for kind in KINDS:
        deliveries.note(WatchStream(kind, "ml"))

    told = deliveries.describe_silence(BOUND, answering_since=0)

    assert told is not None
    assert told.count("namespace nlp") == 3
    assert "namespace ml" not in told


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/api/v1/pods", WatchStream("pods", None)),
        ("/api/v1/namespaces/ml/pods", WatchStream("pods", "ml")),
        ("/apis/batch/v1/jobs", WatchStream("jobs", None)),
        ("/apis/finetune.dev/v1alpha1/namespaces/ml/finetunejobs", WatchStream("finetunejobs", "ml")),
    ],
)
def test_a_watch_is_known_by_its_path(path: str, stream: WatchStream) -> None:
    assert stream_at(path) == stream


# --- what is noted, on a real connection -----------------------------------------------------------------------


class Server:
    """An API server that sends what a test puts into its queue, and answers a listing at once."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.status = 200
        self.breaks = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") != "true":
            return web.json_response({"items": []})
        response = web.StreamResponse(status=self.status)
        await response.prepare(request)
        while piece := await self.pieces.get():
            await response.write(piece)
        if self.breaks and request.transport is not None:
            request.transport.abort()
        return response


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def session(server: Server, deliveries: Deliveries) -> AsyncIterator[aiohttp.ClientSession]:
    application = web.Application()
    application.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://{}:{}".format(*runner.addresses[0][:2])
    async with aiohttp.ClientSession(url, middlewares=(note_deliveries(deliveries),)) as session:
        yield session
    await runner.cleanup()


def silent_pods(deliveries: Deliveries) -> bool:
    return "pods" in (deliveries.describe_silence(BOUND, answering_since=0) or "")


async def test_whatever_is_read_from_a_watch_is_noted(
    session: aiohttp.ClientSession, server: Server, deliveries: Deliveries, clock: Clock
) -> None:
    async with session.get("/api/v1/pods?watch=true") as response:
        assert "pods" not in (deliveries.describe_unopened() or "")
        chunks = response.content.iter_chunked(1024)
        for piece in (b'{"type":"BOOKMARK"}\n', b'{"type":"ADDED"}\n'):
            clock.now += 160
            assert silent_pods(deliveries)
            server.pieces.put_nowait(piece)
            assert await anext(chunks) == piece
            assert not silent_pods(deliveries)


async def test_what_arrives_and_nobody_reads_is_not(
    session: aiohttp.ClientSession, server: Server, deliveries: Deliveries, clock: Clock
) -> None:
    server.pieces.put_nowait(b"{}\n")
    async with session.get("/api/v1/pods?watch=true") as response:
        clock.now += 160
        while response.content.total_bytes < 3:  # noqa: ASYNC110 (a byte counter has no event)
            await asyncio.sleep(0.001)

        assert silent_pods(deliveries)


async def test_neither_a_listing_nor_a_refused_watch_proves_anything(
    session: aiohttp.ClientSession, server: Server, deliveries: Deliveries, clock: Clock
) -> None:
    clock.now += 160
    async with session.get("/api/v1/pods") as response:
        await response.read()
    server.status = 500
    server.pieces.put_nowait(b"{}\n")
    server.pieces.put_nowait(b"")
    async with session.get("/api/v1/pods?watch=true") as response:
        assert [chunk async for chunk in response.content.iter_chunked(1024)]

    assert silent_pods(deliveries)


async def test_the_end_that_the_api_server_was_asked_for_is_a_sign_of_life(
    session: aiohttp.ClientSession, server: Server, deliveries: Deliveries, clock: Clock
) -> None:
    async with session.get("/api/v1/pods?watch=true") as response:
        clock.now += 160
        server.pieces.put_nowait(b"")

        assert [chunk async for chunk in response.content.iter_chunked(1024)] == []

    assert not silent_pods(deliveries)


async def test_a_connection_that_breaks_is_none(
    session: aiohttp.ClientSession, server: Server, deliveries: Deliveries, clock: Clock
) -> None:
    async with session.get("/api/v1/pods?watch=true") as response:
        clock.now += 160
        server.breaks = True
        server.pieces.put_nowait(b"")

        with pytest.raises(aiohttp.ClientPayloadError):
            [chunk async for chunk in response.content.iter_chunked(1024)]

    assert silent_pods(deliveries)

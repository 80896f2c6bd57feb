"""kopf logs in as the rest of the operator does: same server, same credentials, read anew for every request.

The session is ours, because only in there one sees what comes through a watch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import kopf

from finetune_api.names import OPERATOR_NAME
from finetune_operator.cluster import Connection
from finetune_operator.liveness import Deliveries, note_deliveries

# kopf logs in anew whenever a token is refused; a cluster that refuses ours must not be flooded with it.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
# A login that was good for so long has nothing to do with the next one.
GOOD_SECONDS = 60.0


class Login:
    """What kopf's login handler answers with."""

    def __init__(self, connection: Callable[[], Awaitable[Connection]], deliveries: Deliveries) -> None:
        self._connection = connection
        self._deliveries = deliveries
        self._last_at = -GOOD_SECONDS
        self._pause_seconds = 0.0

    async def session(self) -> kopf.AiohttpSession:
        """Open a session; kopf closes it."""
        await asyncio.sleep(self._next_pause(time.monotonic()))
        self._last_at = time.monotonic()
        connection = await self._connection()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.tls),
            headers={"User-Agent": OPERATOR_NAME},
            middlewares=(_authorize(self._connection), note_deliveries(self._deliveries)),
        )
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=session)

    def _next_pause(self, now: float) -> float:
        """None after a login that was good for a while, else longer and longer."""
        if now - self._last_at >= GOOD_SECONDS:
            self._pause_seconds = 0.0
        else:
            self._pause_seconds = min(2 * self._pause_seconds or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        return self._pause_seconds


def _authorize(connection: Callable[[], Awaitable[Connection]]) -> aiohttp.ClientMiddlewareType:
    """The kubelet rotates the token's file: every request carries the token that is valid now."""

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        authorization = (await connection()).authorization
        if authorization:
            request.headers["Authorization"] = authorization
        return await handler(request)

    return middleware

"""Bounds what strangers can hold of a server: the number of connections, and how long each lasts in all.

Whoever sends its request byte by byte, or opens connections and says nothing, is cut off. It sits between asyncio's
transport and the server's own protocol and passes everything on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLContext
from typing import cast

from aiohttp import web

BACKLOG = 512


class ConnectionGuard:
    """Makes a server's protocols, each within the bounds."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        max_connections: int,
        max_connection_seconds: float,
    ) -> None:
        self._make_protocol = make_protocol
        self._max_connections = max_connections
        self._max_connection_seconds = max_connection_seconds
        self._open = 0

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        return _Guarded(self, self._make_protocol())

    def admit(self, transport: asyncio.Transport) -> asyncio.TimerHandle | None:
        """Count a connection in and limit its life; None where there are too many, and it is cut off."""
        if self._open >= self._max_connections:
            transport.abort()
            return None
        self._open += 1
        loop = asyncio.get_running_loop()
        return loop.call_later(self._max_connection_seconds, transport.abort)

    def release(self, limit: asyncio.TimerHandle) -> None:
        """Count a connection out."""
        limit.cancel()
        self._open -= 1


class _Guarded(asyncio.Protocol):
    def __init__(self, guard: ConnectionGuard, protocol: asyncio.Protocol) -> None:
        self._guard = guard
        self._protocol = protocol
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._limit = self._guard.admit(cast(asyncio.Transport, transport))
        if self._limit is not None:
            self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._limit is not None:
            self._guard.release(self._limit)
            self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._limit is not None:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._limit is not None else None

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class GuardedSite(web.BaseSite):
    """Listens with TLS; neither handshake nor request can take for ever."""

    def __init__(
        self,
        runner: web.BaseRunner,
        port: int,
        tls: SSLContext,
        *,
        max_connections: int,
        max_connection_seconds: float,
    ) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._port = port
        self._max_connections = max_connections
        self._max_connection_seconds = max_connection_seconds

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"https://*:{self._port}"

    async def start(self) -> None:
        """Listen on all addresses."""
        await super().start()
        server = self._runner.server
        assert server is not None
        guard = ConnectionGuard(
            server,
            max_connections=self._max_connections,
            max_connection_seconds=self._max_connection_seconds,
        )
        self._server = await asyncio.get_running_loop().create_server(
            guard,
            None,
            self._port,
            ssl=self._ssl_context,
            backlog=BACKLOG,
            ssl_handshake_timeout=self._max_connection_seconds,
            ssl_shutdown_timeout=self._max_connection_seconds,
        )

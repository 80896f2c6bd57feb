"""A proxy before a real API server that goes wrong as a test tells it to, and remembers what it was asked.

    with ApiProxy(control_plane) as proxy:
        kubeconfig = proxy.write_kubeconfig(installation.kubeconfig, folder)   # for the program under test
        proxy.answer(503, headers={"Retry-After": "1"}, times=3, to=requests("POST", "/jobs"))
        proxy.reset(to=requests("PUT", "/status"), carried_out=True)    # the answer gets lost
        proxy.delay(2.0, to=requests("GET", "/pods"))
        proxy.silence_open_watches(to=watches("/pods"))     # these connections are dead; new ones work
        proxy.swallow(to=watches("/pods"))                  # new ones too: open, and nothing ever comes
        proxy.expire_open_watches(to=watches())             # 410: their resource version is too old
        proxy.heal()                                        # no fault is left; connections that died stay dead
        [each for each in proxy.seen if each.method != "GET"]

It speaks plain HTTP on loopback and passes everything on, watches chunk by chunk, with the caller's own Authorization;
it has no rights of its own, so only callers with a token can use it. It runs in a thread: tests need no event loop.
Faults are tried in the order in which they were given; the first one that matches and is not used up happens.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web

from devcluster import ControlPlane

# The last two differ from one side of the proxy to the other, the rest belongs to one connection.
NOT_PASSED_ON = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})
T = TypeVar("T")
Match = Callable[[web.Request], bool]


def requests(method: str = "", path: str = "") -> Match:
    """Match requests by method, and by a regular expression that is searched for in the path; watches are none."""

    def matches(request: web.Request) -> bool:
        right_method = not method or request.method == method
        return right_method and not is_watch(request) and bool(re.search(path, request.path))

    return matches


def watches(path: str = "") -> Match:
    """Match watches by a regular expression that is searched for in the path."""
    return lambda request: is_watch(request) and bool(re.search(path, request.path))


def is_watch(request: web.Request) -> bool:
    """Whether a request is a watch."""
    return request.query.get("watch") == "true"


@dataclass(frozen=True)
class Seen:
    """One request that came to the proxy."""

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    """What the caller was answered; 0 where its connection was reset or is left without an answer."""
    at: float
    """time.monotonic() when the answer began."""

    @property
    def is_watch(self) -> bool:
        """Whether it is a watch."""
        return self.query.get("watch") == "true"


@dataclass
class Fault:
    """What happens to requests that match, so many times; `act` answers, or returns None for what goes on."""

    matches: Match
    act: Callable[[web.Request], Awaitable[web.StreamResponse | None]]
    left: float
    happened: int = 0


@dataclass
class _OpenWatch:
    request: web.Request
    response: web.StreamResponse
    is_silent: bool = False


class ApiProxy:
    """The proxy; as a context manager it listens on a port of its own."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._upstream = control_plane.endpoints.apiserver
        self._tls = ssl.create_default_context(cafile=str(control_plane.credentials.authority.certificate))
        self._faults: list[Fault] = []
        self._open_watches: list[_OpenWatch] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api proxy", daemon=True)
        self.seen: list[Seen] = []
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def write_kubeconfig(self, like: Path, folder: Path) -> Path:
        """Write a kubeconfig that has the user of another one (JSON, with a token) and leads through the proxy."""
        content = json.loads(like.read_text())
        for each in content["clusters"]:
            each["cluster"] = {"server": self.url}
        path = folder / f"through-proxy-{self.url.rpartition(':')[2]}.kubeconfig"
        path.write_text(json.dumps(content))
        return path

    # --- what goes wrong ---------------------------------------------------------------------------------------

    def answer(
        self,
        status: int,
        *,
        to: Match,
        times: float = 1,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> Fault:
        """Answer with a Status object instead of passing the request on."""

        async def act(request: web.Request) -> web.StreamResponse:
            message = f"the proxy says {status}"
            body = {
                "kind": "Status",
                "apiVersion": "v1",
                "code": status,
                "reason": reason,
                "message": message,
            }
            return self._note(request, web.json_response(body, status=status, headers=headers))

        return self._add(to, act, times)

    def reset(self, *, to: Match, times: float = 1, carried_out: bool = False) -> Fault:
        """Reset the connection: before the request was passed on, or after it was carried out."""

        async def act(request: web.Request) -> web.StreamResponse:
            if carried_out:
                async with self._send(request) as answer:
                    await answer.read()
            _reset(request)
            self._note(request, None)
            return web.Response(status=500)

        return self._add(to, act, times)

    def delay(self, seconds: float, *, to: Match, times: float = math.inf) -> Fault:
        """Pass the request on so much later."""

        async def act(_: web.Request) -> None:
            await asyncio.sleep(seconds)

        return self._add(to, act, times)

    def swallow(self, *, to: Match, times: float = math.inf) -> Fault:
        """Keep the connection open and let nothing come through it; watches that are open fall silent as well."""

        async def act(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            if is_watch(request):
                response.enable_chunked_encoding()
                await response.prepare(request)
            self._note(request, response if is_watch(request) else None)
            await asyncio.Event().wait()
            return response

        self.silence_open_watches(to=to)
        return self._add(to, act, times)

    def silence_open_watches(self, *, to: Match) -> int:
        """Let nothing come any more through the watches that are open now; returns how many there are."""
        silenced = [watch for watch in tuple(self._open_watches) if to(watch.request)]
        for watch in silenced:
            watch.is_silent = True
        return len(silenced)

    def expire_open_watches(self, *, to: Match) -> int:
        """Tell those who watch that their resource version is too old; returns how many there are."""
        expired = [watch for watch in tuple(self._open_watches) if to(watch.request)]
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        for watch in expired:
            self._run(watch.response.write(line))
        return len(expired)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self._faults.clear()

    def _add(
        self, to: Match, act: Callable[[web.Request], Awaitable[web.StreamResponse | None]], times: float
    ) -> Fault:
        fault = Fault(to, act, times)
        self._faults.append(fault)
        return fault

    # --- passing on --------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        for fault in tuple(self._faults):
            if fault.left > 0 and fault.matches(request):
                fault.left -= 1
                fault.happened += 1
                response = await fault.act(request)
                if response is not None:
                    return response
        try:
            async with self._send(request) as answer:
                return await self._pass_back(request, answer)
        except (aiohttp.ClientError, OSError):
            # The API server is away: nobody listens, or it went while it spoke.
            _reset(request)
            self._note(request, None)
            return web.Response(status=502)

    def _send(self, request: web.Request) -> aiohttp.client._RequestContextManager:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in NOT_PASSED_ON}
        return self._session.request(
            request.method,
            f"{self._upstream}{request.raw_path}",
            headers=headers,
            data=request.content if request.can_read_body else None,
        )

    async def _pass_back(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {key: value for key, value in answer.headers.items() if key.lower() not in NOT_PASSED_ON}
        if not is_watch(request):
            body = await answer.read()
            return self._note(request, web.Response(status=answer.status, headers=headers, body=body))
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        self._note(request, response)
        watch = _OpenWatch(request, response)
        self._open_watches.append(watch)
        try:
            async for chunk in answer.content.iter_any():
                if not watch.is_silent:
                    await response.write(chunk)
            if watch.is_silent:
                # Of a dead connection one does not even hear that it has ended.
                await asyncio.Event().wait()
        finally:
            self._open_watches.remove(watch)
        return response

    def _note(self, request: web.Request, response: web.StreamResponse | None) -> web.StreamResponse:
        status = response.status if response is not None else 0
        self.seen.append(Seen(request.method, request.path, dict(request.query), status, time.monotonic()))
        return response or web.Response(status=500)

    # --- its own life ------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        application = web.Application(client_max_size=64 * 2**20)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A caller that has gone ends its request here and at the API server.
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()


def _reset(request: web.Request) -> None:
    """Close the caller's connection as a machine does that knows nothing of it."""
    transport = request.transport
    if transport is None:
        return
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()

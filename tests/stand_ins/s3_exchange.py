"""One request's way through the S3 proxy: passing it on and its answer back, and how that can fail.

An Exchange offers what faults are made of; which of it happens to which request is decided in s3_proxy.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, unquote

from tests.stand_ins.http_streams import BROKEN, Framing, Head, Stream, request_framing, response_framing

BURST_SECONDS = 0.05
Match = Callable[["Request"], bool]


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    path: str
    """Decoded: /bucket/key."""
    query_string: str
    head: Head

    @classmethod
    def parse(cls, head: Head) -> Request:
        """Raises ValueError for a first line that is none of HTTP."""
        method, target, _ = head.first_line.split(" ")
        path, _, query_string = target.partition("?")
        return cls(method, unquote(path), query_string, head)

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in lower case."""
        return self.head.headers

    @property
    def query(self) -> Mapping[str, str]:
        """Parameters without a value have an empty one."""
        named = parse_qs(self.query_string, keep_blank_values=True)
        return {name: values[0] for name, values in named.items()}

    @property
    def expects_continue(self) -> bool:
        """Whether the caller keeps the body back until it is asked for, or for a while."""
        return self.headers.get("expect", "").lower() == "100-continue"


def requests(method: str = "", path: str = "", query: str = "") -> Match:
    """Match by method, and by regular expressions that are searched for in the path and in the query string.

    The parts of an upload, for one, are `requests("PUT", "/key", query="uploadId=")`.
    """

    def matches(request: Request) -> bool:
        return (
            (not method or request.method == method)
            and bool(re.search(path, request.path))
            and bool(re.search(query, request.query_string))
        )

    return matches


@dataclass(frozen=True)
class Seen:
    """One request that came to the proxy."""

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    """What the caller was answered; 0 where its connection was cut or is left without an answer."""
    at: float
    """time.monotonic() when the request came."""
    request_bytes: int
    """Of the body, as far as it was read."""
    response_bytes: int


class Bandwidth:
    """One token bucket for all connections; whoever comes first takes first."""

    def __init__(self) -> None:
        self._bytes_per_second = math.inf
        self._taken_until = 0.0

    def set(self, bytes_per_second: float | None) -> None:
        """Let so much through from now on; None is no limit."""
        self._bytes_per_second = math.inf if bytes_per_second is None else bytes_per_second
        self._taken_until = 0.0

    async def take(self, size: int) -> None:
        """Wait until so many bytes may pass."""
        now = time.monotonic()
        self._taken_until = max(self._taken_until, now - BURST_SECONDS) + size / self._bytes_per_second
        if self._taken_until > now:
            await asyncio.sleep(self._taken_until - now)


@dataclass(frozen=True)
class Surroundings:
    """What all exchanges of a proxy share."""

    uploads: Bandwidth
    downloads: Bandwidth
    note: Callable[[Seen], None]


class Exchange:
    """One request; whoever handles it calls exactly one of `answer`, `pass_on`, `lose_answer`, `hang`, `reset`."""

    def __init__(
        self,
        request: Request,
        caller: Stream,
        connect: Callable[[], Awaitable[Stream]],
        surroundings: Surroundings,
    ) -> None:
        self.request = request
        self.keeps_connection = False
        """Whether the caller can send its next request through the same connection."""
        self._caller = caller
        self._connect = connect
        self._surroundings = surroundings
        self._at = time.monotonic()
        self._request_bytes = 0
        self._is_asked_for_body = not request.expects_continue
        self._is_body_read = False
        self._is_noted = False

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer instead of the server."""
        if not self.request.expects_continue:
            async for _ in self._request_body():
                pass
        # Without its 100 nobody knows whether the body is still to come or the next request.
        closing = {"Connection": "close"} if self.request.expects_continue else {}
        fields = {**headers, "Content-Length": str(len(body)), **closing}
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items())]
        sent = b"" if self.request.method == "HEAD" else body
        self.note(status, len(sent))
        await self._caller.write("\r\n".join([*lines, "", ""]).encode() + sent)
        self.keeps_connection = self._is_body_read

    async def pass_on(self, *, cut_after_bytes: int = sys.maxsize) -> None:
        """Let the server answer; the answer's body is cut after so many bytes."""
        async with self._passed_on() as (server, head):
            framing = self._response_framing(head)
            held, size, is_cut = head.raw, 0, False
            async for piece in server.read_body(framing):
                allowed = piece[: cut_after_bytes - size]
                await self._surroundings.downloads.take(len(allowed))
                await self._caller.write(held)
                held, size = allowed, size + len(allowed)
                if is_cut := size == cut_after_bytes:
                    break
            # Noted before the last byte leaves: whoever has it all can look.
            self.note(head.status, size)
            await self._caller.write(held)
        is_last = head.is_last or framing == "until_closed" or is_cut
        self.keeps_connection = self._is_body_read and not is_last

    async def lose_answer(self) -> None:
        """Let the server carry the request out, and reset the connection instead of saying so."""
        async with self._passed_on() as (server, head):
            async for _ in server.read_body(self._response_framing(head)):
                pass
        self.reset()

    async def hang(self) -> None:
        """Take what comes and never answer."""
        self.note(0)
        async for _ in self._caller.read_body("until_closed"):
            pass

    def reset(self) -> None:
        """Reset the connection."""
        self.note(0)
        self._caller.reset()

    def note(self, status: int, response_bytes: int = 0) -> None:
        """Remember the request, once."""
        if self._is_noted:
            return
        self._is_noted = True
        request, size = self.request, self._request_bytes
        seen = Seen(request.method, request.path, request.query, status, self._at, size, response_bytes)
        self._surroundings.note(seen)

    @contextlib.asynccontextmanager
    async def _passed_on(self) -> AsyncIterator[tuple[Stream, Head]]:
        server = await self._connect()
        await server.write(self.request.head.raw)
        sending = asyncio.create_task(self._send_body(server))
        try:
            yield server, await self._read_head(server)
            if self._is_asked_for_body:
                await sending
        finally:
            sending.cancel()
            await asyncio.wait([sending])  # two may not wait for the caller's bytes at once

    async def _read_head(self, server: Stream) -> Head:
        while head := await server.read_head():
            if head.status >= 200:
                return head
            self._is_asked_for_body |= head.status == HTTPStatus.CONTINUE
            await self._caller.write(head.raw)
        raise EOFError("the server closed the connection instead of answering")

    async def _send_body(self, server: Stream) -> None:
        try:
            async for piece in self._request_body():
                await server.write(piece)
        except BROKEN:
            # The caller went, or the server; a request that is not whole must not look as if it were.
            server.reset()

    async def _request_body(self) -> AsyncIterator[bytes]:
        async for piece in self._caller.read_body(request_framing(self.request.head)):
            self._request_bytes += len(piece)
            await self._surroundings.uploads.take(len(piece))
            yield piece
        self._is_body_read = True

    def _response_framing(self, head: Head) -> Framing:
        return response_framing(head, self.request.method)

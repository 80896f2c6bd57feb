"""HTTP/1.1 as it goes over the wire: heads, and bodies piece by piece, every byte as it came.

S3 requests are signed over their headers and often over their bodies, so a proxy before an S3 server may not write
them anew. Here a message is read just far enough to know where it ends. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal

PIECE_BYTES = 64 * 1024
HEAD_LIMIT_BYTES = 128 * 1024
"""For StreamReader, which reads at most twice as much ahead."""
LINGER_SECONDS = 5.0
BROKEN = (EOFError, OSError, ValueError, asyncio.LimitOverrunError)
"""What reading and writing raise: a message was cut, the connection is gone, or this is no HTTP."""

Framing = int | Literal["chunked", "until_closed"]
"""Where a body ends: after so many bytes, after its last chunk, or with its connection."""


@dataclass(frozen=True)
class Head:
    """A request or a response up to the empty line."""

    raw: bytes
    first_line: str
    headers: Mapping[str, str]
    """By their names in lower case."""

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Read a head that ends with its empty line."""
        first_line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        named = (line.partition(":") for line in lines)
        return cls(raw, first_line, {name.strip().lower(): value.strip() for name, _, value in named})

    @property
    def status(self) -> int:
        """A response's status."""
        return int(self.first_line.split(" ", 2)[1])

    @property
    def is_last(self) -> bool:
        """Whether the sender says that nothing comes after this message."""
        return self.headers.get("connection", "").lower() == "close"


def request_framing(head: Head) -> Framing:
    """Where a request's body ends."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        return "chunked"
    return int(head.headers.get("content-length", 0))


def response_framing(head: Head, method: str) -> Framing:
    """Where the body of the response to such a request ends."""
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if "transfer-encoding" in head.headers or "content-length" in head.headers:
        return request_framing(head)
    return "until_closed"


@dataclass(frozen=True, eq=False)
class Stream:
    """One connection; its methods raise BROKEN."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, host: str, port: int) -> Stream:
        """Open a connection."""
        return cls(*await asyncio.open_connection(host, port, limit=HEAD_LIMIT_BYTES))

    @classmethod
    async def take(cls, connection: socket.socket) -> Stream:
        """Read and write a connection that is open."""
        return cls(*await asyncio.open_connection(sock=connection, limit=HEAD_LIMIT_BYTES))

    async def read_head(self) -> Head | None:
        """Read a message's head; None where the connection ends instead."""
        try:
            return Head.parse(await self.reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None

    async def read_body(self, framing: Framing) -> AsyncIterator[bytes]:
        """Read a body, with the lines around its chunks if it has any."""
        if framing == "chunked":
            pieces = self._read_chunks()
        elif framing == "until_closed":
            pieces = self._read_all()
        else:
            pieces = self._read_bytes(framing)
        async for piece in pieces:
            yield piece

    async def _read_all(self) -> AsyncIterator[bytes]:
        while piece := await self.reader.read(PIECE_BYTES):
            yield piece

    async def _read_bytes(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self.reader.read(min(left, PIECE_BYTES))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece

    async def _read_chunks(self) -> AsyncIterator[bytes]:
        size = None
        while size != 0:
            line = await self.reader.readuntil(b"\r\n")
            yield line
            size = int(line.partition(b";")[0], 16)
            if size:
                async for piece in self._read_bytes(size + len(b"\r\n")):
                    yield piece
        line = b""
        while line != b"\r\n":  # the trailer
            line = await self.reader.readuntil(b"\r\n")
            yield line

    async def write(self, data: bytes) -> None:
        """Send, and wait while the other side takes nothing more."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close the connection as a machine does that knows nothing of it."""
        transport = self.writer.transport
        if not transport.is_closing():
            reset_when_closed(transport.get_extra_info("socket"))
        transport.abort()

    async def close(self) -> None:
        """Close the connection when the other side has read everything."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(LINGER_SECONDS):
                self.writer.write_eof()
                # A socket that is closed with something unread in it resets, and what it sent is lost.
                async for _ in self._read_all():
                    pass
        self.writer.close()


def reset_when_closed(connection: socket.socket) -> None:
    """Let the end of the connection, whoever closes it, be a reset."""
    with contextlib.suppress(OSError):  # it has ended already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

"""A proxy before a real S3 server that goes wrong as a test tells it to, and remembers what it was asked.

    with S3Proxy(s3_server.endpoint) as proxy:
        store = ObjectStore.open(Store(endpoint=proxy.url))
        proxy.answer(503, code="SlowDown", to=requests("PUT", "/checkpoints/"), times=3)
        proxy.answer(503, code="SlowDown", to=requests(), share=0.05)       # one request in twenty, on and on
        proxy.reset(to=requests("POST", query="uploadId="), carried_out=True)       # the answer gets lost
        proxy.delay(0.2, to=requests("GET"))
        proxy.hang(to=requests("HEAD"))                     # takes the request and never answers
        proxy.truncate(1000, to=requests("GET", "/weights"))       # 1000 bytes of the body, then the end
        proxy.limit(10e6, downloads=50e6)                   # bytes a second, over all connections
        pause = proxy.pause(to=requests("PUT", "/manifest.json"))
        pause.reached()                                     # a writer is about to write it, and waits
        pause.release()
        proxy.outage(5.0)                                   # nobody listens, and what was open is cut
        proxy.heal()                                        # no outage and no fault is left
        assert proxy.count("PUT", "/checkpoints/") == 2

It speaks plain HTTP and passes every byte on as it came, so signatures stay right; it has no keys of its own. It runs in
a thread, and its methods may be called from any. Faults are tried in the order in which they were given; the first one
that matches and is not used up happens. After a delay or a pause the following ones are tried as well. Each fault throws
dice of its own, which depend on the seed only: the n-th request that it matches fares the same in every run.

As a process of its own, for benchmarks and for pods, it goes wrong by its command line:

    python -m tests.stand_ins.s3_proxy --upstream http://127.0.0.1:9000 --port 9001 --share-503 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import signal
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.stand_ins.http_streams import BROKEN, Stream, reset_when_closed
from tests.stand_ins.s3_exchange import Bandwidth, Exchange, Request, Seen, Surroundings, requests
from tests.stand_ins.s3_faults import Fault, Faults, Pause

__all__ = ["Fault", "Pause", "Request", "S3Proxy", "Seen", "requests"]

T = TypeVar("T")


class S3Proxy(Faults):
    """The proxy; as a context manager it listens. Port 0 is any free one."""

    def __init__(
        self,
        upstream: str,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        remembers: bool = True,
    ) -> None:
        self._upstream = _host_and_port(upstream)
        self._port = _ReservedPort(address, port)
        super().__init__(seed, asyncio.new_event_loop())
        self._thread = threading.Thread(target=self._loop.run_forever, name="s3 proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._end_of_outage: asyncio.TimerHandle | None = None
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self.seen: list[Seen] = []
        """In the order of the answers. Empty for a proxy that remembers nothing."""
        note = self.seen.append if remembers else lambda _: None
        self._surroundings = Surroundings(Bandwidth(), Bandwidth(), note)
        self.url = f"http://{address}:{self._port.number}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
        self._port.free()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests had this method and a path in which the regular expression is found."""
        return sum(
            (not method or each.method == method) and bool(re.search(path, each.path))
            for each in tuple(self.seen)
        )

    # --- the link to the server ---------------------------------------------------------------------------------

    def limit(self, uploads: float | None = None, *, downloads: float | None = None) -> None:
        """Let so many bytes of bodies through in a second, over all connections; None is no limit."""
        for bandwidth, rate in (
            (self._surroundings.uploads, uploads),
            (self._surroundings.downloads, downloads),
        ):
            if rate is not None and rate <= 0:
                raise ValueError(f"a limit of {rate} bytes/s lets nothing through: use hang() or outage()")
            self._loop.call_soon_threadsafe(bandwidth.set, rate)

    def outage(self, seconds: float | None = None) -> None:
        """Refuse connections and cut those that are open; for so long, or until heal()."""
        self._run(self._fall_silent(seconds))

    def heal(self) -> None:
        """End an outage, and let nothing go wrong any more; what is paused goes on, and limits stay."""
        self._clear()
        self._run(self._start())

    # --- passing on --------------------------------------------------------------------------------------------

    async def _serve(self, connection: socket.socket) -> None:
        caller = await Stream.take(connection)
        link = _Link(*self._upstream)
        try:
            while (head := await caller.read_head()) is not None:
                exchange = Exchange(Request.parse(head), caller, link.connect, self._surroundings)
                try:
                    await self._handle(exchange)
                finally:
                    exchange.note(0)
                if not exchange.keeps_connection:
                    break
            link.cut()
            await caller.close()
        except BROKEN:
            # The server is away, or the caller: whoever is left learns it as if there were no proxy.
            caller.reset()
        finally:
            link.cut()
            caller.writer.transport.abort()

    async def _handle(self, exchange: Exchange) -> None:
        for fault in tuple(self._faults):
            if fault.strikes(exchange.request):
                await fault.act(exchange)
                if fault.is_final:
                    return
        await exchange.pass_on()

    # --- its own life ------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        self._listen()

    def _listen(self) -> None:
        self._forget_end_of_outage()
        if self._listener is None:
            self._listener = self._port.listen()
            self._loop.add_reader(self._listener, self._accept, self._listener)

    async def _fall_silent(self, seconds: float | None = None) -> None:
        self._forget_end_of_outage()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        self._listener = None
        if seconds is not None:
            self._end_of_outage = self._loop.call_later(seconds, self._listen)
        tasks = tuple(self._open)
        for task, connection in self._open.items():
            reset_when_closed(connection)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        # Not asyncio.Server: when it is closed it forgets connections that it is accepting, and they hang.
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the caller has gone again
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._open[task] = connection
        task.add_done_callback(lambda task: self._open.pop(task).close())

    def _forget_end_of_outage(self) -> None:
        if self._end_of_outage is not None:
            self._end_of_outage.cancel()
        self._end_of_outage = None

    async def _stop(self) -> None:
        await self._fall_silent()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


class _ReservedPort:
    """A port that stays ours while nobody listens on it: connections are refused, and no other program gets it."""

    def __init__(self, address: str, number: int) -> None:
        self._reservation = _bound_socket(address, number)
        self.address = address
        self.number: int = self._reservation.getsockname()[1]

    def listen(self) -> socket.socket:
        """Listen, on a second socket: the first one could not stop again."""
        listener = _bound_socket(self.address, self.number)
        listener.setblocking(False)
        listener.listen(512)
        return listener

    def free(self) -> None:
        """Give the port back."""
        self._reservation.close()


def _bound_socket(address: str, number: int) -> socket.socket:
    bound = socket.socket()
    try:
        # It allows a second socket on the port as long as none listens.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, number))
    except OSError:
        bound.close()
        raise
    return bound


class _Link:
    """The connection to the server that one caller's connection has for itself."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._stream: Stream | None = None

    async def connect(self) -> Stream:
        """The connection, a new one where the server has closed the old one meanwhile."""
        if self._stream is None or self._stream.reader.at_eof():
            self.cut()
            self._stream = await Stream.connect(*self._address)
        return self._stream

    def cut(self) -> None:
        if self._stream is not None:
            self._stream.writer.transport.abort()


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None or parts.path.strip("/"):
        raise ValueError(f"{url!r} is no plain S3 endpoint such as http://127.0.0.1:9000")
    return parts.hostname, parts.port or 80


# --- a process of its own --------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there is a second thread, which inherits it
    with S3Proxy(
        options.upstream, address=options.address, port=options.port, seed=options.seed, remembers=False
    ) as proxy:
        proxy.limit(options.bytes_per_second, downloads=options.download_bytes_per_second)
        if options.latency_seconds:
            proxy.delay(options.latency_seconds, to=requests())
        proxy.answer(503, code="SlowDown", to=requests(), times=math.inf, share=options.share_503)
        proxy.reset(to=requests(), times=math.inf, share=options.share_reset)
        print(f"{proxy.url} stands before {options.upstream}", flush=True)
        signal.sigwait(ends)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s3_proxy", description="A proxy before an S3 server that goes wrong."
    )
    parser.add_argument("--upstream", required=True, help="the S3 server, such as http://127.0.0.1:9000")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=0, help="0: any free one; it is printed")
    parser.add_argument("--bytes-per-second", type=float, help="of uploads, over all connections")
    parser.add_argument("--download-bytes-per-second", type=float, help="of downloads, over all connections")
    parser.add_argument("--latency-seconds", type=float, default=0.0, help="before each request is passed on")
    parser.add_argument("--share-503", type=float, default=0.0, help="of requests that are told to slow down")
    parser.add_argument(
        "--share-reset", type=float, default=0.0, help="of requests whose connection is reset"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shares")
    return parser


if __name__ == "__main__":
    main()

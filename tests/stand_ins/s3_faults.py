"""What can go wrong with a request to the S3 proxy, and whether it does; s3_proxy.py shows how it is told."""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.stand_ins.s3_exchange import Exchange, Match, Request


@dataclass(eq=False)
class Fault:
    """What happens to requests that match, so many times, or to a share of them."""

    matches: Match
    act: Callable[[Exchange], Awaitable[None]]
    left: float
    share: float
    dice: random.Random
    is_final: bool = True
    """Whether the request has had its answer, or never will."""
    happened: int = 0

    def strikes(self, request: Request) -> bool:
        """Decide whether it happens to this request, and count it."""
        if self.left <= 0 or not self.matches(request) or self.dice.random() >= self.share:
            return False
        self.left -= 1
        self.happened += 1
        return True

    def stop(self) -> None:
        """Let it happen no more."""
        self.left = 0


@dataclass(eq=False)
class Pause:
    """Requests that are held up; who sent one may die meanwhile, and it still arrives on release."""

    fault: Fault
    _loop: asyncio.AbstractEventLoop
    _arrived: threading.Event
    _released: asyncio.Event

    @property
    def happened(self) -> int:
        """How many requests were held up."""
        return self.fault.happened

    def reached(self, within_seconds: float = 30) -> None:
        """Wait until a request is held up. Raises TimeoutError."""
        if not self._arrived.wait(within_seconds):
            raise TimeoutError(f"no request came to the pause in {within_seconds} s")

    def release(self) -> None:
        """Let the requests go on, and hold up no more."""
        self.fault.stop()
        self._loop.call_soon_threadsafe(self._released.set)


class Faults:
    """The faults that were asked for, in this order. The methods may be called from any thread."""

    def __init__(self, seed: int, loop: asyncio.AbstractEventLoop) -> None:
        self._seed = seed
        self._loop = loop
        self._faults: list[Fault] = []
        self._count_of_faults = 0
        self._pauses: list[Pause] = []

    def answer(
        self,
        status: int,
        *,
        code: str,
        to: Match,
        times: float | None = None,
        share: float = 1,
        retry_after_seconds: int | None = None,
    ) -> Fault:
        """Answer with an S3 error instead of passing the request on: once, or as often as its share says."""
        headers = {"Content-Type": "application/xml"}
        if retry_after_seconds is not None:
            headers["Retry-After"] = str(retry_after_seconds)

        async def act(exchange: Exchange) -> None:
            await exchange.answer(status, headers, _error_body(code, exchange.request.path))

        return self._add(to, act, times, share)

    def reset(
        self, *, to: Match, times: float | None = None, share: float = 1, carried_out: bool = False
    ) -> Fault:
        """Reset the connection, once or for a share: before the request is passed on, or after it was carried out."""

        async def act(exchange: Exchange) -> None:
            if carried_out:
                await exchange.lose_answer()
            else:
                exchange.reset()

        return self._add(to, act, times, share)

    def truncate(self, after_bytes: int, *, to: Match, times: float | None = None, share: float = 1) -> Fault:
        """Close the connection after so many bytes of the answer's body, once or for a share."""

        async def act(exchange: Exchange) -> None:
            await exchange.pass_on(cut_after_bytes=after_bytes)

        return self._add(to, act, times, share)

    def hang(self, *, to: Match, times: float = math.inf, share: float = 1) -> Fault:
        """Take the request and never answer; the server does not get it."""
        return self._add(to, Exchange.hang, times, share)

    def delay(self, seconds: float, *, to: Match, times: float = math.inf, share: float = 1) -> Fault:
        """Pass the request on so much later."""

        async def act(_: Exchange) -> None:
            await asyncio.sleep(seconds)

        return self._add(to, act, times, share, is_final=False)

    def pause(self, *, to: Match, times: float = 1) -> Pause:
        """Hold the next request up until it is released; those after it pass, unless `times` says more."""
        arrived, released = threading.Event(), asyncio.Event()

        async def act(_: Exchange) -> None:
            arrived.set()
            await released.wait()

        pause = Pause(self._add(to, act, times, 1, is_final=False), self._loop, arrived, released)
        self._pauses.append(pause)
        return pause

    def _clear(self) -> None:
        self._faults.clear()
        while self._pauses:
            self._pauses.pop().release()

    def _add(
        self,
        to: Match,
        act: Callable[[Exchange], Awaitable[None]],
        times: float | None,
        share: float,
        *,
        is_final: bool = True,
    ) -> Fault:
        if times is None:
            times = 1 if share == 1 else math.inf
        self._count_of_faults += 1
        dice = random.Random(f"{self._seed} {self._count_of_faults}")
        fault = Fault(to, act, times, share, dice, is_final)
        self._faults.append(fault)
        return fault


def _error_body(code: str, resource: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(code)}</Code><Message>the proxy says {escape(code)}</Message>"
        f"<Resource>{escape(resource)}</Resource><RequestId>s3-proxy</RequestId></Error>"
    ).encode()

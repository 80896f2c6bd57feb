"""One operator acts: it takes a Lease before it watches anything, renews it, and asks it before every write.

kopf has no leader election. As in client-go, clocks of two machines are never compared: who waits takes the Lease over
when nothing in it has changed for its duration by the waiter's own clock, and the holder trusts it for less than that.
Where the API server is away the holder only stops to write; where somebody else holds the Lease, it ends itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from finetune_operator.api_errors import ClusterError, Conflict, NotFound, Unavailable
from finetune_operator.kubernetes_objects import JsonObject
from finetune_operator.times import utc_now

EXIT_LEASE_LOST = 3
# A fresh process may reach an API server that this one cannot: its address or its authority may have changed.
LONGEST_SILENCE_SECONDS = 600.0
FIRST_RETRY_SECONDS = 0.5

logger = logging.getLogger(__name__)


class Leases(Protocol):
    """What reads and writes Leases."""

    async def read_lease(self, namespace: str, name: str, timeout_seconds: float = ...) -> JsonObject:
        """Read a Lease. Raises NotFound."""

    async def update_lease(self, manifest: JsonObject, timeout_seconds: float = ...) -> JsonObject:
        """Replace a Lease that has not changed since it was read. Raises Conflict, NotFound."""


@dataclass(frozen=True)
class LeaseTerms:
    """How often what is done, all of it following from one number."""

    duration_seconds: float

    @property
    def renew_every_seconds(self) -> float:
        """Twice within the time the holder trusts it, so that one renewal may fail."""
        return self.duration_seconds * 0.4

    @property
    def trusted_seconds(self) -> float:
        """The holder stops to write this long after a renewal was sent: before anybody else may take over."""
        return self.duration_seconds * 0.8

    @property
    def look_every_seconds(self) -> float:
        """How often one who waits looks at it: takeover takes the duration and one such pause at most."""
        return self.duration_seconds * 0.25

    @property
    def request_timeout_seconds(self) -> float:
        """Short enough for a second try before the holder stops to trust it."""
        return self.duration_seconds * 0.3


def make_identity(pod_name: str) -> str:
    """A holder's name: two processes never share one, and a person finds the pod by it."""
    return f"{pod_name or os.uname().nodename}_{secrets.token_hex(4)}"


def steady_seconds() -> float:
    """A clock that nobody sets and that, on Linux, also counts while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def end_this_process() -> None:
    """End at once: whatever still runs in here must not write any more."""
    logging.shutdown()
    os._exit(EXIT_LEASE_LOST)


class Lease:
    """The Lease as one process sees it. It is the gate of every write."""

    def __init__(
        self,
        leases: Leases,
        namespace: str,
        name: str,
        terms: LeaseTerms,
        pod_name: str,
        *,
        clock: Callable[[], float] = steady_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        end_process: Callable[[], None] = end_this_process,
    ) -> None:
        self._leases = leases
        self._namespace = namespace
        self._name = name
        self._terms = terms
        self._pod_name = pod_name
        self._identity = make_identity(pod_name)
        self._clock = clock
        self._sleep = sleep
        self._end_process = end_process
        self._found: JsonObject = {}
        self._changed_at = 0.0
        self._renewed_at: float | None = None
        self._answered_at = clock()
        self._answering_since: float | None = None
        self.on_contact: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"Lease {self._namespace}/{self._name}"

    @property
    def holder(self) -> str:
        """Who held it when it was last looked at."""
        return _holder(self._found)

    @property
    def answering_since(self) -> float | None:
        """Since when every renewal has been answered, by the steady clock; None after one was not."""
        return self._answering_since

    def check(self) -> None:
        """Return if this process may write now. Raises Unavailable where the Lease was not renewed in time."""
        if self._renewed_at is None:
            raise Unavailable(f"nothing is written without {self}")
        age_seconds = self._clock() - self._renewed_at
        if age_seconds > self._terms.trusted_seconds:
            raise Unavailable(
                f"{self} could not be renewed for {age_seconds:.0f} s; nothing is written until it is"
            )

    # --- taking it ---------------------------------------------------------------------------------------------

    async def acquire(self) -> None:
        """Wait until this process holds it."""
        told = ""
        while not await self._try("take", self._take):
            waiting_for = f"waiting for {self}, held by {self.holder}" if self.holder else ""
            if waiting_for and waiting_for != told:
                logger.info("%s", waiting_for)
                told = waiting_for
            await self._sleep(self._pause_before_next_look())
        logger.info("%s is held by %s, this process", self, self._identity)

    async def _take(self) -> bool:
        found = await self._read()
        self._look_at(found)
        if not self._is_free(found):
            return False
        try:
            await self._claim(found)
        except Conflict:
            return False  # Another one was quicker.
        return True

    def _look_at(self, found: JsonObject) -> None:
        """Remember when the Lease was last seen to change, by our own clock."""
        if found.get("spec") != self._found.get("spec"):
            self._changed_at = self._clock()
        self._found = found

    def _is_free(self, found: JsonObject) -> bool:
        holder = _holder(found)
        if not holder or holder == self._identity:
            return True  # Given back, or the answer to our own request got lost.
        if self._pod_name and holder.rpartition("_")[0] == self._pod_name:
            return (
                True  # Of the process that ran in this very pod before us. It is dead, or we were not here.
            )
        return self._clock() >= self._changed_at + _duration_seconds(found)

    def _pause_before_next_look(self) -> float:
        """A steady pace, but not beyond the moment at which the Lease may be taken over."""
        pace = self._terms.look_every_seconds * random.uniform(0.8, 1.0)  # noqa: S311
        left = self._changed_at + _duration_seconds(self._found) - self._clock()
        return min(pace, left + 0.05) if self._found and left > 0 else pace

    # --- keeping it --------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Renew it for ever; end the process when somebody else holds it."""
        while True:
            await self._sleep(self._terms.renew_every_seconds * random.uniform(0.9, 1.0))  # noqa: S311
            pause_seconds = FIRST_RETRY_SECONDS
            while not await self._try("renew", self._renew):
                await self._sleep(pause_seconds * random.uniform(1.0, 1.5))  # noqa: S311
                pause_seconds = min(2 * pause_seconds, self._terms.renew_every_seconds)

    async def _renew(self) -> bool:
        try:
            await self._claim(self._found)
        except Conflict:
            await self._look_who_holds_it()
            return False
        return True

    async def _look_who_holds_it(self) -> None:
        """Ours still if the answer to a renewal got lost, or if somebody else only touched its metadata."""
        self._found = await self._read()
        if self.holder != self._identity:
            self._renewed_at = None
            logger.critical(
                "%s is held by %s now; this process, %s, ends before it writes anything more",
                *(self, self.holder or "nobody", self._identity),
            )
            self._end_process()

    async def release(self) -> None:
        """Give it back, so that the next one need not wait. This process writes nothing after that."""
        if self._renewed_at is None:
            return
        self._renewed_at = None
        released = {key: value for key, value in self._found["spec"].items() if key != "holderIdentity"}
        try:
            await self._leases.update_lease(
                {**self._found, "spec": released}, self._terms.request_timeout_seconds
            )
            logger.info("%s is given back", self)
        except ClusterError as error:
            logger.warning("%s was not given back and expires by itself: %s", self, error)

    # --- both --------------------------------------------------------------------------------------------------

    async def _read(self) -> JsonObject:
        """Read it. Raises ClusterErrors."""
        try:
            return await self._leases.read_lease(
                self._namespace, self._name, self._terms.request_timeout_seconds
            )
        except NotFound as error:
            raise ClusterError(
                f"{self} does not exist. The chart makes it: install or upgrade the release."
            ) from error

    async def _claim(self, found: JsonObject) -> None:
        """Write that it is ours, from the moment on at which the request is sent. Raises ClusterErrors."""
        sent_at = self._clock()
        claimed = claim_lease(found, self._identity, self._terms.duration_seconds, utc_now())
        self._look_at(await self._leases.update_lease(claimed, self._terms.request_timeout_seconds))
        self._renewed_at = sent_at

    async def _try(self, verb: str, action: Callable[[], Awaitable[bool]]) -> bool:
        """Try once; tells what went wrong, and ends a process that has not reached the API server for too long."""
        try:
            done = await action()
        except ClusterError as error:
            silent_seconds = self._clock() - self._answered_at
            self._answering_since = None
            logger.warning("cannot %s %s, trying again: %s", verb, self, error)
            if silent_seconds > LONGEST_SILENCE_SECONDS:
                logger.critical(
                    "the API server was not reached for %.0f s; this process ends", silent_seconds
                )
                self._end_process()
            return False
        self._answered_at = self._clock()
        if self._answering_since is None:
            self._answering_since = self._answered_at
            self.on_contact()
        return done


def claim_lease(found: JsonObject, holder: str, duration_seconds: float, now: datetime) -> JsonObject:
    """The Lease, held by this holder from now on, for so long after each renewal."""
    spec, time = found.get("spec") or {}, now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    changes_hands = _holder(found) != holder
    return {
        **found,
        "spec": {
            **spec,
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(duration_seconds)),
            "acquireTime": time if changes_hands else spec.get("acquireTime", time),
            "renewTime": time,
            "leaseTransitions": spec.get("leaseTransitions", 0) + int(changes_hands),
        },
    }


def _holder(lease: JsonObject) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""


def _duration_seconds(lease: JsonObject) -> float:
    return float((lease.get("spec") or {}).get("leaseDurationSeconds") or 0)
